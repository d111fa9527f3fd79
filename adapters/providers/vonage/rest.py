"""Vonage's REST API, as far as calls and texts need it."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

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
from engine.errors import SettingsError, VendorError, Why
from engine.ports import Ability, Dial, WarmTransfer

MAX_REGIONS: Final = 2000
"""Calls whose regional address is remembered; those of the calls before them go to the address of the settings."""

_TOKEN_S: Final = 300
_SENDER = re.compile(r"[0-9]{3,15}")
"""A number of ours, or a short code."""
_RING_S: Final = (1, 120)
_BEEP_S: Final = 45
_OURS = (".nexmo.com", ".vonage.com")


class VonageRest:
    """One application. Without its id or key it has no abilities. Raises SettingsError for a key of no use."""

    vendor: Final = "vonage"

    def __init__(self, base: str, application_id: str, private_key: str, now: Callable[[], float] = time.time) -> None:
        self.regions: OrderedDict[str, str] = OrderedDict()
        """Call to the address where it lives, of ``MAX_REGIONS`` calls."""
        self._base = base
        self._application_id = application_id
        self._now = now
        # Read once: reading the key takes as long as signing many tokens with it.
        self._key = _read_key(private_key) if private_key else None

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset(Ability) if self._key is not None and self._application_id else frozenset()

    def remember_region(self, call_id: str, region_url: object) -> None:
        """Where a call lives: only there is it known. Anything but an address of Vonage's own is passed over, and all
        of them where another server than Vonage's is to be asked."""
        if not isinstance(region_url, str) or not _region_of(self._base) or not (base := _region_of(region_url)):
            return
        self.regions[call_id] = base
        if len(self.regions) > MAX_REGIONS:
            self.regions.popitem(last=False)

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """A call that is over is a success; without application and key nothing is done. Raises VendorError."""
        if not self.abilities:
            return
        response = await self._update(client, "hang-up", call_id, "", {"action": "hangup"})
        if response.status_code != httpx.codes.NOT_FOUND:
            check(self.vendor, "hang-up", response)

    async def transfer(self, call_id: str, to: str, sender: str, client: httpx.AsyncClient) -> None:
        """By giving the caller's leg another NCCO, which takes it from the conversation with us. Raises VendorError."""
        if not self.abilities:
            raise not_able(self.vendor, "transfer")
        to_sip = is_sip(self.vendor, "transfer", to)
        endpoint = {"type": "sip", "uri": to} if to_sip else {"type": "phone", "number": to.removeprefix("+")}
        connect: dict[str, Any] = {"action": "connect", "endpoint": [endpoint]}
        if ours := sender.removeprefix("+"):
            connect["from"] = ours
        content = {"action": "transfer", "destination": {"type": "ncco", "ncco": [connect]}}
        check(self.vendor, "transfer", await self._update(client, "transfer", call_id, "", content))

    async def introduce(self, call_id: str, wanted: WarmTransfer, client: httpx.AsyncClient) -> None:
        """As ``transfer``; a number's owner hears what ``onAnswer`` says before they are joined, and Vonage asks under
        ``eventUrl`` what is next. Raises VendorError."""
        if not self.abilities:
            raise not_able(self.vendor, "transfer")
        if is_sip(self.vendor, "transfer", wanted.to):
            raise not_able(self.vendor, "a transfer with an announcement to a SIP address")
        query = urlencode({CALL: call_id})
        endpoint = {
            "type": "phone",
            "number": wanted.to.removeprefix("+"),
            "onAnswer": {"url": f"{wanted.webhooks}/vonage/whisper?{query}"},
        }
        connect: dict[str, Any] = {
            "action": "connect",
            "endpoint": [endpoint],
            "timeout": min(max(math.ceil(wanted.ring_s), _RING_S[0]), _RING_S[1]),
            "eventType": "synchronous",
            "eventUrl": [f"{wanted.webhooks}/vonage/transfer?{query}"],
        }
        if ours := wanted.sender.removeprefix("+"):
            connect["from"] = ours
        content = {"action": "transfer", "destination": {"type": "ncco", "ncco": [connect]}}
        check(self.vendor, "transfer", await self._update(client, "transfer", call_id, "", content))

    async def press(self, call_id: str, digits: str, client: httpx.AsyncClient) -> None:
        """Raises VendorError."""
        if not self.abilities:
            raise not_able(self.vendor, "pressing keys")
        check_digits(self.vendor, digits)
        content = {"digits": digits.replace("w", "p")}
        check(self.vendor, "keys", await self._update(client, "keys", call_id, "/dtmf", content))

    async def dial(self, call: Dial, client: httpx.AsyncClient) -> str:
        """The id of the call. Raises VendorError."""
        if not self.abilities:
            raise not_able(self.vendor, "dial")
        check_number(self.vendor, "dial", call.to)
        content: dict[str, Any] = {
            "to": [{"type": "phone", "number": call.to.removeprefix("+")}],
            "from": {"type": "phone", "number": call.sender.removeprefix("+")},
            "answer_url": [marked_outbound(call.answer_url)],
            "answer_method": "POST",
            "event_url": [call.status_url],
            "event_method": "POST",
            "ringing_timer": min(max(math.ceil(call.ring_s), _RING_S[0]), _RING_S[1]),
        }
        if call.detects_machine:
            detection = {"behavior": "continue", "mode": "detect_beep", "beep_timeout": _BEEP_S}
            content["advanced_machine_detection"] = detection
        response = await self._ask(client, "dial", "POST", f"{self._base}/v1/calls", content)
        check(self.vendor, "dial", response)
        return made_id(self.vendor, read_object(response.content), "uuid")

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        """Over the Messages API; a long text as several messages, one after the other. Raises VendorError, perhaps when
        some of them have gone out."""
        if not self.abilities:
            raise VendorError(self.vendor, "no application to send texts with", why=Why.AUTH)
        ours = sender.removeprefix("+")
        if not _SENDER.fullmatch(ours):
            raise VendorError(self.vendor, "text to or from an unusable number", why=Why.BAD_REQUEST)
        check_number(self.vendor, "text", recipient if recipient.startswith("+") else f"+{recipient}")
        for piece in pieces(text):
            theirs = recipient.removeprefix("+")
            message = {"to": theirs, "from": ours, "text": piece, "channel": "sms", "message_type": "text"}
            response = await self._ask(client, "text", "POST", f"{self._base}/v1/messages", message)
            check(self.vendor, "text", response)

    async def _update(
        self, client: httpx.AsyncClient, what: str, call_id: str, part: str, content: Mapping[str, Any]
    ) -> httpx.Response:
        check_id(self.vendor, what, call_id)
        base = self.regions.get(call_id, self._base)
        return await self._ask(client, what, "PUT", f"{base}/v1/calls/{call_id}{part}", content)

    async def _ask(
        self, client: httpx.AsyncClient, what: str, method: str, url: str, content: Mapping[str, Any]
    ) -> httpx.Response:
        """Raises VendorError when there is no answer."""
        headers = {"authorization": f"Bearer {self._application_token()}"}
        return await ask(self.vendor, what, client, method, url, json=content, headers=headers)

    def _application_token(self) -> str:
        if self._key is None:
            raise VendorError(self.vendor, "no private key", why=Why.AUTH)
        issued_at = int(self._now())
        claims = {
            "application_id": self._application_id,
            "iat": issued_at,
            "exp": issued_at + _TOKEN_S,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, self._key, algorithm="RS256")


def _region_of(region_url: str) -> str:
    """Scheme and host of an address of Vonage's; empty for all else: our token would be sent there."""
    try:
        parts = urlsplit(region_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    is_theirs = parts.scheme == "https" and host.endswith(_OURS) and port in (None, 443) and host.isascii()
    return f"https://{host}" if is_theirs and not (parts.username or parts.password) else ""


def _read_key(pem: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):  # its text is not repeated: it could hold the key
        raise SettingsError("VONAGE_PRIVATE_KEY: expected the PEM of an RSA private key") from None
    if not isinstance(key, RSAPrivateKey):
        raise SettingsError("VONAGE_PRIVATE_KEY: expected an RSA key")
    return key
