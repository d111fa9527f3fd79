"""Twilio's REST API, as far as calls and texts need it; SignalWire has the same under another address."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree as ET

import httpx

from adapters.providers.documents import transfer_addresses
from adapters.providers.fields import read_object
from adapters.providers.rest import ask, check, check_id, check_number, is_sip, made_id, not_able
from adapters.providers.texts import pieces
from engine.errors import VendorError, Why
from engine.ports import Ability, Dial, WarmTransfer

_GONE: Final = (20404, 21220)
"""Twilio's error codes for a call that it does not know, or that is over already."""

_ABILITIES: Final = frozenset(
    {
        Ability.HANG_UP,
        Ability.SEND_TEXT,
        Ability.TRANSFER,
        Ability.WARM_TRANSFER,
        Ability.DIAL,
        Ability.DETECT_MACHINE,
    }
)
"""Keys cannot be pressed: for that Twilio would end the media stream."""

_EVENTS: Final = ("initiated", "ringing", "answered", "completed")
_RING_S: Final = (5, 600)


@dataclass(frozen=True, slots=True)
class TwilioRest:
    """One account. Without account or token it has no abilities."""

    vendor: str
    base: str
    """Up to the version: ``https://api.twilio.com``."""
    account_sid: str
    auth_token: str = field(repr=False)
    voice_path: str = "/voice"
    whisper_path: str = "/twilio/whisper"

    @property
    def abilities(self) -> frozenset[Ability]:
        return _ABILITIES if self.account_sid and self.auth_token else frozenset()

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """A call that is over is a success; without account and token nothing is done. Raises VendorError."""
        if not self.abilities:
            return
        check_id(self.vendor, "hang-up", call_id)
        response = await self._post(client, "hang-up", f"Calls/{call_id}.json", {"Status": "completed"})
        if not _is_gone(response):
            check(self.vendor, "hang-up", response)

    async def transfer(self, call_id: str, to: str, sender: str, client: httpx.AsyncClient) -> None:
        """By giving the live call new TwiML, which ends the media stream. Raises VendorError."""
        if not self.abilities:
            raise not_able(self.vendor, "transfer")
        check_id(self.vendor, "transfer", call_id)
        document = _dial_document(to, sender, to_sip=is_sip(self.vendor, "transfer", to))
        response = await self._post(client, "transfer", f"Calls/{call_id}.json", {"Twiml": document})
        check(self.vendor, "transfer", response)

    async def introduce(self, call_id: str, wanted: WarmTransfer, client: httpx.AsyncClient) -> None:
        """As ``transfer``, with an address to ask when somebody has picked up, and one for when it is over. Raises
        VendorError."""
        if not self.abilities:
            raise not_able(self.vendor, "transfer")
        check_id(self.vendor, "transfer", call_id)
        back, whisper = transfer_addresses(
            f"{wanted.webhooks}{self.voice_path}", f"{wanted.webhooks}{self.whisper_path}", call_id
        )
        response = ET.Element("Response")
        more = {"callerId": wanted.sender} if wanted.sender else {}
        timeout = str(math.ceil(wanted.ring_s))
        dial = ET.SubElement(response, "Dial", more, action=back, method="POST", timeout=timeout)
        tag = "Sip" if is_sip(self.vendor, "transfer", wanted.to) else "Number"
        ET.SubElement(dial, tag, url=whisper, method="POST").text = wanted.to
        document = ET.tostring(response, encoding="unicode")
        answer = await self._post(client, "transfer", f"Calls/{call_id}.json", {"Twiml": document})
        check(self.vendor, "transfer", answer)

    async def press(self, call_id: str, digits: str, client: httpx.AsyncClient) -> None:
        """Raises VendorError always: no keys are pressed without ending the media stream."""
        raise not_able(self.vendor, "pressing keys")

    async def dial(self, call: Dial, client: httpx.AsyncClient) -> str:
        """The id of the call. Whether a person answered is told to the status URL while the call goes on already, and
        of a machine once its beep has come. Raises VendorError."""
        if not self.abilities:
            raise not_able(self.vendor, "dial")
        check_number(self.vendor, "dial", call.to)
        form: dict[str, str | Sequence[str]] = {
            "To": call.to,
            "From": call.sender,
            "Url": call.answer_url,
            "Method": "POST",
            "StatusCallback": call.status_url,
            "StatusCallbackEvent": _EVENTS,
            "StatusCallbackMethod": "POST",
            "Timeout": str(min(max(math.ceil(call.ring_s), _RING_S[0]), _RING_S[1])),
        }
        if call.detects_machine:
            form |= {
                "MachineDetection": "DetectMessageEnd",
                "AsyncAmd": "true",
                "AsyncAmdStatusCallback": call.status_url,
                "AsyncAmdStatusCallbackMethod": "POST",
            }
        response = await self._post(client, "dial", "Calls.json", form)
        check(self.vendor, "dial", response)
        return made_id(self.vendor, read_object(response.content), "sid")

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        """A long text as several messages, one after the other. Raises VendorError, perhaps when some of them have gone
        out."""
        if not self.abilities:
            raise VendorError(self.vendor, "no account to send texts with", why=Why.AUTH)
        if not sender or not recipient:
            raise VendorError(self.vendor, "text to or from an unusable number", why=Why.BAD_REQUEST)
        for piece in pieces(text):
            message = {"From": sender, "To": recipient, "Body": piece}
            check(self.vendor, "text", await self._post(client, "text", "Messages.json", message))

    async def _post(
        self, client: httpx.AsyncClient, what: str, resource: str, form: Mapping[str, str | Sequence[str]]
    ) -> httpx.Response:
        """Raises VendorError when there is no answer."""
        url = f"{self.base}/2010-04-01/Accounts/{self.account_sid}/{resource}"
        credentials = httpx.BasicAuth(self.account_sid, self.auth_token)
        return await ask(self.vendor, what, client, "POST", url, data=form, auth=credentials)


def _dial_document(to: str, sender: str, *, to_sip: bool) -> str:
    response = ET.Element("Response")
    dial = ET.SubElement(response, "Dial", {"callerId": sender} if sender else {})
    ET.SubElement(dial, "Sip" if to_sip else "Number").text = to
    return ET.tostring(response, encoding="unicode")


def _is_gone(response: httpx.Response) -> bool:
    error = read_object(response.content)
    return response.is_client_error and error is not None and error.get("code") in _GONE
