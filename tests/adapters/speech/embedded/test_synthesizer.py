"""Text to pieces of audio that a line can carry."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from adapters.speech.embedded.synthesizer import PIECE_FRAMES, EmbeddedSynthesizer, phrase_of
from adapters.speech.pieces import split_text
from engine.audio.levels import is_silent
from engine.errors import SpeechFailed
from engine.events import MULAW_8K, PCM16_16K, AudioFormat
from engine.runtime.phrases import PhraseCache
from tests.adapters.speech.conftest import Say


class Mouth:
    """Speaks one frame a letter, and remembers what it was asked for."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.asked: list[str] = []
        self._fails_at = fails_at

    async def speak(self, text: str, line: AudioFormat) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(text)
        if text == self._fails_at:
            raise SpeechFailed("hibari", "the model failed: RuntimeError")
        return bytes(line.frame_bytes) * len(text)


async def spoken(synthesizer: EmbeddedSynthesizer, text: str) -> list[bytes]:
    async with synthesizer.open_speech(text) as audio:
        return [piece async for piece in audio]


async def test_pieces_are_whole_frames_of_half_a_second_at_most() -> None:
    pieces = await spoken(EmbeddedSynthesizer(MULAW_8K, Mouth(), PhraseCache()), "a" * 60)
    assert [len(piece) // MULAW_8K.frame_bytes for piece in pieces] == [PIECE_FRAMES, PIECE_FRAMES, 10]


async def test_the_second_sentence_is_spoken_once_the_first_has_been_taken() -> None:
    """So that a caller who interrupts costs no more than what they heard."""
    mouth = Mouth()
    async with EmbeddedSynthesizer(MULAW_8K, mouth, PhraseCache()).open_speech("First. Second.") as audio:
        await audio.receive()
        await wait_all_tasks_blocked()
        assert mouth.asked == ["First."]
        await audio.receive()
        assert mouth.asked == ["First.", "Second."]
        with pytest.raises(trio.EndOfChannel):
            await audio.receive()


async def test_a_failure_is_raised_where_the_audio_is_received() -> None:
    async with EmbeddedSynthesizer(MULAW_8K, Mouth(fails_at="Two."), PhraseCache()).open_speech("One. Two.") as audio:
        await audio.receive()
        with pytest.raises(SpeechFailed, match="hibari"):
            await audio.receive()


async def test_only_declared_phrases_are_remembered() -> None:
    """What one caller is told of their own affairs is spoken afresh for the next."""
    cache, mouth = PhraseCache(), Mouth()
    cache.put(phrase_of("Hello.", MULAW_8K), b"\xff" * 160, for_good=True)
    synthesizer = EmbeddedSynthesizer(MULAW_8K, mouth, cache)
    for _ in range(2):
        await spoken(synthesizer, "Hello. Your code is 1234.")
    assert mouth.asked == ["Your code is 1234."] * 2
    assert cache.size_bytes == 160


async def test_a_closed_synthesizer_says_nothing_more() -> None:
    synthesizer = EmbeddedSynthesizer(MULAW_8K, Mouth(), PhraseCache())
    synthesizer.close()
    with pytest.raises(SpeechFailed):
        await spoken(synthesizer, "Hello.")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello. How are you?", ["Hello.", "How are you?"]),
        ("Dr. Smith is in. Come at 10 a.m. tomorrow!", ["Dr. Smith is in.", "Come at 10 a.m. tomorrow!"]),
        ("It costs 3.50 pounds", ["It costs 3.50 pounds"]),
        ("  ", []),
        ("One\n\nTwo", ["One", "Two"]),
    ],
)
def test_text_is_cut_at_its_sentences(text: str, pieces: list[str]) -> None:
    assert split_text(text) == pieces


def test_a_long_sentence_is_cut_at_its_commas() -> None:
    """Its first audio does not wait for its last."""
    text = ", ".join(["this is a clause of some thirty characters"] * 5) + "."
    pieces = split_text(text)
    assert len(pieces) == 5
    assert " ".join(pieces) == text


@pytest.mark.parametrize("line", [MULAW_8K, PCM16_16K], ids=["mu-law 8 kHz", "16 kHz"])
def test_the_voice_begins_at_once_and_ends_on_a_frame(say: Say, line: AudioFormat) -> None:
    audio = say("What are your opening hours?", line)
    assert len(audio) % line.frame_bytes == 0
    assert not is_silent(audio[: 3 * line.frame_bytes], line)
    assert 1.0 < line.duration_s(audio) < 2.0


def test_the_same_text_gives_the_same_audio(say: Say, models: object) -> None:
    from adapters.speech.embedded.speech import Models

    assert isinstance(models, Models)
    assert models.voice.speak("Goodbye.", MULAW_8K) == say("Goodbye.")


def test_a_text_without_words_is_no_audio(say: Say) -> None:
    assert say("...") == b""
    assert say("") == b""
