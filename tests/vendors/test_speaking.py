"""A voice that outlives its synthesizers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from engine.errors import SpeechFailed, Why
from engine.vendors.speaking import Speaking, open_synthesizer
from tests.fakes.plain_speech import heard_twice, read, speak
from tests.vendors.puppets import CALL, LINE, House, Step, VoiceVendor, failed, pieces

TEXT = "This is a sentence of some forty letters."


@asynccontextmanager
async def speaking(house: House, *vendors: VoiceVendor, is_known: bool = True) -> AsyncIterator[Speaking]:
    """``is_known``: how fast the voices read, which is faster than any real one does."""
    for vendor in vendors if is_known else ():
        house.around.pace(vendor.name).measure(TEXT, LINE.duration_s(speak(TEXT, LINE)))
    async with open_synthesizer(vendors, CALL, house.ledger, house.around) as voice:
        yield voice
    assert voice.is_closed
    assert house.book.open == []
    assert [vendor.open_now for vendor in vendors] == [0] * len(vendors)


async def said(voice: Speaking, text: str = TEXT) -> bytes:
    async with voice.open_speech(text) as audio:
        return b"".join([piece async for piece in audio])


def is_whole(audio: bytes, text: str = TEXT) -> bool:
    """Each word once, in order."""
    utterances = read(audio, LINE)
    return "".join(each.text for each in utterances) == text and not sum(each.lost for each in utterances)


def doubled(audio: bytes, text: str = TEXT) -> int:
    return heard_twice([each.text for each in read(audio, LINE) if not each.lost], text)


async def test_a_sentence_comes_as_it_is_made(autojump_clock: MockClock) -> None:
    house, one = House(), VoiceVendor()
    async with speaking(house, one) as voice:
        assert await said(voice) == speak(TEXT, LINE)
    assert house.requests("one", "tts") == {"ok": 2}  # the connection and the sentence
    assert house.value("tts_characters_total", vendor="one") == len(TEXT)
    assert house.value("speech_audio_seconds_total", vendor="one", kind="tts") == pytest.approx(1.64)


@pytest.mark.parametrize("how", ["fails", "stalls", "fails at once", "is silent"])
async def test_a_sentence_that_breaks_off_is_finished_by_another_try_and_less_than_a_clause_is_heard_twice(
    how: str, autojump_clock: MockClock
) -> None:
    house, one = House(), VoiceVendor()
    scripts: dict[str, Callable[[bytes], Sequence[Step]]] = {
        "fails": lambda audio: [0.1, *pieces(audio)[:4], failed(Why.CUT)],
        "stalls": lambda audio: [0.1, *pieces(audio)[:4], math.inf],
        "fails at once": lambda _: [failed(Why.CUT)],
        "is silent": lambda _: [math.inf],
    }
    one.scripts.append(scripts[how])
    async with speaking(house, one, is_known=False) as voice:
        began_s = trio.current_time()
        assert doubled(await said(voice)) <= 15
        assert trio.current_time() - began_s < 3.5
        assert is_whole(await said(voice))
        assert len(one.parts) == 2
        one.scripts.append(scripts[how])
        assert doubled(await said(voice)) <= 5  # its pace is known
    assert len(one.texts) == 5
    assert len(one.parts) == 3  # a connection that failed is not spoken over again
    reason = "cut" if "fails" in how else "silent"
    assert house.value("vendor_reconnects_total", vendor="one", kind="tts", reason=reason) == 2


async def test_another_voice_says_the_rest_and_stays_for_the_call(autojump_clock: MockClock) -> None:
    house, one, two = House(), VoiceVendor(), VoiceVendor("two")
    one.usual = lambda audio: [0.1, *pieces(audio)[:4], failed(Why.FAILED)]
    async with speaking(house, one, two) as voice:
        assert doubled(await said(voice)) <= 10
        assert is_whole(await said(voice))
    assert one.texts == [TEXT, "of some forty letters."]
    assert two.texts == ["letters.", TEXT]
    assert house.value("vendor_failovers_total", kind="tts", vendor="one") == 1
    assert house.requests("two", "tts") == {"ok": 3}


async def test_a_voice_that_stalls_gives_way_to_the_next_without_a_second_try(autojump_clock: MockClock) -> None:
    house, one, two = House(), VoiceVendor(), VoiceVendor("two")
    one.usual = lambda _: [math.inf]
    async with speaking(house, one, two) as voice:
        began_s = trio.current_time()
        assert is_whole(await said(voice))
        assert trio.current_time() - began_s < 3.0
    assert house.requests("one", "tts") == {"ok": 1, "timeout": 1}


async def test_a_voice_that_falls_behind_its_own_speech_is_replaced(autojump_clock: MockClock) -> None:
    """A third of the speed of speech, in small pieces without a gap to speak of."""
    house, one, two = House(), VoiceVendor(), VoiceVendor("two")
    text = "One sentence that goes on, and on, and on, for nearly five seconds of time, and then it has an end."
    one.usual = lambda audio: [step for piece in pieces(audio, 0.1) for step in (0.3, piece)]
    async with speaking(house, one, two) as voice:
        began_s = trio.current_time()
        assert doubled(await said(voice, text), text) <= 10
        assert trio.current_time() - began_s < 4.0
    assert text.endswith(two.texts[0])


async def test_a_listener_who_takes_long_is_not_the_vendors_fault(autojump_clock: MockClock) -> None:
    house, one = House(), VoiceVendor()
    async with speaking(house, one) as voice, voice.open_speech(TEXT) as audio:
        heard = bytearray()
        async for piece in audio:
            heard += piece
            await trio.sleep(5)
        assert is_whole(bytes(heard))
    assert one.texts == [TEXT]


async def test_a_long_sentence_that_breaks_off_near_its_end_is_finished_too(autojump_clock: MockClock) -> None:
    house, one = House(), VoiceVendor()
    one.scripts.append(lambda audio: [*pieces(audio)[:7], failed(Why.CUT)])
    async with speaking(house, one) as voice, voice.open_speech(TEXT) as audio:
        heard = bytearray()
        async for piece in audio:
            heard += piece
            await trio.sleep(2)
        assert doubled(bytes(heard)) <= 25


async def test_a_sentence_that_nobody_can_say_fails_in_time(autojump_clock: MockClock) -> None:
    house, one, two = House(), VoiceVendor(), VoiceVendor("two")
    one.usual = two.usual = lambda _: [math.inf]
    async with speaking(house, one, two) as voice:
        began_s = trio.current_time()
        with pytest.raises(SpeechFailed):
            await said(voice)
        assert trio.current_time() - began_s <= 6.0
    one, two = VoiceVendor(), VoiceVendor("two", opens=[2.9])
    one.usual, two.usual = (lambda audio: [*pieces(audio)[:2], math.inf]), (lambda _: [math.inf])
    async with speaking(house, one, two) as voice:
        began_s = trio.current_time()
        with pytest.raises(SpeechFailed):
            await said(voice)
        assert 5.9 <= trio.current_time() - began_s <= 6.0, "since its last sound"


async def test_no_audio_for_words_is_a_failure_and_for_a_dash_is_none(autojump_clock: MockClock) -> None:
    house, one, two = House(), VoiceVendor(), VoiceVendor("two")
    one.usual = lambda _: []
    async with speaking(house, one, two) as voice:
        assert await said(voice, "-") == b""
        assert is_whole(await said(voice))
    assert two.texts == [TEXT]


async def test_a_speech_that_nobody_hears_any_more_ends_at_once(autojump_clock: MockClock) -> None:
    house, one = House(), VoiceVendor()
    async with speaking(house, one) as voice:
        async with voice.open_speech(TEXT) as audio:
            await audio.receive()
            began_s = trio.current_time()
        assert trio.current_time() == began_s
        assert is_whole(await said(voice, "Yes?"), "Yes?")
    assert house.requests("one", "tts") == {"ok": 2, "cancelled": 1}


async def test_a_voice_that_opens_with_nobody_there_fails_over(autojump_clock: MockClock) -> None:
    house, one, two = House(), VoiceVendor(opens=[failed(Why.AUTH)]), VoiceVendor("two")
    async with speaking(house, one, two) as voice:
        assert is_whole(await said(voice))
    assert house.book.ever == [("tts_client", "two")]
