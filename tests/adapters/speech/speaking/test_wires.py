"""The rules of each wire of a synthesizer: ids, clears, limits, errors, and what a stranger may send."""

from __future__ import annotations

import math
from contextlib import suppress

import orjson
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from adapters.speech.pieces import split_long
from adapters.speech.speaking.aura import AuraWire
from adapters.speech.speaking.cartesia import CartesiaConfig, CartesiaWire
from adapters.speech.speaking.elevenlabs_wires import ContextsWire, OneTextWire
from adapters.speech.speaking.socket_voice import Over, SpeechWire
from adapters.speech.speaking.takes import Speech, Take
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import MULAW_8K
from tests.contract.synthesizers import bench_of, heard, kind_named
from tests.fakes.clouds.aura import Aura
from tests.fakes.clouds.voicebox import Voicebox
from tests.fakes.plain_speech import speak, words

Clock = trio.testing.MockClock
CONTEXTS = kind_named("elevenlabs multi-stream-input")
CARTESIA = kind_named("cartesia")
AURA = kind_named("aura")
MINUTE = " ".join(f"This is sentence {number}." for number in range(75))


# --- the rules of the wires -------------------------------------------------------------------------------------


async def test_contexts_of_which_nobody_hears_are_never_too_many(autojump_clock: Clock) -> None:
    """ElevenLabs speaks what was cut off to its end and closes the socket over a sixth context."""
    async with bench_of(CONTEXTS) as bench:
        bench.cloud.voicebox = Voicebox(speed=1.0)
        async with bench.synthesizer() as synthesizer:
            for _ in range(20):
                async with synthesizer.open_speech(MINUTE) as speech:
                    await speech.receive()
            assert words(await heard(synthesizer, "I am here."), bench.line) == "I am here."
            assert bench.cloud.sockets_ever > 1
            await trio.sleep(2)
            assert bench.cloud.sockets_open == 1
        await bench.all_closed()


async def test_a_socket_that_was_replaced_in_use_is_closed_when_it_has_spoken(autojump_clock: Clock) -> None:
    """Though by then it could have gone on: the contexts that nobody heard were over in the meantime."""
    async with bench_of(CONTEXTS) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(speed=5.0)
        for _ in range(3):
            async with synthesizer.open_speech("Cut off after its first words, all of them.") as speech:
                await speech.receive()
        assert words(await heard(synthesizer, MINUTE), bench.line) == MINUTE
        await trio.sleep(2)
        assert (bench.cloud.sockets_open, bench.cloud.sockets_ever) == (1, 2)
        assert words(await heard(synthesizer, "Yes."), bench.line) == "Yes."


async def test_aura_flushes_no_more_often_than_it_may(autojump_clock: Clock) -> None:
    """Twenty a minute on one socket; the next is on another."""
    async with bench_of(AURA) as bench:
        bench.cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0)
        async with bench.synthesizer() as synthesizer:
            for number in range(50):
                assert words(await heard(synthesizer, f"Sentence {number}."), bench.line) == f"Sentence {number}."
            assert bench.cloud.sockets_ever == 3
            await trio.sleep(2)
            assert bench.cloud.sockets_open == 1
        await bench.all_closed()


async def test_a_flush_of_a_cleared_text_does_not_end_the_next(autojump_clock: Clock) -> None:
    async with bench_of(AURA) as bench, bench.synthesizer() as synthesizer:
        assert isinstance(bench.cloud, Aura)
        bench.cloud.flushes_after_clear = True
        bench.cloud.voicebox.late_pieces = 2
        for number in range(5):
            async with synthesizer.open_speech(MINUTE) as speech:
                await speech.receive()
            assert words(await heard(synthesizer, f"Number {number}."), bench.line) == f"Number {number}."


async def test_a_clear_that_is_never_answered_costs_a_socket_and_not_the_voice(autojump_clock: Clock) -> None:
    async with bench_of(AURA) as bench, bench.synthesizer() as synthesizer:
        assert isinstance(bench.cloud, Aura)
        bench.cloud.answers_clear = False
        async with synthesizer.open_speech(MINUTE) as speech:
            await speech.receive()
        with trio.move_on_after(5) as waiting:
            await heard(synthesizer, "Nobody hears this.")
        assert waiting.cancelled_caught
        assert words(await heard(synthesizer, "This is heard."), bench.line) == "This is heard."
        await trio.sleep(2)
        assert (bench.cloud.sockets_open, bench.cloud.sockets_ever) == (1, 2)


async def test_a_flush_that_is_refused_fails_the_speech(autojump_clock: Clock) -> None:
    wire = AuraWire("aura", lambda: 0.0)
    wire.speak("Hello.")
    warning = {"type": "Warning", "code": "EXCESSIVE_FLUSHES", "description": "Too many Flush messages."}
    (over,) = wire.decode(orjson.dumps(warning).decode())
    assert isinstance(over, Over)
    assert over.error is not None
    assert over.error.why is Why.RATE_LIMITED
    assert wire.is_spent


