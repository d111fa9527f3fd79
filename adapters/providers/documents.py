"""Answer documents in XML, which several providers read."""

from __future__ import annotations

import hashlib
import secrets
from typing import ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree import ElementTree as ET

from adapters.providers.fields import is_long_id, printable
from engine.errors import BadRequest
from engine.ports import Answer, Relay, WebhookRequest

CALL = "call"
"""In the query of an address: the call that it is about."""
AGAIN = "again"
"""In the query of the address that a provider asks when the stream of a call has ended."""


class XmlAnswers:
    """The answers of a ``Provider`` that are much the same for all who read XML."""

    verb: ClassVar[str] = "Say"
    """The element with what the provider is to say in its own voice."""

    def refuse(self, sentence: str) -> Answer:
        return spoken(sentence, self.verb, hangs_up=True)

    def whispered_of(self, request: WebhookRequest) -> str:
        return call_in(request.url)

    def whisper(self, text: str) -> Answer:
        return spoken(text, self.verb)

    def dismiss(self) -> Answer:
        """Hangs up without a word."""
        response = ET.Element("Response")
        ET.SubElement(response, "Hangup")
        return xml_answer(response)

    def acknowledge(self, request: WebhookRequest) -> Answer:
        return xml_answer(ET.Element("Response"))

    @property
    def relay(self) -> Relay | None:
        return None


def beside(media_url: str, media_path: str, path: str) -> str:
    """The public address of our webhook at ``path``, from that of our media socket."""
    scheme, _, rest = media_url.removesuffix(media_path).partition("://")
    return f"{'http' if scheme == 'ws' else 'https'}://{rest}{path}"


def again_at(webhook_url: str, token: str) -> str:
    """The address to ask after the stream with this token: another one each time, lest it pass for a replay."""
    return f"{webhook_url}?{AGAIN}={hashlib.sha256(token.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def say(response: ET.Element, text: str, verb: str = "Say") -> None:
    """In the provider's own voice; nothing for no text."""
    if text:
        ET.SubElement(response, verb).text = printable(text)


def spoken(text: str, verb: str = "Say", *, hangs_up: bool = False) -> Answer:
    """The document that says this."""
    response = ET.Element("Response")
    ET.SubElement(response, verb).text = printable(text)
    if hangs_up:
        ET.SubElement(response, "Hangup")
    return xml_answer(response)


def ask_again(response: ET.Element, webhook_url: str, token: str) -> None:
    """What the call goes on with once the stream before it has ended: asking us what is to become of the caller."""
    ET.SubElement(response, "Redirect", method="POST").text = printable(again_at(webhook_url, token))


def transfer_addresses(voice_url: str, whisper_url: str, call_id: str) -> tuple[str, str]:
    """What is asked when a transfer is over, however, and when somebody has picked up."""
    return f"{voice_url}?{AGAIN}={secrets.token_hex(8)}", f"{whisper_url}?{urlencode({CALL: call_id})}"


def call_in(url: str) -> str:
    """The call that an address of ours is about. Raises BadRequest."""
    found = dict(parse_qsl(urlsplit(url).query)).get(CALL)
    if not is_long_id(found):
        raise BadRequest(CALL)
    return found


def is_again(url: str) -> bool:
    return AGAIN in dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def xml_answer(root: ET.Element) -> Answer:
    text = '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode")
    return Answer(text.encode(), "text/xml; charset=utf-8")
