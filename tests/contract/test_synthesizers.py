"""What every synthesizer promises: the text as sound of the line, in order, and of what was cut off nothing more."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from engine.audio.levels import is_silent
from engine.errors import SpeechFailed, Why
from engine.ports import Synthesizer
from tests.contract.synthesizers import ALL_LINES, KINDS, Bench, Kind, bench_of, heard
from tests.fakes.clouds.voicebox import Voicebox
from tests.fakes.plain_speech import read, words

Clock = trio.testing.MockClock
SOCKETS = [kind for kind in KINDS if kind.is_socket]
every = pytest.mark.parametrize("kind", KINDS, ids=str)
every_socket = pytest.mark.parametrize("kind", SOCKETS, ids=str)

STORY = "Once upon a time there was a telephone that nobody answered, and so it rang. It rang all through the night."


# --- speaking ---------------------------------------------------------------------------------------------------


@every
@pytest.mark.proves("ours")
async def test_a_text_is_heard_word_for_word(kind: Kind, autojump_clock: Clock) -> None:
    for line in kind.lines:
        async with bench_of(kind, line) as bench:
            async with bench.synthesizer() as synthesizer:
                assert not synthesizer.is_closed
                for text in ("Hello there.", STORY, "Goodbye!"):
                    audio = await heard(synthesizer, text)
                    assert [(utterance.text, utterance.is_whole) for utterance in read(audio, line)] == [(text, True)]
            await bench.all_closed()
            assert bench.cloud.texts == ["Hello there.", STORY, "Goodbye!"]


@every
async def test_every_line_gets_its_own_format_without_silence_in_front(kind: Kind, autojump_clock: Clock) -> None:
    for line in ALL_LINES:
        async with bench_of(kind, line) as bench:
            bench.cloud.voicebox = Voicebox(lead_silence_s=0.5)
            text = "Ten characters and more."
            async with bench.synthesizer() as synthesizer, synthesizer.open_speech(text) as speech:
                pieces = [piece async for piece in speech]
        assert all(piece and len(piece) % line.frame_bytes == 0 for piece in pieces)
        assert all(line.duration_s(piece) <= 0.5 for piece in pieces)
        assert not is_silent(pieces[0][: line.frame_bytes], line)
        assert line.duration_s(b"".join(pieces)) == pytest.approx(24 / 25, abs=0.021)


@every
async def test_the_first_sound_does_not_wait_for_the_last(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(speed=1.0, first_audio_s=0.1)
        async with bench.synthesizer() as synthesizer, synthesizer.open_speech(STORY) as speech:
            began = trio.current_time()
            await speech.receive()
            assert trio.current_time() - began == pytest.approx(0.1, abs=0.05)


@every
async def test_whoever_gives_up_waiting_may_go_on_later(kind: Kind, autojump_clock: Clock) -> None:
    """For a filler, say: of the speech nothing is lost."""
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(speed=1.0, first_audio_s=0.5)
        async with bench.synthesizer() as synthesizer, synthesizer.open_speech(STORY) as speech:
            audio, given_up = b"", 0
            while True:
                with trio.move_on_after(0.13) as waiting:
                    try:
                        audio += await speech.receive()
                    except trio.EndOfChannel:
                        break
                given_up += waiting.cancelled_caught
        assert words(audio, bench.line) == STORY
        assert given_up > 5
        await bench.all_closed()


@every
async def test_what_holds_nothing_to_say_is_never_sent(kind: Kind, autojump_clock: Clock) -> None:
    """An empty text ends a socket of ElevenLabs."""
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        for text in ("", "   ", "...", "\n", "?!"):
            assert await heard(synthesizer, text) == b""
        assert bench.cloud.texts == []
        assert words(await heard(synthesizer, "Hello."), bench.line) == "Hello."


@every
async def test_a_text_over_the_vendors_limit_is_said_in_pieces(kind: Kind, autojump_clock: Clock) -> None:
    """And asked for piece by piece: a caller who interrupts has not paid for the rest."""
    text = " ".join(f"This is sentence number {number} of a story that does not end." for number in range(120))
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0, piece_s=1.0)
        async with synthesizer.open_speech(text) as speech:
            await speech.receive()
            assert len(bench.cloud.texts) == 1
        audio = await heard(synthesizer, text)
        assert words(audio, bench.line) == text
        assert " ".join(bench.cloud.texts[1:]) == text
        assert max(map(len, bench.cloud.texts)) <= 4096


@every
async def test_one_speech_at_a_time(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer, synthesizer.open_speech("One."):
        with pytest.raises(RuntimeError):
            async with synthesizer.open_speech("Two."):
                pass


@every
async def test_a_speech_that_was_left_gives_nothing_more(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        async with bench.synthesizer() as synthesizer:
            async with synthesizer.open_speech(STORY) as speech:
                await speech.receive()
            with pytest.raises(trio.ClosedResourceError):
                await speech.receive()
        with pytest.raises(SpeechFailed):
            await heard(synthesizer, "Hello.")


@every_socket
async def test_leaving_the_block_closes_politely_and_a_cancel_at_once(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        async with bench.synthesizer() as synthesizer:
            await heard(synthesizer, "Hello.")
        assert bench.cloud.sockets_open == 0
        assert set(bench.cloud.close_codes) <= {1000, None}
        began = trio.current_time()
        with trio.CancelScope() as scope:
            async with bench.synthesizer() as synthesizer, synthesizer.open_speech(STORY) as speech:
                await speech.receive()
                began = trio.current_time()
                scope.cancel()
        assert trio.current_time() == began
        assert synthesizer.is_closed
        await bench.all_closed()


# --- barge-in ---------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("late_pieces", [0, 3, 1000])
@pytest.mark.proves("barge-in")
async def test_nothing_of_a_cancelled_speech_is_heard_in_the_next(
    kind: Kind, late_pieces: int, autojump_clock: Clock
) -> None:
    """However much of it the vendor still sends (fault 28)."""
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(late_pieces=late_pieces)
        async with bench.synthesizer() as synthesizer:
            for number in range(6):
                async with synthesizer.open_speech(STORY) as speech:
                    for _ in range(number):
                        await speech.receive()
                answer = f"Answer number {number}."
                audio = await heard(synthesizer, answer)
                assert [utterance.text for utterance in read(audio, bench.line)] == [answer]
                assert read(audio, bench.line)[0].is_whole
        await bench.all_closed()


@every
async def test_leaving_before_the_first_sound_is_no_different(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(first_audio_s=0.5, late_pieces=2)
        async with bench.synthesizer() as synthesizer:
            for _ in range(3):
                with trio.move_on_after(0.3):
                    await heard(synthesizer, STORY)
            assert words(await heard(synthesizer, "Yes?"), bench.line) == "Yes?"
        await bench.all_closed()


@every
@pytest.mark.proves("barge-in")
async def test_the_vendor_stops_soon_after_a_barge_in(kind: Kind, autojump_clock: Clock) -> None:
    """By a cancel, a clear or the end of the connection; only the contexts of ElevenLabs are spoken to their end."""
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(speed=2.0)
        async with synthesizer.open_speech(STORY * 4) as speech:
            await speech.receive()
        await trio.sleep(60)
        whole_s = bench.line.duration_s(b"".join(bench.cloud.voicebox.pieces(STORY * 4, bench.line)))
        if kind.name == "elevenlabs multi-stream-input":
            assert bench.cloud.audio_sent_s == pytest.approx(whole_s, abs=0.3)
        else:
            assert bench.cloud.audio_sent_s < 2.0 < whole_s


# --- failures ---------------------------------------------------------------------------------------------------


async def failure_of(bench: Bench, key: str = "k") -> tuple[SpeechFailed, bytes]:
    """How opening, or else speaking, fails, and what was heard before."""
    audio = bytearray()
    try:
        async with bench.synthesizer(key) as synthesizer:
            await hear(synthesizer, STORY, audio)
    except SpeechFailed as failure:
        return failure, bytes(audio)
    raise AssertionError("nothing failed")


async def hear(synthesizer: Synthesizer, text: str, audio: bytearray) -> None:
    async with synthesizer.open_speech(text) as speech:
        async for piece in speech:
            audio += piece


REFUSALS = {401: Why.AUTH, 404: Why.BAD_REQUEST, 429: Why.RATE_LIMITED, 503: Why.UNREACHABLE, 302: Why.NONSENSE}


@every
async def test_a_refusal_says_why(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        for status, why in REFUSALS.items():
            bench.cloud.voicebox = Voicebox(refuses=status)
            error, _ = await failure_of(bench)
            assert error.why is why
            if not kind.is_socket:
                assert error.retry_after_s == 2.0
        await bench.all_closed()


@every
async def test_a_wrong_key_is_told_and_never_repeated(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        error, _ = await failure_of(bench, key="sk-wrong-and-secret")
        assert error.why is Why.AUTH
        assert "secret" not in repr(error) + repr(error.__cause__)
        await bench.all_closed()


@every
async def test_a_page_is_not_taken_for_speech(kind: Kind, autojump_clock: Clock) -> None:
    """The wrong service, or a proxy's login page (fault 30)."""
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(page=b"<html>Please log in</html>", refuses=200 if kind.is_socket else None)
        error, audio = await failure_of(bench)
        assert (error.why, audio) == (Why.NONSENSE, b"")
        await bench.all_closed()


