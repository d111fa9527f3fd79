"""A phrase that is said again is not made again, and nothing else is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SpeechFailed
from engine.events import MULAW_8K, PCM16_16K, AudioFormat, CallInfo
from engine.ports import Owner, Synthesizer
from engine.runtime.ledger import Ledger
from engine.runtime.phrases import Phrase, PhraseCache
from engine.vendors.phrases import CachedVendor, Keeping, cached
from tests.contract.synthesizers import Book
from tests.fakes.plain_speech import speak, words


class Mouth:
    """Speaks plain speech in pieces of a tenth of a second, and counts what it was asked for."""

    is_closed = False

    def __init__(self, line: AudioFormat = MULAW_8K) -> None:
        self.asked: list[str] = []
        self.fails_after: int | None = None
        self._line = line

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        self.asked.append(text)
        audio = speak(text, self._line) if text else b""
        size = 5 * self._line.frame_bytes
        pieces = [audio[at : at + size] for at in range(0, len(audio), size)]
        yield _Channel(pieces, self.fails_after)


class _Channel(trio.abc.ReceiveChannel[bytes]):
    def __init__(self, pieces: list[bytes], fails_after: int | None) -> None:
        self._pieces = iter(pieces if fails_after is None else pieces[:fails_after])
        self._fails = fails_after is not None

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for piece in self._pieces:
            return piece
        if self._fails:
            raise SpeechFailed("mouth", "closed the connection")
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def a_call(call_id: str = "one", line: AudioFormat = MULAW_8K) -> CallInfo:
    return CallInfo("twilio", call_id, "s", line, "desk")


def keeping(*known: str, cache: PhraseCache | None = None, voice: str = "v") -> Keeping:
    """``known``: what was said in another call before."""
    keep = Keeping(PhraseCache() if cache is None else cache, "mouth", voice)
    for text in known:
        for line in (MULAW_8K, PCM16_16K):
            keep.cache.was_said_elsewhere(keep.phrase(text, line), "before")
    return keep


async def heard(synthesizer: Synthesizer, text: str) -> str:
    async with synthesizer.open_speech(text) as speech:
        return words(b"".join([piece async for piece in speech]), MULAW_8K)


async def test_a_phrase_is_made_once_however_it_is_spaced() -> None:
    mouth = Mouth()
    synthesizer = cached(mouth, keeping("How may I help you?"), a_call())
    for text in ("How may I help you?", " How may I  help you? ", "How may I\nhelp you?"):
        assert await heard(synthesizer, text) == "How may I help you?"
    assert len(mouth.asked) == 1


async def test_another_sentence_is_kept_when_it_is_said_in_another_call() -> None:
    """What is said to one caller alone, however often, leaves no trace but its hash."""
    mouth, keep = Mouth(), keeping()
    one, two = (cached(mouth, keep, a_call(call_id)) for call_id in ("one", "two"))
    for synthesizer in (one, one, two, two, one):
        assert await heard(synthesizer, "One moment, please.") == "One moment, please."
    assert len(mouth.asked) == 3
    for _ in range(3):
        await heard(one, "Your dog is well again, Mr Smith.")
    assert len(keep.cache) == 1


@pytest.mark.parametrize("text", ["Your code is 1234.", "long " * 40])
async def test_numbers_and_long_texts_are_not_kept(text: str) -> None:
    mouth, keep = Mouth(), keeping()
    synthesizer = cached(mouth, keep, a_call())
    for _ in range(3):
        await heard(synthesizer, text)
    assert len(mouth.asked) == 3
    assert len(keep.cache) == 0


async def test_a_phrase_that_lasts_too_long_is_not_kept() -> None:
    class Slow(Mouth):
        @asynccontextmanager
        async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
            yield _Channel([speak(text, MULAW_8K)] * 20, None)

    text = "A sentence that lasts for a second."
    keep = keeping(text)
    await heard(cached(Slow(), keep, a_call()), text)
    assert keep.cache.size_bytes == 0


async def test_only_whole_speeches_are_kept() -> None:
    mouth, keep = Mouth(), keeping("Welcome to the house of many telephones.")
    synthesizer = cached(mouth, keep, a_call())
    text = "Welcome to the house of many telephones."
    async with synthesizer.open_speech(text) as speech:
        await speech.receive()
    mouth.fails_after = 2
    with pytest.raises(SpeechFailed):
        await heard(synthesizer, text)
    assert len(keep.cache) == 0
    mouth.fails_after = None
    assert await heard(synthesizer, text) == text
    assert len(keep.cache) == 1


async def test_a_speech_without_a_sound_is_not_kept() -> None:
    keep = keeping("")
    await heard(cached(Mouth(), keep, a_call()), "")
    assert len(keep.cache) == 0


async def test_voices_vendors_and_formats_are_kept_apart() -> None:
    cache = PhraseCache()
    mouth = Mouth()
    for voice in ("a", "b", "a"):
        await heard(cached(mouth, keeping("Hello.", cache=cache, voice=voice), a_call()), "Hello.")
    assert len(mouth.asked) == 2
    wide = Mouth(PCM16_16K)
    async with cached(wide, keeping("Hello.", cache=cache, voice="a"), a_call(line=PCM16_16K)).open_speech(
        "Hello."
    ) as speech:
        assert words(b"".join([piece async for piece in speech]), PCM16_16K) == "Hello."
    assert wide.asked == ["Hello."]


async def test_what_is_played_again_comes_in_pieces_of_whole_frames() -> None:
    keep = keeping("Hello. " * 10)
    synthesizer = cached(Mouth(), keep, a_call())
    await heard(synthesizer, "Hello. " * 10)
    async with synthesizer.open_speech("Hello. " * 10) as speech:
        pieces = [piece async for piece in speech]
    assert [len(piece) for piece in pieces[:-1]] == [4000] * (len(pieces) - 1)
    assert len(pieces[-1]) % MULAW_8K.frame_bytes == 0


async def test_a_closed_synthesizer_plays_nothing_from_the_cache_either() -> None:
    mouth = Mouth()
    synthesizer = cached(mouth, keeping("Hello."), a_call())
    await heard(synthesizer, "Hello.")
    mouth.is_closed = True
    await heard(synthesizer, "Hello.")
    assert synthesizer.is_closed
    assert len(mouth.asked) == 2, "the closed one is asked, and says so itself"


async def test_a_vendor_with_a_cache_shares_it_between_calls() -> None:
    class Vendor:
        name = "mouth"
        mouths: list[Mouth] = []  # noqa: RUF012 - of this test alone

        @asynccontextmanager
        async def open(self, call: CallInfo, owner: Owner) -> AsyncIterator[Synthesizer]:
            self.mouths.append(Mouth(call.format))
            yield self.mouths[-1]

    vendor = CachedVendor(Vendor(), keeping("Hello."))
    for number in range(3):
        call = CallInfo("twilio", f"CA{number}", "MZ1", MULAW_8K, "desk")
        async with vendor.open(call, Ledger(call.call_id, Book())) as synthesizer:
            assert await heard(synthesizer, "Hello.") == "Hello."
    assert [mouth.asked for mouth in Vendor.mouths] == [["Hello."], [], []]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 700), st.sampled_from("pgk")), max_size=60))
def test_the_cache_never_holds_more_than_its_limit_and_what_is_there_for_good_stays(
    steps: list[tuple[str, int, str]],
) -> None:
    cache = PhraseCache(limit_bytes=1000)
    last: dict[str, bytes] = {}
    kept: dict[str, bytes] = {}
    for text, size, step in steps:
        phrase, clip = Phrase("mouth", "v", MULAW_8K, text), bytes([size % 256]) * size
        if step == "g":
            assert cache.get(phrase) in (None, last.get(text))
        elif cache.put(phrase, clip, for_good=step == "k") and text not in kept:
            last[text] = clip
            if step == "k":
                kept[text] = clip
        assert 0 <= cache.size_bytes <= 1000
        assert all(cache.get(Phrase("mouth", "v", MULAW_8K, name)) == clip for name, clip in kept.items())
    clips = [cache.get(Phrase("mouth", "v", MULAW_8K, text)) for text in "abcdef"]
    assert sum(map(len, filter(None, clips))) == cache.size_bytes


def test_what_was_asked_for_last_stays() -> None:
    cache = PhraseCache(limit_bytes=1000)
    one, two, three = (Phrase("mouth", "v", MULAW_8K, text) for text in ("1", "2", "3"))
    cache.put(one, bytes(400))
    cache.put(two, bytes(400))
    assert cache.get(one)
    cache.put(three, bytes(400))
    assert cache.get(two) is None
    assert cache.get(one)
