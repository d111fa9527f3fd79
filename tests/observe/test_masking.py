"""No number to dial and no key reaches a log; ids, times and measurements do."""

from __future__ import annotations

import datetime
import json
import re
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.observe.masking import mask_field, mask_number, mask_text

CENTURY = datetime.datetime(2000, 1, 1)  # noqa: DTZ001 - hypothesis wants it naive
BRIEF = settings(max_examples=40, deadline=None)


def digits(text: str) -> str:
    return "".join(char for char in text if char.isdecimal())


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("+15551234567", "***4567"),
        ("+1 (555) 123-4567", "***4567"),
        ("5551234", "***1234"),
        ("911", "***"),
        ("client:alice", "***"),
        ("sip:15551234567@example.org", "***"),
        ("+1555123456x", "***"),
        ("٠١٢٣٤٥٦٧٨٩", "***"),
        ("anonymous", "anonymous"),
        ("Restricted", "Restricted"),
        ("", ""),
    ],
)
def test_a_number_keeps_its_last_four_digits_at_most(number: str, masked: str) -> None:
    assert mask_number(number) == masked


@given(st.text(max_size=40))
@BRIEF
def test_whatever_a_stranger_calls_a_number_shows_four_digits_at_most(number: str) -> None:
    masked = mask_number(number)

    assert masked.startswith("***") or masked in {"", number.strip()}
    assert len(digits(masked)) <= 4


@st.composite
def spelled_numbers(draw: st.DrawFn) -> str:
    """A number of 7 to 15 digits as people write it."""
    plain = draw(st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True))
    style = draw(
        st.sampled_from(["+{}", "{}", "00{}", "tel:{}", "sip:{}@example.org", "({})", "<{}>", "_{}_", "ring{}"])
    )
    if style == "00{}":
        plain = plain[:13]
    if style == "ring{}":
        plain = plain.ljust(10, "0")
    grouped = plain
    if draw(st.booleans()) and style != "ring{}":
        groups = re.findall(r"\d{1,3}", plain)
        grouped = draw(st.sampled_from(["-", " ", " - ", "/"])).join(groups)
    return style.format(grouped)


@given(
    spelled_numbers(),
    st.sampled_from(["", "hello ", "caller=", "from: "]),
    st.sampled_from(["", " said hi", ".", "\n"]),
)
@BRIEF
def test_a_number_in_a_text_is_masked_in_any_spelling(number: str, before: str, after: str) -> None:
    masked = mask_text(before + number + after)

    assert len(digits(masked)) <= 4
    assert "***" in masked


@pytest.mark.parametrize("number", ["555.123.4567", "+1.555.123.4567", "call (555) 123-4567", "+49 (0) 30 1234567"])
def test_other_spellings_are_masked_too(number: str) -> None:
    assert mask_text(number).endswith("***4567")


@given(
    st.one_of(
        st.uuids().map(str),
        st.from_regex(r"(CA|MZ|AC|CO)[0-9a-f]{32}", fullmatch=True),
        st.floats(allow_nan=False, min_value=0.001).map(str),
        st.datetimes(CENTURY, CENTURY.replace(year=2099)).map(lambda when: when.isoformat() + "Z"),
        st.ip_addresses(v=4).map(str),
        st.integers(0, 999_999).map(str),
        st.integers(0, 2**64).map(hex),
    )
)
@BRIEF
def test_ids_times_and_measurements_stay(text: str) -> None:
    assert mask_text(f"before {text} after") == f"before {text} after"


@given(st.text(max_size=200))
@BRIEF
def test_masking_twice_changes_no_more_than_once(text: str) -> None:
    once = mask_text(text)

    assert mask_text(once) == once


@given(
    st.dictionaries(st.text(max_size=8), st.recursive(st.text() | st.integers() | st.binary(), st.lists, max_leaves=6))
)
@BRIEF
def test_any_field_becomes_something_json_can_say(fields: dict[str, object]) -> None:
    json.dumps({name: mask_field(name, value) for name, value in fields.items()})


@pytest.mark.parametrize("name", ["token", "api_key", "Authorization", "X-Twilio-Signature", "auth_token", "secret"])
def test_fields_that_hold_secrets_are_hidden(name: str) -> None:
    assert mask_field(name, "hunter2") == "***"
    assert mask_field("headers", {name: "hunter2"}) == {name: "***"}


@pytest.mark.parametrize(
    "text", ["Authorization: Bearer hunter2", "GET /media?token=hunter2&x=1", 'password: "hunter2"']
)
def test_secrets_in_a_text_are_hidden(text: str) -> None:
    masked = mask_text(text)

    assert "hunter2" not in masked
    assert "***" in masked


def test_fields_that_hold_numbers_are_masked_whatever_their_type() -> None:
    assert mask_field("caller", "+15551234567") == "***4567"
    assert mask_field("dialled_number", 15551234567) == "***4567"
    assert mask_field("parameters", {"From": "+15551234567", "CallSid": "CA1"}) == {"From": "***4567", "CallSid": "CA1"}
    assert mask_field("call_id", "15551234567") == "15551234567"


def test_sound_is_told_by_its_size() -> None:
    assert mask_field("audio", b"\xff" * 160) == "<160 bytes>"


def test_a_value_stays_on_its_line_and_drives_no_terminal() -> None:
    assert mask_field("detail", "a\r\n\x1b[31mlevel=critical") == "a\\x0d\\n\\x1b[31mlevel=critical"


def test_a_long_text_is_cut_and_still_masked() -> None:
    cut = mask_text("x " * 1_995 + "+15551234567 " * 100)

    assert len(cut) == 4_000
    assert "5551234567" not in cut
    assert "555" not in cut


def test_nesting_ends_somewhere() -> None:
    nested: object = "deep"
    for _ in range(100_000):
        nested = [nested]

    assert mask_field("detail", nested) == [[[["…"]]]]


def test_an_uuid_of_digits_only_is_still_an_id() -> None:
    text = str(uuid.UUID(int=0x12345678123412341234123456789012))

    assert mask_text(text) == text
