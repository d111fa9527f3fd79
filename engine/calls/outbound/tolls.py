"""Which numbers may be called: what is not allowed is refused, and so is what costs whoever calls it (toll fraud)."""

from __future__ import annotations

from typing import Final

import phonenumbers
from phonenumbers import PhoneNumberType

from engine.settings import OutboundSettings

_REFUSED: Final = {
    PhoneNumberType.PREMIUM_RATE: "a premium number",
    PhoneNumberType.SHARED_COST: "a number of shared cost",
    PhoneNumberType.PERSONAL_NUMBER: "a personal number, which is dear",
    PhoneNumberType.PAGER: "a pager",
    PhoneNumberType.UAN: "a number of shared cost",
    PhoneNumberType.VOICEMAIL: "a voicemail service",
    PhoneNumberType.UNKNOWN: "a number of a range that is not in use",
}


def why_not_to(number: str, settings: OutboundSettings) -> str:
    """Why this number in E.164 may not be called, in a sentence without it; empty if it may."""
    if not settings.allow:
        return "No numbers may be called: outbound.allow is empty."
    if not number.startswith(settings.allow):
        return "The number is not in outbound.allow."
    if settings.deny and number.startswith(settings.deny):
        return "The number is in outbound.deny."
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return "It is not a phone number."
    kind = phonenumbers.number_type(parsed) if phonenumbers.is_valid_number(parsed) else PhoneNumberType.UNKNOWN
    if kind in _REFUSED:
        return f"It is {_REFUSED[kind]}, and those are not called."
    return ""
