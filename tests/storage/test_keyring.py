from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.errors import SettingsError
from engine.storage.keyring import KeyFile, KeyRing, Unreadable, new_key
from tests.storage.saves import KEY_1, KEY_2

PLACE = "message/s_1/e_1"
TEXT = b'{"v":1,"value":"my card is in the other coat"}'


def test_what_was_sealed_opens_in_its_place() -> None:
    ring = KeyRing.parse(KEY_1)
    sealed = ring.seal(TEXT, PLACE)
    assert ring.open(sealed, PLACE) == TEXT
    assert b"coat" not in sealed


@given(st.integers(0, 200), st.integers(1, 255), st.booleans())
def test_no_changed_byte_opens(place: int, change: int, is_encrypting: bool) -> None:
    ring = KeyRing.parse(KEY_1 if is_encrypting else "")
    sealed = bytearray(ring.seal(TEXT, PLACE))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(Unreadable):
        ring.open(bytes(sealed), PLACE)


@pytest.mark.parametrize("keys", ["", KEY_1])
def test_no_flipped_bit_and_no_beginning_of_a_record_opens(keys: str) -> None:
    ring = KeyRing.parse(keys)
    sealed = ring.seal(TEXT, PLACE)
    broken = [sealed[:length] for length in range(len(sealed))]
    for place in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[place] ^= 1 << bit
            broken.append(bytes(flipped))
    for record in broken:
        with pytest.raises(Unreadable):
            ring.open(record, PLACE)


@given(st.binary(max_size=80))
@example(b"")
@example(b"\x01")
@example(b"\x01\xff")
@example(b"\x01\x03one")
@example(b"\x01\x01\xff" + bytes(40))
def test_strange_bytes_are_unreadable_and_nothing_worse(record: bytes) -> None:
    with pytest.raises(Unreadable):
        KeyRing.parse(KEY_1).open(record, PLACE)


@pytest.mark.parametrize("keys", ["", KEY_1])
@pytest.mark.parametrize("elsewhere", ["message/s_1/e_2", "message/s_2/e_1", "head/s_1/e_1", "", f"{PLACE} "])
def test_a_record_moved_to_another_place_does_not_open(keys: str, elsewhere: str) -> None:
    ring = KeyRing.parse(keys)
    with pytest.raises(Unreadable):
        ring.open(ring.seal(TEXT, PLACE), elsewhere)


def test_another_key_under_the_same_id_does_not_open() -> None:
    sealed = KeyRing.parse(KEY_1).seal(TEXT, PLACE)
    imposter = KeyRing.parse("one:" + KEY_2.partition(":")[2])
    with pytest.raises(Unreadable):
        imposter.open(sealed, PLACE)


def test_a_record_does_not_open_under_another_keys_id() -> None:
    """Both ids name the same key: the id is part of what is authenticated."""
    key = KEY_1.partition(":")[2]
    ring = KeyRing.parse(f"one:{key} two:{key}")
    sealed = ring.seal(TEXT, PLACE)
    with pytest.raises(Unreadable):
        ring.open(sealed.replace(b"one", b"two", 1), PLACE)


def test_the_first_key_seals_and_all_open() -> None:
    old, both = KeyRing.parse(KEY_1), KeyRing.parse(f"{KEY_2},\n {KEY_1}")
    sealed = old.seal(TEXT, PLACE)
    assert both.open(sealed, PLACE) == TEXT
    assert not both.is_current(sealed)
    assert both.is_current(both.seal(TEXT, PLACE))
    with pytest.raises(Unreadable):
        old.open(both.seal(TEXT, PLACE), PLACE)


def test_a_plain_record_opens_once_there_are_keys_and_is_not_current() -> None:
    plain = KeyRing.parse("").seal(TEXT, PLACE)
    ring = KeyRing.parse(KEY_1)
    assert ring.open(plain, PLACE) == TEXT
    assert not ring.is_current(plain)


def test_a_sealed_record_is_unreadable_and_not_current_without_keys() -> None:
    sealed = KeyRing.parse(KEY_1).seal(TEXT, PLACE)
    with pytest.raises(Unreadable):
        KeyRing.parse("").open(sealed, PLACE)
    assert not KeyRing.parse("").is_current(sealed)


def test_no_nonce_is_used_twice() -> None:
    ring = KeyRing.parse(KEY_1)
    assert len({ring.seal(TEXT, PLACE) for _ in range(1000)}) == 1000


def test_keys_are_exchanged_in_place() -> None:
    ring = KeyRing.parse(KEY_1)
    sealed = ring.seal(TEXT, PLACE)
    ring.replace(f"{KEY_2} {KEY_1}")
    assert ring.ids == ("two", "one")
    assert ring.open(sealed, PLACE) == TEXT


@pytest.mark.parametrize("text", ["", "  \n", "three:short", f"{KEY_2} x"])
def test_keys_that_cannot_be_used_leave_those_that_are_there(text: str) -> None:
    ring = KeyRing.parse(KEY_1)
    with pytest.raises(SettingsError, match=r"^ENCRYPTION_KEYS: "):
        ring.replace(text)
    assert ring.ids == ("one",)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("secretsecret", 1),
        (f"{KEY_1} two:c2VjcmV0", 2),
        (f"{KEY_1},{KEY_2},three:secret!!!!", 3),
        (f"{KEY_1} :{KEY_2.partition(':')[2]}", 2),
        (f"{KEY_1}\n{KEY_1}", 2),
        ("a/b:" + KEY_1.partition(":")[2], 1),
    ],
)
def test_a_wrong_entry_is_named_by_its_place_and_never_quoted(text: str, place: int) -> None:
    with pytest.raises(SettingsError, match=f"^ENCRYPTION_KEYS: entry {place}: ") as caught:
        KeyRing.parse(text)
    assert not any(
        part.partition(":")[2] in str(caught.value) for part in text.replace(",", " ").split() if ":" in part
    )
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_new_key_can_be_used_and_is_new() -> None:
    first, second = new_key(), new_key()
    ring = KeyRing.parse(f"{first},{second}")
    assert len(ring.ids) == 2
    assert len(base64.b64decode(first.partition(":")[2])) == 32


def test_a_ring_does_not_show_its_keys() -> None:
    ring = KeyRing.parse(KEY_1)
    assert "0123" not in repr(ring)
    assert "one" not in repr(ring)


def test_a_key_file_tells_of_each_change_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    file = KeyFile(path)
    assert file.changed() is None
    path.write_text(f"{KEY_1}\n")
    assert file.changed() == KEY_1
    assert file.changed() is None
    path.write_text(f"{KEY_2} {KEY_1}")
    os.utime(path, ns=(1, 1))
    assert file.changed() == f"{KEY_2} {KEY_1}"
    path.write_bytes(b"\xff\xfe")
    assert file.changed() is None
    path.write_text(KEY_2)
    assert file.changed() == KEY_2
    path.unlink()
    assert file.changed() is None
