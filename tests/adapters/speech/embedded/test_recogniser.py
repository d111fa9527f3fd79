"""Words from audio as a telephone carries it."""

from __future__ import annotations

import pytest

from adapters.speech.embedded.tokens import Vocabulary
from engine.audio.convert import convert
from engine.events import MULAW_8K, PCM16_8K, PCM16_16K, AudioFormat
from tests.adapters.speech.conftest import Say
from tests.adapters.speech.sounds import hiss, silence, tones

pytest.importorskip("onnxruntime", reason="needs the extra offhook[local]")

from adapters.scripted.spoken import plain
from adapters.speech.embedded.recogniser import MAX_S, without_open_end
from adapters.speech.embedded.speech import Models, transcribe

SENTENCES = [
    "What are your opening hours?",
    "I would like to book an appointment.",
    "Can I speak to a person?",
    "Tomorrow afternoon at three.",
    "Yes, please.",
    "No.",
]


@pytest.mark.parametrize("pitch", [0.85, 1.0, 1.15])
@pytest.mark.parametrize("line", [MULAW_8K, PCM16_16K], ids=["mu-law 8 kHz", "16 kHz"])
def test_sentences_are_recognised_over_the_line(models: Models, say: Say, line: AudioFormat, pitch: float) -> None:
    """Of these 22 words one may be mistaken, and a number written in figures."""
    pause = line.silence(0.2)
    heard = [
        plain(models.recogniser.recognise(pause + say(text, line, pitch) + pause, line)).split() for text in SENTENCES
    ]
    wrong = [set(plain(text).split()) ^ set(words) for text, words in zip(SENTENCES, heard, strict=True)]
    assert sum(map(len, wrong)) <= 4


@pytest.mark.parametrize(
    "sound",
    [silence(2), hiss(2), hiss(2, 4000), tones(697, 1209), tones(50), tones(440, 480, seconds=2), b""],
    ids=["silence", "hiss", "loud hiss", "key", "hum", "ringing", "nothing"],
)
def test_no_words_are_invented_for_a_sound_without_speech(models: Models, sound: bytes) -> None:
    assert models.recogniser.recognise(sound, PCM16_8K) == ""
    assert transcribe(models, sound, PCM16_8K) == ""


@pytest.mark.parametrize("text", ["I need an appointment.", "A check-up.", "Next Tuesday", "Ten thirty"])
def test_audio_cut_soon_after_the_last_word_gives_no_open_end(models: Models, say: Say, text: str) -> None:
    """Turn taking would take it for an unfinished sentence, and wait."""
    for rest_s in (0.0, 0.06, 0.13):
        audio = MULAW_8K.silence(0.2) + say(text) + MULAW_8K.silence(rest_s)
        heard = models.recogniser.recognise(audio, MULAW_8K)
        assert heard.endswith((".", *"abcdefghijklmnopqrstuvwxyz"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I need an appointment,", "I need an appointment"),
        ("A checkup, ", "A checkup"),
        ("Well...", "Well"),
        ("Well\u2026,", "Well"),
        ("Tuesday.", "Tuesday."),
        ("At ten a.m.", "At ten a.m."),
        ("Yes, please?", "Yes, please?"),
    ],
)
def test_only_an_open_end_is_dropped(text: str, kept: str) -> None:
    assert without_open_end(text) == kept


def test_work_that_nobody_wants_stops(models: Models, say: Say) -> None:
    steps = iter([False, False, True, True])
    assert models.recogniser.recognise(say(SENTENCES[0]), MULAW_8K, lambda: next(steps)) == ""


def test_a_long_recording_is_heard_in_stretches(models: Models, say: Say) -> None:
    pause = MULAW_8K.silence(0.7)
    recording = pause + pause.join(say(text) for text in SENTENCES[:4]) + pause
    words = plain(transcribe(models, recording, MULAW_8K)).split()
    assert MULAW_8K.duration_s(recording) > 8
    assert {"opening", "hours", "appointment", "person", "tomorrow", "afternoon"} <= set(words)


def test_one_pass_is_bounded(models: Models, say: Say) -> None:
    """More would hold a worker for seconds."""
    long = say("Can I speak to a person?") * 20
    heard = models.recogniser.recognise(long, MULAW_8K)
    assert len(heard.split()) < MAX_S * 6.5 + 8


def test_mu_law_and_linear_audio_give_the_same_words(models: Models, say: Say) -> None:
    mulaw = say(SENTENCES[0])
    linear = convert(mulaw, MULAW_8K, PCM16_8K)
    assert models.recogniser.recognise(linear, PCM16_8K) == models.recogniser.recognise(mulaw, MULAW_8K)


def test_the_vocabulary_reads_its_table_and_refuses_a_broken_one() -> None:
    table = b"\x01a" * 3 + b"\x06\xe2\x96\x81Hel" + b"\x02lo" + bytes([128 + 4, 1]) + b"x" * 132
    vocabulary = Vocabulary(table)
    assert vocabulary.text([1, 3, 4, 99, 2]) == "Hello"
    assert vocabulary.text([5]) == "x" * 132
    for broken in (b"\x05abc", b"\x80"):
        with pytest.raises(ValueError, match="ends inside"):
            Vocabulary(broken)
