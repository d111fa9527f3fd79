"""Plivo's REST API, as far as calls and texts need it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import httpx

from adapters.providers.documents import CALL
from adapters.providers.fields import read_object
from adapters.providers.rest import (
    ask,
    check,
    check_digits,
    check_id,
    check_number,
    is_sip,
    made_id,
    marked_outbound,
    not_able,
)
from adapters.providers.texts import pieces
from engine.errors import VendorError, Why
from engine.ports import Ability, Dial, WarmTransfer

_VENDOR: Final = "plivo"
_RING_S: Final = (1, 120)
_BY_ADDRESS: Final = frozenset({Ability.TRANSFER, Ability.WARM_TRANSFER})


@dataclass(frozen=True, slots=True)
class PlivoRest:
    """One account. Without its id or token it has no abilities; without an address of ours it does not transfer."""

    base: str
    """Up to the version: ``https://api.plivo.com``."""
    auth_id: str
    auth_token: str = field(repr=False)
    transfer_url: str = ""
    """Where Plivo asks what becomes of a call that is transferred: our status webhook."""

    @property
    def abilities(self) -> frozenset[Ability]:
        if not self.auth_id or not self.auth_token:
            return frozenset()
        return frozenset(Ability) if self.transfer_url else frozenset(Ability) - _BY_ADDRESS

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """A call that is over is a success; without id and token nothing is done. Raises VendorError."""
        if not self.abilities:
            return
        check_id(_VENDOR, "hang-up", call_id)
        response = await self._ask(client, "hang-up", "DELETE", f"Call/{call_id}/")
        if response.status_code == httpx.codes.NOT_FOUND:
            # One that still rings is not a call yet, but a request for one.
            response = await self._ask(client, "hang-up", "DELETE", f"Request/{call_id}/")
        if response.status_code != httpx.codes.NOT_FOUND:
            check(_VENDOR, "hang-up", response)

    async def transfer(self, call_id: str, to: str, sender: str, client: httpx.AsyncClient) -> None:
        """Plivo asks under ``transfer_url`` for the document that connects the caller. Raises VendorError."""
        if Ability.TRANSFER not in self.abilities:
            raise not_able(_VENDOR, "transfer")
        check_id(_VENDOR, "transfer", call_id)
        is_sip(_VENDOR, "transfer", to)
        await self._transfer(call_id, {"transfer": to} | ({"sender": sender} if sender else {}), client)

    async def introduce(self, call_id: str, wanted: WarmTransfer, client: httpx.AsyncClient) -> None:
        """As ``transfer``; the document that Plivo asks for names the other addresses. Raises VendorError."""
        if Ability.WARM_TRANSFER not in self.abilities:
            raise not_able(_VENDOR, "transfer")
        check_id(_VENDOR, "transfer", call_id)
        is_sip(_VENDOR, "transfer", wanted.to)
        query = {"transfer": wanted.to} | ({"sender": wanted.sender} if wanted.sender else {})
        await self._transfer(call_id, query | {"ring": str(math.ceil(wanted.ring_s)), CALL: call_id}, client)

    async def _transfer(self, call_id: str, query: Mapping[str, str], client: httpx.AsyncClient) -> None:
        url = f"{self.transfer_url}?{urlencode(query)}"
        content = {"legs": "aleg", "aleg_url": url, "aleg_method": "POST"}
        check(_VENDOR, "transfer", await self._ask(client, "transfer", "POST", f"Call/{call_id}/", content))

    async def press(self, call_id: str, digits: str, client: httpx.AsyncClient) -> None:
        """Raises VendorError."""
        if not self.abilities:
            raise not_able(_VENDOR, "pressing keys")
        check_id(_VENDOR, "keys", call_id)
        check_digits(_VENDOR, digits)
        content = {"digits": digits, "leg": "aleg"}
        check(_VENDOR, "keys", await self._ask(client, "keys", "POST", f"Call/{call_id}/DTMF/", content))

    async def dial(self, call: Dial, client: httpx.AsyncClient) -> str:
        """The id of the request, which is that of the call. Raises VendorError."""
        if not self.abilities:
            raise not_able(_VENDOR, "dial")
        check_number(_VENDOR, "dial", call.to)
        content: dict[str, Any] = {
            "from": call.sender.removeprefix("+"),
            "to": call.to.removeprefix("+"),
            "answer_url": marked_outbound(call.answer_url),
            "answer_method": "POST",
            "ring_url": call.status_url,
            "ring_method": "POST",
            "hangup_url": call.status_url,
            "hangup_method": "POST",
            "ring_timeout": min(max(math.ceil(call.ring_s), _RING_S[0]), _RING_S[1]),
        }
        if call.detects_machine:
            content |= {
                "machine_detection": "true",
                "machine_detection_url": call.status_url,
                "machine_detection_method": "POST",
            }
        response = await self._ask(client, "dial", "POST", "Call/", content)
        check(_VENDOR, "dial", response)
        return made_id(_VENDOR, read_object(response.content), "request_uuid")

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        """A long text as several messages, one after the other. Raises VendorError, perhaps when some of them have gone
        out."""
        if not self.abilities:
            raise VendorError(_VENDOR, "no account to send texts with", why=Why.AUTH)
        if not sender or not recipient:
            raise VendorError(_VENDOR, "text to or from an unusable number", why=Why.BAD_REQUEST)
        ours, theirs = sender.removeprefix("+"), recipient.removeprefix("+")
        for piece in pieces(text):
            message = {"src": ours, "dst": theirs, "text": piece, "type": "sms"}
            check(_VENDOR, "text", await self._ask(client, "text", "POST", "Message/", message))

    async def _ask(
        self, client: httpx.AsyncClient, what: str, method: str, resource: str, content: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        """Raises VendorError when there is no answer."""
        url = f"{self.base}/v1/Account/{self.auth_id}/{resource}"
        credentials = httpx.BasicAuth(self.auth_id, self.auth_token)
        body: dict[str, Any] = {} if content is None else {"json": content}
        return await ask(_VENDOR, what, client, method, url, auth=credentials, **body)
