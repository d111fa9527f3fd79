"""Answer documents in XML, which several providers read."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree as ET

from engine.ports import Answer

AGAIN = "again"
"""In the query of the address that a provider asks when the stream of a call has ended."""


def beside(media_url: str, media_path: str, path: str) -> str:
    """The public address of our webhook at ``path``, from that of our media socket."""
    scheme, _, rest = media_url.removesuffix(media_path).partition("://")
    return f"{'http' if scheme == 'ws' else 'https'}://{rest}{path}"


def again_at(webhook_url: str, token: str) -> str:
    """The address to ask after the stream with this token: another one each time, lest it pass for a replay."""
    return f"{webhook_url}?{AGAIN}={hashlib.sha256(token.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def is_again(url: str) -> bool:
    return AGAIN in dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def dismissal() -> Answer:
    """The document that hangs up without a word."""
    response = ET.Element("Response")
    ET.SubElement(response, "Hangup")
    return xml_answer(response)


def xml_answer(root: ET.Element) -> Answer:
    text = '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode")
    return Answer(text.encode(), "text/xml; charset=utf-8")
