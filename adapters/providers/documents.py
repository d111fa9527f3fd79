"""Answer documents in XML, which several providers read."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from engine.ports import Answer


def xml_answer(root: ET.Element) -> Answer:
    text = '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode")
    return Answer(text.encode(), "text/xml; charset=utf-8")
