"""What the REST clients of all providers share: errors with a reason, and numbers that may stand in a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qsl, urlsplit

import httpx

from adapters.providers.fields import is_id
from engine.errors import VendorError, Why
from engine.runtime.network import failing, retry_after_s, why_of

_E164 = re.compile(r"\+[1-9][0-9]{2,14}")
_SIP = re.compile(r"sips?:[A-Za-z0-9+._~%-]{1,64}@[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(;transport=(udp|tcp|tls))?")
_CODE = re.compile(r"[0-9]{4,6}")
_DIGITS = re.compile(r"[0-9*#w]{1,32}")

OUTBOUND: Final = "direction=outbound"
"""In the query of the answer URL of a call that we make, for providers whose webhook does not tell."""


async def ask(
    vendor: str, what: str, client: httpx.AsyncClient, method: str, url: str, **content: Any
) -> httpx.Response:
    """The answer, whatever its status. Raises VendorError when there is none; ``what`` is a static word for it."""
    try:
        with failing(VendorError, vendor):
            return await client.request(method, url, **content)
    except VendorError as exc:
        raise VendorError(vendor, f"{what} failed ({exc.why})", why=exc.why) from None


def check(vendor: str, what: str, response: httpx.Response) -> None:
    """Raises VendorError for anything but success: the status, and the provider's own number for what went wrong."""
    if not response.is_success:
        raise VendorError(
            vendor,
            f"{what} answered {response.status_code}{_code(response)}",
            why=why_of(response.status_code),
            retry_after_s=retry_after_s(response.headers),
        )


def _code(response: httpx.Response) -> str:
    """Twilio's and SignalWire's, or that of the first of Telnyx' errors. No more of the answer is told: it may quote
    what we sent."""
    try:
        told = response.json()
        code = str(told["code"] if "code" in told else told["errors"][0]["code"])
    except (ValueError, TypeError, LookupError):
        return ""
    return f" (error {code})" if _CODE.fullmatch(code) else ""


def check_id(vendor: str, what: str, call_id: str, is_usable: Callable[[object], TypeGuard[str]] = is_id) -> None:
    """Raises VendorError for what would be another path in a URL."""
    if not is_usable(call_id):
        raise VendorError(vendor, f"{what} of an unusable call id", why=Why.BAD_REQUEST)


def made_id(vendor: str, answer: Mapping[str, Any] | None, name: str) -> str:
    """The id of what was made. Raises VendorError."""
    value: object = answer.get(name) if answer is not None else None
    if not is_id(value):
        raise VendorError(vendor, f"dial answered without a usable {name}", why=Why.NONSENSE)
    return value


def check_number(vendor: str, what: str, number: str) -> None:
    """Raises VendorError for anything but a number in E.164."""
    if not _E164.fullmatch(number):
        raise VendorError(vendor, f"{what} to or from an unusable number", why=Why.BAD_REQUEST)


def is_sip(vendor: str, what: str, to: str) -> bool:
    """A SIP address; False for a number in E.164. Raises VendorError for anything else."""
    kind = destination(to)
    if not kind:
        raise VendorError(vendor, f"{what} to or from an unusable number", why=Why.BAD_REQUEST)
    return kind == "sip"


def destination(to: str) -> str:
    """``sip`` for a SIP address, ``number`` for one in E.164, empty for anything else."""
    if _SIP.fullmatch(to):
        return "sip"
    return "number" if _E164.fullmatch(to) else ""


def check_digits(vendor: str, digits: str) -> None:
    """Raises VendorError for what are no keys of a telephone."""
    if not _DIGITS.fullmatch(digits):
        raise VendorError(vendor, "keys that a telephone does not have", why=Why.BAD_REQUEST)


def not_able(vendor: str, what: str) -> VendorError:
    """The error of something that it is not configured for, or cannot do at all."""
    return VendorError(vendor, f"{what} is not possible", why=Why.BAD_REQUEST)


def marked_outbound(answer_url: str) -> str:
    """The URL with ``OUTBOUND`` in its query."""
    return f"{answer_url}{'&' if urlsplit(answer_url).query else '?'}{OUTBOUND}"


def is_marked_outbound(url: str) -> bool:
    return dict(parse_qsl(urlsplit(url).query)).get("direction") == "outbound"