@every
@pytest.mark.parametrize("pieces", [0, 1, 3])
async def test_a_vendor_that_dies_in_the_middle_is_told_at_once(kind: Kind, pieces: int, autojump_clock: Clock) -> None:
    """What came before is heard; the next speech goes over a new connection."""
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(dies_after=pieces, close_code=1001)
        async with bench.synthesizer() as synthesizer:
            began = trio.current_time()
            audio = bytearray()
            with pytest.raises(SpeechFailed) as failure:
                await hear(synthesizer, STORY, audio)
            assert failure.value.why is Why.CUT
            assert trio.current_time() - began < 1.0
            assert STORY.startswith(words(bytes(audio), bench.line))
            assert bench.line.duration_s(bytes(audio)) == pytest.approx(0.2 * pieces, abs=0.021)
            bench.cloud.voicebox = Voicebox()
            assert words(await heard(synthesizer, "Still here."), bench.line) == "Still here."
        await bench.all_closed()


@every_socket
async def test_a_server_that_gives_up_by_itself_may_be_asked_again(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(dies_after=1, close_code=1011)
        error, _ = await failure_of(bench)
        assert error.why is Why.UNREACHABLE
        assert error.why.may_pass


@every
async def test_a_stall_ends_when_whoever_listens_has_had_enough(kind: Kind, autojump_clock: Clock) -> None:
    """No deadline of the adapter's own: it is set above, and the next speech is none the worse."""
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(stalls_after=2)
        async with bench.synthesizer() as synthesizer:
            with trio.move_on_after(3.0) as waiting:
                await heard(synthesizer, STORY)
            assert waiting.cancelled_caught
            bench.cloud.voicebox.stalls_after = None
            if kind.name == "aura":  # which speaks one text after the other: it clears when it is back
                await trio.sleep(60)
            assert words(await heard(synthesizer, "Where was I?"), bench.line) == "Where was I?"
        await trio.sleep(120)  # the stalled end of the fake wakes up to a connection that is gone
        await bench.all_closed()


@every
@pytest.mark.parametrize("word", ["invalid_voice", "quota_exceeded", "insufficient_quota"])
async def test_the_vendors_own_error_is_an_error_of_the_speech(kind: Kind, word: str, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(error=word)
        error, audio = await failure_of(bench)
        assert word in str(error)
        assert audio == b""
        assert "sentence" not in str(error)
        bench.cloud.voicebox = Voicebox()
        async with bench.synthesizer() as synthesizer:
            assert words(await heard(synthesizer, "Hello."), bench.line) == "Hello."
        await bench.all_closed()


JUNK = ("", "{", "[]", "null", '{"audio": 5, "type": "chunk", "data": 5}', '{"type": ["x"]}', "[" * 5000, "\u2028")


@every_socket
async def test_junk_between_the_sounds_is_stepped_over(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(junk=JUNK[:2], piece_s=0.1)
        assert words(await heard(synthesizer, STORY), bench.line) == STORY


@every_socket
async def test_nothing_but_junk_is_nonsense(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench:
        bench.cloud.voicebox = Voicebox(junk=JUNK * 8)
        error, _ = await failure_of(bench)
        assert error.why is Why.NONSENSE
        await bench.all_closed()


@every
async def test_a_message_of_a_megabyte_is_cut_in_pieces(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(piece_s=800_000 / bench.line.bytes_per_s, chars_per_s=1.0)
        text = "x" * int(800_000 / bench.line.bytes_per_s)
        async with synthesizer.open_speech(text) as speech:
            pieces = [piece async for piece in speech]
        assert words(b"".join(pieces), bench.line) == text
        assert max(map(bench.line.duration_s, pieces)) <= 0.5