async def test_an_error_of_cartesia_is_one_of_its_context(autojump_clock: Clock) -> None:
    """The socket lives on; an error of a context that nobody waits for is nobody's."""
    async with bench_of(CARTESIA) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox.error = "voice_gone"
        with pytest.raises(SpeechFailed, match="voice_gone") as failure:
            await heard(synthesizer, "Hello.")
        assert failure.value.why is Why.BAD_REQUEST
        bench.cloud.voicebox.error = ""
        assert words(await heard(synthesizer, "Hello."), bench.line) == "Hello."
        assert bench.cloud.sockets_ever == 1


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("invalid_api_key", Why.AUTH),
        ("quota_exceeded", Why.AUTH),
        ("max_active_conversations", Why.RATE_LIMITED),
        ("voice_id_does_not_exist", Why.BAD_REQUEST),
        ("system_busy", Why.UNREACHABLE),
        ("a sentence, which may repeat what we sent", Why.FAILED),
    ],
)
@pytest.mark.parametrize("wire", [OneTextWire("e", {}), ContextsWire("e", {})], ids=["one text", "contexts"])
def test_elevenlabs_says_in_a_word_why_it_closes(wire: SpeechWire, word: str, why: Why) -> None:
    with pytest.raises(SpeechFailed) as failure:
        wire.decode(orjson.dumps({"message": "Oh.", "error": word, "code": 1008}).decode())
    assert failure.value.why is why
    assert "sentence" not in str(failure.value)


def test_stream_input_may_end_a_text_by_closing_alone() -> None:
    """As its own client takes it, if there was sound at all."""
    wire = OneTextWire("e", {})
    wire.speak("Hello.")
    assert wire.ended(1000) is not None
    wire.decode('{"audio": "AAAA", "isFinal": null}')
    assert wire.ended(1000) is None
    broken = wire.ended(1006)
    assert broken is not None
    assert broken.why is Why.CUT


def test_settings_that_are_empty_are_not_sent() -> None:
    (greeting,) = OneTextWire("e", {}).greet()
    assert orjson.loads(greeting) == {"text": " "}
    (greeting,) = OneTextWire("e", {"stability": 0.0}).greet()
    assert orjson.loads(greeting) == {"text": " ", "voice_settings": {"stability": 0.0}}


def wires() -> list[SpeechWire]:
    cartesia = CartesiaConfig("k", voice="v")
    return [
        OneTextWire("e", {}),
        ContextsWire("e", {}),
        CartesiaWire(cartesia, MULAW_8K),
        AuraWire("a", lambda: 0.0),
    ]


KEYS = st.sampled_from(
    [
        "type",
        "audio",
        "isFinal",
        "contextId",
        "context_id",
        "data",
        "done",
        "error",
        "error_code",
        "status_code",
        "code",
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 600)
    | st.text(max_size=8)
    | st.sampled_from(["chunk", "done", "error", "Flushed", "Cleared", "Warning", "Error", "AAAA", "//8="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=40),
    st.dictionaries(KEYS, VALUES, max_size=5).map(lambda fields: orjson.dumps(fields).decode()),
)


def _addressed(message: str | bytes, context_id: object) -> str | bytes:
    """To the context that is spoken in, if there is one and the message is an object."""
    with suppress(orjson.JSONDecodeError):
        fields = orjson.loads(message) if isinstance(message, str) else None
        if isinstance(fields, dict) and context_id:
            return orjson.dumps({**fields, "contextId": context_id, "context_id": context_id}).decode()
    return message


@given(messages=st.lists(MESSAGES, max_size=6), is_cancelled=st.booleans())
def test_whatever_a_vendor_sends_it_is_audio_or_an_end_or_named_as_bad(
    messages: list[str | bytes], is_cancelled: bool
) -> None:
    for wire in wires():
        wire.greet()
        first = wire.speak("One.")
        context_id = orjson.loads(first[0]).get("context_id")
        if is_cancelled:
            wire.cancel()
        for message in messages:
            try:
                parts = wire.decode(_addressed(message, context_id))
            except (BadMessage, SpeechFailed):
                continue
            assert all(isinstance(part, bytes | Over) for part in parts)
            assert not (is_cancelled and parts)


async def test_a_piece_that_was_waited_for_in_vain_is_asked_for_again(autojump_clock: Clock) -> None:
    """Whoever receives gives up while a socket is being opened for the second piece, and comes back."""
    asked: list[str] = []

    async def ask(text: str) -> Take:
        asked.append(text)
        await trio.sleep(1.0)
        take = Take(MULAW_8K, MULAW_8K)
        await take.put(speak(text, MULAW_8K))
        take.finish(None)
        return take

    speech = Speech(["One.", "Two."], ask)
    await speech.begin()
    audio = await speech.receive()
    with trio.move_on_after(0.5):
        await speech.receive()
    audio += await speech.receive()
    assert words(audio, MULAW_8K) == "One. Two."
    assert asked == ["One.", "Two.", "Two."]
    with pytest.raises(trio.EndOfChannel):
        await speech.receive()


# --- long texts -------------------------------------------------------------------------------------------------


@given(st.text(alphabet="ab .,!?\n\u2014", max_size=400), st.integers(5, 80))
def test_no_piece_is_longer_than_the_limit_and_no_word_is_lost(text: str, limit: int) -> None:
    pieces = split_long(text, limit)
    assert all(0 < len(piece) <= limit and any(map(str.isalnum, piece)) for piece in pieces)
    assert "".join(filter(str.isalnum, "".join(pieces))) == "".join(filter(str.isalnum, text))


def test_pieces_end_where_sentences_do() -> None:
    text = "One is first. Two is second. Three is third, and last."
    assert split_long(text, 30) == ["One is first. Two is second.", "Three is third, and last."]
    assert split_long(text, 1000) == [text]
    assert split_long("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
