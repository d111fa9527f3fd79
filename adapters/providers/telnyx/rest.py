"""Telnyx' REST API, version 2, as far as calls and texts need it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from adapters.providers.fields import is_long_id, read_object
from adapters.providers.rest import (
    ask,
    check,
    check_digits,
    check_id,
    check_number,
    is_sip,
    marked_outbound,
    not_able,
)
from adapters.providers.texts import pieces
from engine.errors import VendorError, Why
from engine.ports import Ability, Dial, WarmTransfer

_VENDOR: Final = "telnyx"
_GONE: Final = "90018"
"""Telnyx' error code for a call that is over already."""

_WITH_KEY: Final = frozenset({Ability.HANG_UP, Ability.SEND_TEXT, Ability.TRANSFER, Ability.PRESS_DIGITS})
_WITH_APPLICATION: Final = _WITH_KEY | {Ability.DIAL, Ability.DETECT_MACHINE}
_RING_S: Final = (5, 120)


@dataclass(frozen=True, slots=True)
class TelnyxRest:
    """One account. Without a key it has no abilities; without account and application it does not dial."""

    base: str
    """Up to the version: ``https://api.telnyx.com``."""
    api_key: str = field(repr=False)
    account_sid: str = ""
    application_id: str = ""

    @property
    def abilities(self) -> frozenset[Ability]:
        if not self.api_key:
            return frozenset()
        return _WITH_APPLICATION if self.account_sid and self.application_id else _WITH_KEY

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """A call that is over is a success; without a key nothing is done. Raises VendorError."""
        if not self.abilities:
            return
        response = await self._act(client, "hang-up", call_id, "hangup", {})
        if not _is_gone(response):
            check(_VENDOR, "hang-up", response)

    async def transfer(self, call_id: str, to: str, sender: str, client: httpx.AsyncClient) -> None:
        """Raises VendorError."""
        is_sip(_VENDOR, "transfer", to)
        content = {"to": to} | ({"from": sender} if sender else {})
        check(_VENDOR, "transfer", await self._act(client, "transfer", call_id, "transfer", content))

    async def introduce(self, call_id: str, wanted: WarmTransfer, client: httpx.AsyncClient) -> None:
        """Raises VendorError always: nothing in its documents is said to who picks up alone."""
        raise not_able(_VENDOR, "a transfer with an announcement")

    async def press(self, call_id: str, digits: str, client: httpx.AsyncClient) -> None:
        """Raises VendorError."""
        check_digits(_VENDOR, digits)
        check(_VENDOR, "keys", await self._act(client, "keys", call_id, "send_dtmf", {"digits": digits}))

    async def dial(self, call: Dial, client: httpx.AsyncClient) -> str:
        """The id of the call; empty where the answer tells none, as its documents have it: then the webhooks do. Raises
        VendorError."""
        if Ability.DIAL not in self.abilities:
            raise not_able(_VENDOR, "dial")
        check_number(_VENDOR, "dial", call.to)
        content: dict[str, Any] = {
            "ApplicationSid": self.application_id,
            "To": call.to,
            "From": call.sender,
            "Url": marked_outbound(call.answer_url),
            "UrlMethod": "POST",
            "StatusCallback": call.status_url,
            "StatusCallbackMethod": "POST",
            "StatusCallbackEvent": "initiated ringing answered completed",
            "Timeout": min(max(math.ceil(call.ring_s), _RING_S[0]), _RING_S[1]),
        }
        if call.detects_machine:
            content |= {
                "MachineDetection": "DetectMessageEnd",
                "AsyncAmd": True,
                "AsyncAmdStatusCallback": call.status_url,
                "AsyncAmdStatusCallbackMethod": "POST",
            }
        response = await self._post(client, "dial", f"/v2/texml/Accounts/{self.account_sid}/Calls", content)
        check(_VENDOR, "dial", response)
        answer = read_object(response.content) or {}
        found: object = answer.get("call_sid", answer.get("sid", answer.get("CallSid")))
        return found if is_long_id(found) else ""

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        """A long text as several messages, one after the other. Raises VendorError, perhaps when some of them have gone
        out."""
        if not self.abilities:
            raise VendorError(_VENDOR, "no key to send texts with", why=Why.AUTH)
        if not sender or not recipient:
            raise VendorError(_VENDOR, "text to or from an unusable number", why=Why.BAD_REQUEST)
        for piece in pieces(text):
            message = {"from": sender, "to": recipient, "text": piece}
            check(_VENDOR, "text", await self._post(client, "text", "/v2/messages", message))

    async def _act(
        self, client: httpx.AsyncClient, what: str, call_id: str, action: str, content: Mapping[str, Any]
    ) -> httpx.Response:
        if not self.abilities:
            raise not_able(_VENDOR, what)
        check_id(_VENDOR, what, call_id, is_long_id)
        return await self._post(client, what, f"/v2/calls/{call_id}/actions/{action}", content)

    async def _post(
        self, client: httpx.AsyncClient, what: str, path: str, content: Mapping[str, Any]
    ) -> httpx.Response:
        """Raises VendorError when there is no answer."""
        headers = {"authorization": f"Bearer {self.api_key}"}
        return await ask(_VENDOR, what, client, "POST", f"{self.base}{path}", json=content, headers=headers)


def _is_gone(response: httpx.Response) -> bool:
    if response.status_code == httpx.codes.NOT_FOUND:
        return True
    answer = read_object(response.content) if response.is_client_error else None
    errors = answer.get("errors") if answer is not None else None
    return isinstance(errors, list) and any(isinstance(e, dict) and str(e.get("code")) == _GONE for e in errors)
