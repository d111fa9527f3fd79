"""SMS as such: what is readable, and how a long answer is cut."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.texts import MAX_CHARS, MAX_PIECES, pieces, readable, received


def test_lines_and_emoji_stay_and_what_nobody_can_see_goes() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert readable(f"one\r\ntwo\rthree\t{family}\n") == f"one\ntwo\nthree\t{family}"
    assert readable("a\0b\x1b[2Jc\u202ed\ud800e\ufefff") == "a b [2Jc d e f"


def test_a_text_of_a_stranger_is_cut_at_its_limit() -> None:
    assert received("x" * 100_000) == "x" * MAX_CHARS
    assert received("\0" * 100_000) == ""


def test_a_short_answer_is_one_piece_and_none_is_no_piece() -> None:
    assert pieces("Hello there. ") == ["Hello there."]
    assert pieces("x" * MAX_CHARS) == ["x" * MAX_CHARS]
    assert pieces(" \r\n\0") == []


def test_a_long_answer_is_cut_between_words_and_loses_none() -> None:
    words = [f"word{number}" for number in range(700)]
    parts = pieces(" ".join(words))
    assert len(parts) == 4
    assert all(len(part) <= MAX_CHARS for part in parts)
    assert " ".join(parts).split() == words


def test_a_word_without_an_end_is_cut_where_the_piece_is_full() -> None:
    assert pieces("x" * (MAX_CHARS + 10)) == ["x" * MAX_CHARS, "x" * 10]
    assert pieces("a " + "x" * (2 * MAX_CHARS))[0] == "a " + "x" * (MAX_CHARS - 2)


def test_an_answer_that_will_not_end_is_ended_with_an_ellipsis() -> None:
    parts = pieces("word " * 10_000)
    assert len(parts) == MAX_PIECES
    assert parts[-1].endswith("word…")
    assert not any(part.endswith("…") for part in parts[:-1])
    assert pieces("x" * 10_000)[-1] == "x" * (MAX_CHARS - 1) + "…"


@given(
    text=st.text(st.sampled_from(["a", " ", "\n", "ä", "\U0001f600", "\0", "\u202e"]), max_size=200),
    times=st.integers(1, 60),
)
@settings(deadline=None)
def test_any_answer_fits_and_can_stand_in_a_document(text: str, times: int) -> None:
    for part in pieces(text * times):
        assert 0 < len(part) <= MAX_CHARS
        element = ET.Element("Message")
        element.text = part
        assert ET.fromstring(ET.tostring(element)).text == part
