"""Whose session it is: phone numbers in one spelling, and the keys that sessions are found by."""

from __future__ import annotations

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberFormat, ValidationResult

WITHHELD = frozenset(
    {"anonymous", "restricted", "unavailable", "unknown", "private", "withheld", "blocked", "asserted", "null", "none"}
)
"""What providers write instead of a number."""
PLACEHOLDERS = frozenset({"266696687", "7378742833", "2562533", "8566", "464", "86282452253"})
"""The same on a keypad, as some providers send it: ANONYMOUS, RESTRICTED, BLOCKED, +UNK, +INF, UNAVAILABLE."""
MAX_CHARS = 40


def e164(number: str, default_region: str) -> str:
    """The number as ``+15550100000``, or empty if it is none: withheld, nonsense, an address.

    ``default_region`` (``US``, ``GB``, ...) is what a number without a country code is read in. Two spellings of one
    number give the same; two numbers never do.
    """
    text = number.strip()
    if not text or len(text) > MAX_CHARS or text.lower() in WITHHELD:
        return ""
    if any(mark in text for mark in ("@", ":")) or any(character.isalpha() for character in text):
        return ""
    if "".join(filter(str.isdigit, text)) in PLACEHOLDERS:
        return ""
    candidates = [text] if text.startswith("+") else [text, f"+{text}"]
    if text.startswith("00"):
        candidates.append(f"+{text[2:]}")
    for candidate in candidates:
        try:
            parsed = phonenumbers.parse(candidate, default_region)
        except phonenumbers.NumberParseException:
            continue
        number = phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
        if _is_whole(parsed) and _reads_as_itself(number):
            return number
    return ""


def _is_whole(number: PhoneNumber) -> bool:
    """One line in the world: not a number that several people have within their own town or company."""
    is_possible = phonenumbers.is_possible_number_with_reason(number) == ValidationResult.IS_POSSIBLE
    return is_possible and number.national_number != 0 and not number.extension


def _reads_as_itself(number: str) -> bool:
    """Noughts at its front would be lost the next time it is read, and it would be another one then."""
    return phonenumbers.format_number(phonenumbers.parse(number), PhoneNumberFormat.E164) == number


def caller_key(number: str) -> str:
    """For a number in E.164."""
    return f"caller:{number}"


def stream_key(stream_id: str) -> str:
    return f"stream:{stream_id}"
