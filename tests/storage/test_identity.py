"""Spellings of a number meet one session, different numbers never do, and nobody has none (FAULTS 82, 87)."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat

from engine.storage.identity import MAX_CHARS, PLACEHOLDERS, WITHHELD, caller_key, e164, stream_key

REGIONS = ["US", "GB", "DE", "IT", "BR", "AR", "MX", "IN", "AU", "FR", "JP", "ZA", "SG"]
ABROAD = {"US": "011", "GB": "00", "DE": "00", "IT": "00", "FR": "00", "IN": "00", "ZA": "00"}
"""What is dialled before a number of another country."""


def example_of(region: str, kind: int) -> phonenumbers.PhoneNumber:
    number = phonenumbers.example_number_for_type(region, kind)
    assert number is not None
    return number


@st.composite
def numbers(draw: st.DrawFn) -> phonenumbers.PhoneNumber:
    """Real-looking ones: an example of a region with its last digits changed."""
    region = draw(st.sampled_from(REGIONS))
    kind = draw(st.sampled_from([phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE]))
    number = phonenumbers.PhoneNumber()
    number.merge_from(example_of(region, kind))
    assert number.national_number is not None
    number.national_number += draw(st.integers(0, 9999)) - number.national_number % 10_000
    return number


def as_e164(number: phonenumbers.PhoneNumber) -> str:
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def spread(digits: str, separators: list[str]) -> str:
    return "".join(digit + separators[at % len(separators)] for at, digit in enumerate(digits))


@given(numbers(), st.sampled_from(REGIONS), st.lists(st.sampled_from(["", "", " ", "-", "."]), min_size=7, max_size=7))
def test_every_spelling_with_a_country_code_is_one_number(
    number: phonenumbers.PhoneNumber, region: str, separators: list[str]
) -> None:
    plain = as_e164(number)
    digits = plain[1:]
    spellings = [
        plain,
        f" {plain}\n",
        phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL),
        "+" + spread(digits, separators)[:30],
        f"+{number.country_code} ({digits[len(str(number.country_code)) :]})",
        "+" + "".join(chr(ord("\uff10") + int(digit)) for digit in digits),
    ]
    if region in ABROAD and phonenumbers.country_code_for_region(region) != number.country_code:
        spellings.append(f"{ABROAD[region]} {digits}")
    assert {e164(spelling, region) for spelling in spellings} == {plain}


@given(numbers())
def test_a_number_as_it_is_dialled_at_home_is_the_same_as_from_abroad(number: phonenumbers.PhoneNumber) -> None:
    region = phonenumbers.region_code_for_country_code(number.country_code or 0)
    home = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
    assert e164(home, region) == as_e164(number)


@pytest.mark.parametrize(
    "spelling",
    [
        "5550100000",
        "555-010-0000",
        "(555) 010-0000",
        "555.010.0000",
        "1 555 010 0000",
        "15550100000",
        "+1 (555) 010-0000",
        "001 555 010 0000",
        "+1-555-010-0000",
        "\u200e+1 555\u00a0010 0000",
    ],
)
def test_ten_digits_are_a_number_of_the_default_region(spelling: str) -> None:
    assert e164(spelling, "US") == "+15550100000"


def digits_of(text: str) -> str:
    return "".join(str(int(char)) for char in text if char.isdecimal())


@given(
    st.one_of(
        st.text(max_size=MAX_CHARS + 5),
        st.text(st.sampled_from("0123456789+() -./;,x#*\u0660\uff11"), max_size=20),
        st.from_regex(r"\+?[0-9]{7,15}", fullmatch=True),
    ),
    st.sampled_from([*REGIONS, "", "nowhere"]),
)
@example("+49000001", "US")
def test_whatever_is_read_as_a_number_ends_in_its_own_digits_and_is_read_so_again(text: str, region: str) -> None:
    number = e164(text, region)
    if not number:
        return
    # So two texts with other last digits never meet. The front may gain a country code and lose what is dialled first.
    national = number[1 + len(str(phonenumbers.parse(number).country_code)) :]
    assert digits_of(text).endswith(national[-6:])
    for again in (region, "US", "DE"):
        assert e164(number, again) == number


@given(numbers(), numbers())
def test_different_numbers_never_meet(one: phonenumbers.PhoneNumber, other: phonenumbers.PhoneNumber) -> None:
    is_same = as_e164(one) == as_e164(other)
    for region in ("US", "DE"):
        keys = {
            caller_key(e164(phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL), region))
            for number in (one, other)
        }
        assert len(keys) == (1 if is_same else 2)


@pytest.mark.parametrize(
    "text",
    [
        *sorted(WITHHELD),
        *(f"+{digits}" for digits in sorted(PLACEHOLDERS)),
        "",
        "   ",
        "Anonymous",
        "ANONYMOUS ",
        "client:bob",
        "sip:+15550100000@example.com",
        "+15550100000@example.com",
        "tel:+15550100000",
        "+1",
        "+",
        "911",
        "0000000000",
        "+10000000000",
        "+15550100000;ext=5",
        "+15550100000 ext 5",
        "OFFHOOK",
        "1-800-FLOWERS",
        "+1555010000000000000000000000000000000000000",
        "+999123456789",
    ],
)
@pytest.mark.parametrize("region", ["US", "GB", "DE"])
def test_what_is_no_number_is_nobody(text: str, region: str) -> None:
    assert e164(text, region) == ""


def test_a_number_that_many_have_within_their_own_town_is_nobodys() -> None:
    assert e164("5550100", "US") == ""
    assert e164("+5550100", "US") == ""


def test_a_stream_is_never_taken_for_a_caller() -> None:
    assert stream_key("+15550100000") != caller_key("+15550100000")
