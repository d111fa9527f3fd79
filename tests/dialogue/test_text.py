"""Sentences, what was heard of them, and the history they end up in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dialogue.heard import Spoken, heard_text, unheard
from engine.dialogue.sentences import MAX_CHARS, SentenceSplitter


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello there. How are you? ", ["Hello there.", "How are you?"]),
        ("Dr. Smith is in at 3.5 p.m. on Monday. Good. ", ["Dr. Smith is in at 3.5 p.m. on Monday.", "Good."]),
        ('He said "no." Then left. ', ['He said "no."', "Then left."]),
        ("One\nTwo", ["One", "Two"]),
        ("", []),
    ],
)
def test_text_is_cut_at_the_ends_of_sentences(text: str, sentences: list[str]) -> None:
    splitter = SentenceSplitter()
    assert splitter.feed(text) + splitter.flush() == sentences


@given(st.lists(st.text(max_size=30), max_size=20))
def test_no_letter_is_lost_however_the_text_is_cut_into_pieces(pieces: list[str]) -> None:
    splitter = SentenceSplitter()
    said = [sentence for piece in pieces for sentence in splitter.feed(piece)] + splitter.flush()
    assert "".join("".join(said).split()) == "".join("".join(pieces).split())


def test_a_sentence_without_end_is_cut_so_that_its_speech_can_start() -> None:
    splitter = SentenceSplitter()
    assert all(len(sentence) <= MAX_CHARS for sentence in splitter.feed("word " * 500))


def test_only_whole_words_count_as_heard() -> None:
    spoken = [Spoken("We open at nine.", 2.0, is_whole=True), Spoken("We close at five.", 2.0, is_whole=True)]
    assert heard_text(spoken, 4.0) == "We open at nine. We close at five."
    assert heard_text(spoken, 3.0) == "We open at nine. We close"
    assert heard_text(spoken, 0.1) == ""
    assert heard_text(spoken, 0.0) == ""


def test_a_sentence_whose_audio_is_still_coming_is_not_taken_for_whole() -> None:
    assert heard_text([Spoken("A sentence of about forty-five characters now.", 1.0)], 1.0) == "A sentence of"


def test_what_was_not_heard_to_its_end_is_what_would_be_said_again() -> None:
    spoken = [Spoken("One.", 1.0, is_whole=True), Spoken("Two.", 1.0, is_whole=True), Spoken("Three.", 1.0, True)]
    assert unheard(spoken, 1.5) == ["Two.", "Three."]
    assert unheard(spoken, 3.0) == []


def test_a_book_without_a_full_stop_is_cut_as_it_comes() -> None:
    splitter = SentenceSplitter()
    said = [*splitter.feed("word " * 200_000 + "x" * 1_000), *splitter.flush()]
    assert max(map(len, said)) <= MAX_CHARS
    assert "".join(said).replace(" ", "") == "word" * 200_000 + "x" * 1_000
