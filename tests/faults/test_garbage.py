"""FAULTS A 9-16: garbage on a media socket, before its start and in the middle of a call."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.hostile import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame
from tests.fakes.plain_speech import frames_of, speak
from tests.faults.bench import Bench, bench
from tests.faults.wires import PROVIDERS, Line, as_json, new_call_id, start_of, twilio_media, wired
from tests.system.rig import resident_bytes

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
providers = pytest.mark.parametrize("provider", PROVIDERS)

# --- frames that are no WebSocket's -------------------------------------------------------------------------

MIB = 1024 * 1024
BAD_FRAMES: Mapping[str, tuple[bytes, int]] = {
    "8 MiB of text": (frame(TEXT, b"x" * 8 * MIB), 1009),
    "8 MiB of binary": (frame(BINARY, b"x" * 8 * MIB), 1009),
    "just above the limit": (frame(TEXT, b"x" * (64 * 1024 + 1)), 1009),
    "endless fragments": (frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * 1000, fin=False) * 200, 1009),
    "endless empty fragments, then too much": (
        frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 5000 + frame(CONTINUATION, b"x" * 70_000),
        1009,
    ),
    "a claimed TiB of text": (frame(TEXT, b"", claimed=1 << 40, form=64), 1009),
    "a claimed TiB of binary": (frame(BINARY, b"", claimed=1 << 40, form=64), 1009),
    "a negative length": (frame(TEXT, b"", claimed=(1 << 64) - 1, form=64), 1009),
    "unmasked": (frame(TEXT, b"{}", masked=False), 1002),
    "a length spelt too long": (frame(TEXT, b"{}", form=16), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a ping in fragments": (frame(PING, b"x", fin=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    "bad UTF-8": (frame(TEXT, b'{"event":"\xff\xfe"}'), 1007),
    "UTF-8 cut short": (frame(TEXT, b'{"event":"\xe2\x82'), 1007),
    "a surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "bad UTF-8 in fragments": (frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28"), 1007),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code that is none": (frame(CLOSE, struct.pack("!H", 999)), 1002),
    "a close with bad UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 1002),
    **{f"reserved bit {bit}": (frame(TEXT, b"{}", rsv=bit), 1002) for bit in (1, 2, 4)},
    **{f"opcode {opcode}": (frame(opcode, b"{}"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
}


@providers
async def test_a9_a10_bytes_that_are_no_websocket_end_their_call_alone(
    provider: str, autojump_clock: MockClock
) -> None:
    """A 9 and A 10, in the middle of a call: the close code of the RFC, at once."""
    async with bench(provider, max_calls=60) as b:
        before = resident_bytes()
        for what, (sent, code) in BAD_FRAMES.items():
            async with b.live(provider) as line, trio.open_nursery() as nursery:
                await line.send_audio(line.format.silence(0.06))
                began_s = trio.current_time()
                nursery.start_soon(send_on, line, sent)
                assert await b.ended(line) == "protocol_error", what
                await line.over.wait()
                assert line.code == code, what
                assert b.released_at(line.call_id) - began_s < 1.2, what
                assert not line.is_torn, what
        assert resident_bytes() - before < 16 * MIB


@providers
async def test_a9_a10_the_same_bytes_before_the_start_open_nothing(provider: str, autojump_clock: MockClock) -> None:
    """A 9 and A 10, on a socket that is no call yet."""
    async with bench(provider) as b:
        opened = b.opened()
        for what, (sent, code) in BAD_FRAMES.items():
            async with b.line(provider) as line, trio.open_nursery() as nursery:
                nursery.start_soon(send_on, line, sent)
                with trio.fail_after(1.2):
                    await line.over.wait()
                assert line.code == code, what
        assert b.opened() == opened
        assert b.rig.total("calls_started_total") == 1
        assert b.rig.total("handshake_failures_total") == len(BAD_FRAMES)


async def send_on(line: Line, data: bytes) -> None:
    """The engine may leave while we send."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await line.peer.send(data)


# --- messages of no use -------------------------------------------------------------------------------------


def deep(levels: int) -> str:
    return "[" * levels


def bad_messages(provider: str, line: Line) -> dict[str, str | bytes]:
    """What a call survives, each of it once."""
    junk: dict[str, str | bytes] = {
        "nothing": "",
        "words": "not JSON",
        "half an object": '{"event":"media"',
        "null": "null",
        "a number": "17",
        "a list": "[]",
        "an object of nothing": "{}",
        "an event that is none": '{"event":{"a":1}}',
        "30,000 lists": deep(30_000),
        "30,000 lists, closed": deep(30_000) + "]" * 30_000,
        "NaN": '{"event":NaN}',
        "two values": "{}{}",
        "NUL": "\0",
    }
    if provider == "vonage":
        frame_bytes = line.format.frame_bytes
        return junk | {
            "an event of nobody": '{"event":"x"}',
            "a notify of nothing": '{"event":"websocket:notify"}',
            "a notify of a list": '{"event":"websocket:notify","payload":[]}',
            "a notify of a number": '{"event":"websocket:notify","payload":{"mark":5}}',
            "a key that is none": '{"event":"websocket:dtmf","digit":"Z"}',
            "no audio": b"",
            "a byte": b"\0",
            "159 bytes": b"\0" * 159,
            "odd PCM": b"\0" * (frame_bytes - 1),
            "more odd PCM": b"\0" * (frame_bytes + 1),
            "more than a second": b"\0" * (51 * frame_bytes),
        }
    stream_id = line.stream_id

    def media(number: object = None, audio: bytes = b"\xff" * 160, **changes: Any) -> str:
        return as_json(twilio_media(stream_id, audio, number or "900", **changes))

    return junk | {
        "binary": b"\0" * 160,
        "media of nothing": as_json({"event": "media", "streamSid": stream_id}),
        "media of a list": as_json({"event": "media", "streamSid": stream_id, "media": [1]}),
        "media of a foreign stream": as_json(twilio_media("MZforeign", b"\xff" * 160, "1")),
        "media of no stream": as_json({"event": "media", "media": {"payload": "AAAA"}}),
        "no payload": as_json({"event": "media", "streamSid": stream_id, "media": {}}),
        "a payload of a number": media(payload=5),
        "a payload of null": media(payload=None),
        "bad base64": media(payload="!!!!"),
        "base64 cut short": media(payload="AAA"),
        "base64 of lines": media(payload="AA\nAA"),
        "base64 beyond ASCII": media(payload="ÄÄÄÄ"),
        "no audio": media(audio=b""),
        "a byte": media(audio=b"\xff"),
        "159 bytes": media(audio=b"\xff" * 159),
        "more than a second": media(audio=b"\xff" * 8160),
        "a number that is none": media("x"),
        "a number below zero": media("-1"),
        "a number in words": media("١٢"),
        "a number of 20 digits": media("9" * 20),
        "a mark of nothing": as_json({"event": "mark", "streamSid": stream_id}),
        "a mark of a list": as_json({"event": "mark", "streamSid": stream_id, "mark": {"name": []}}),
        "a mark of 1000 letters": as_json({"event": "mark", "streamSid": stream_id, "mark": {"name": "m" * 1000}}),
        "a key that is none": as_json({"event": "dtmf", "streamSid": stream_id, "dtmf": {"digit": "12"}}),
        "a stop of another call": as_json({"event": "stop", "streamSid": stream_id, "stop": {"callSid": "CAx"}}),
        "a stop of another stream": as_json({"event": "stop", "streamSid": "MZforeign", "stop": {}}),
        "connected, again": as_json({"event": "connected"}),
    }


@providers
async def test_a11_a13_messages_of_no_use_are_counted_and_the_call_goes_on(
    provider: str, autojump_clock: MockClock
) -> None:
    """A 11, A 13 and A 15 (foreign stream): twenty to a call; each call answers afterwards."""
    async with bench(provider) as b:
        left = list(bad_messages(provider, Line(provider, None, "CA0")))  # type: ignore[arg-type]  # for the names
        while left:
            names, left = left[:20], left[20:]
            async with b.live(provider) as line, trio.open_nursery() as nursery:
                nursery.start_soon(line.keep_talking)
                await trio.sleep(0.5)
                messages = bad_messages(provider, line)
                counted = b.rig.total("bad_frames_total")
                for name in names:
                    await line.send(messages[name])
                    await trio.sleep(0.1)  # a silent line is looked at every 60 ms
                    counted += 1
                    assert b.rig.total("bad_frames_total") == counted, name
                assert await line.ask("Hello there.") == "Turn 1. You said Hello there."
                assert not line.violations
                nursery.cancel_scope.cancel()
                await hang_up(b, line)


@providers
async def test_a11_more_than_twenty_of_them_end_the_call(provider: str, autojump_clock: MockClock) -> None:
    """A 11: the twenty-first."""
    async with bench(provider) as b, b.live(provider) as line:
        await line.send_audio(line.format.silence(0.1))
        await line.send(*["not JSON"] * 20)
        await trio.sleep(0.2)
        assert not b.end_of(line.call_id)
        await line.send("not JSON")
        assert await b.ended(line) == "protocol_error"
        await line.over.wait()
        assert line.code == 1003


@providers
async def test_a11_a_hundred_thousand_nested_lists_are_too_big(provider: str, autojump_clock: MockClock) -> None:
    """A 11: longer than any message may be."""
    async with bench(provider) as b, b.live(provider) as line:
        await line.send(deep(100_000))
        assert await b.ended(line) == "protocol_error"
        await line.over.wait()
        assert line.code == 1009


async def hang_up(b: Bench, line: Line) -> None:
    await line.send(*line.side.stop())
    await line.peer.send(frame(CLOSE, b"\x03\xe8"))
    assert await b.ended(line) == "caller_hangup"


# --- starts -------------------------------------------------------------------------------------------------


def changed(start: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The start with the field at this dotted path set, or taken out for ``...``."""
    *above, last = path.split(".")
    at = start
    for name in above:
        at = at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return start


BAD_VALUES: tuple[object, ...] = (
    ...,
    None,
    5,
    [],
    {},
    "",
    "x" * 5000,
    "../../etc/passwd",
    "{{7*7}}",
    "%s%n",
    "\0",
    "a b",
)
BAD_STARTS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "twilio": {
        "streamSid": BAD_VALUES,
        "start": (..., None, 5, [], {}, "x"),
        "start.streamSid": BAD_VALUES[1:],
        "start.callSid": BAD_VALUES,
        "start.mediaFormat": (..., None, [], {}, "audio/x-mulaw"),
        "start.mediaFormat.encoding": (..., None, "audio/l16", "audio/x-alaw", 5),
        "start.mediaFormat.sampleRate": (..., None, 16000, "8000.0", -1, 8000.5),
        "start.mediaFormat.channels": (0, 2, "x", None),
        "start.customParameters": (..., None, 5, [], "x", {"a": 1}, {str(n): "x" for n in range(65)}, {"t": "x" * 600}),
        "start.customParameters.token": BAD_VALUES,
    },
    "vonage": {
        "event": (..., None, 5, "websocket:dtmf", "start"),
        "content-type": (..., None, 5, "audio/l16;rate=44100", "audio/l16", "audio/x-mulaw;rate=8000", "x" * 5000),
        "call_id": BAD_VALUES,
        "token": BAD_VALUES,
        "x": ("y" * 600,),
    },
}


@providers
async def test_a12_a_start_with_a_field_missing_wrong_or_huge_is_refused(
    provider: str, autojump_clock: MockClock
) -> None:
    """A 12 and A 13 (codec and rate): 1008, nothing opened, and the token is not used up."""
    async with bench(provider, max_calls=5) as b:
        opened, call_id = b.opened(), new_call_id(provider)
        token = await b.token(provider, call_id)
        for path, values in BAD_STARTS[provider].items():
            for value in values:
                async with b.line(provider, call_id=call_id) as line:
                    await line.send(as_json(changed(start_of(provider, call_id, token), path, value)))
                    with trio.fail_after(1.2):
                        await line.over.wait()
                    assert line.code == 1008, (path, value)
        assert b.opened() == opened
        assert b.rig.total("calls_started_total") == 1
        async with b.line(provider, call_id=call_id) as line:
            await line.start(token)
            await b.until(lambda: call_id in b.rig.engine.registry.live_calls())
            await hang_up(b, line)


@providers
async def test_a12_anything_before_the_start_is_refused(provider: str, autojump_clock: MockClock) -> None:
    """A 12: media, keys, marks, a stop, junk and the other kind of message."""
    async with bench(provider) as b:
        opened = b.opened()
        probe = Line(provider, None, new_call_id(provider))  # type: ignore[arg-type]  # builds messages only
        early: list[str | bytes] = [
            probe.media(probe.format.silence(0.02)),
            probe.side.dtmf("1"),
            probe.side.mark_played('{"mark":"1"}'),
            '{"event":"stop"}',
            "not JSON",
            "[]",
            deep(60_000),
            b"",
            b"\0" * 640,
            "{}",
            as_json(start_of("vonage" if provider == "twilio" else "twilio", probe.call_id, "x")),
        ]
        for message in early:
            async with b.line(provider) as line:
                await b.token(provider, line.call_id)
                await line.send(message)
                with trio.fail_after(1.2):
                    await line.over.wait()
                assert line.code == 1008, message
                b.rig.engine.registry.withdraw(provider, line.call_id)
        assert b.opened() == opened
        assert b.rig.total("calls_started_total") == 1


@providers
async def test_a12_a_second_start_ends_the_call_and_one_for_another_call_gets_none(
    provider: str, autojump_clock: MockClock
) -> None:
    """A 12: two starts; a token that belongs to another call."""
    async with bench(provider) as b:
        async with b.live(provider) as line:
            await line.send(as_json(start_of(provider, line.call_id, "x")))
            assert await b.ended(line) == "protocol_error"
            await line.over.wait()
            assert line.code == 1002
        opened = b.opened()
        async with b.line(provider) as line:
            await line.start(await b.token(provider, new_call_id(provider)))
            await line.over.wait()
            assert line.code == 1008
            assert b.opened() == opened


# --- too much, too often, out of order ----------------------------------------------------------------------


@providers
async def test_a14_ten_minutes_of_audio_at_once_are_no_burden(provider: str, autojump_clock: MockClock) -> None:
    """A 14: the recogniser's queue holds two seconds; the call answers afterwards."""
    async with bench(provider) as b, b.live(provider) as line, trio.open_nursery() as nursery:
        await trio.sleep(0.5)
        silence = line.format.silence(0.02)
        if provider == "twilio":
            message: str | bytes = as_json(
                {
                    "event": "media",
                    "streamSid": line.stream_id,
                    "media": {"payload": base64.b64encode(silence).decode()},
                }
            )
        else:
            message = silence
        burst = wired(message) * 1000
        before = resident_bytes()
        for _ in range(30):
            await line.peer.send(burst)
        assert resident_bytes() - before < 8 * MIB
        nursery.start_soon(line.keep_talking)
        await trio.sleep(1)
        assert await line.ask("Hello there.") == "Turn 1. You said Hello there."
        nursery.cancel_scope.cancel()
        await hang_up(b, line)


async def test_a15_repeats_are_dropped_and_gaps_are_not(autojump_clock: MockClock) -> None:
    """A 15: every frame three times, then old ones, with gaps in between: the words come through once."""
    async with bench() as b, b.live("twilio") as line, trio.open_nursery() as nursery:
        await trio.sleep(0.5)
        number = 10
        messages: list[str] = []
        for sound in frames_of(speak("Hello there.", line.format, chars_per_s=50), line.format):
            number += 3
            message = as_json(twilio_media(line.stream_id, sound, number))
            messages += [message, message, *messages[-4:-2], message]
        await line.send(*messages)
        line._chunk = number + 1000
        nursery.start_soon(line.keep_talking)
        assert await line.ask("", within_s=3.0) == "Turn 1. You said Hello there."
        nursery.cancel_scope.cancel()
        await hang_up(b, line)


@providers
async def test_a16_marks_that_nobody_asked_for_say_nothing(provider: str, autojump_clock: MockClock) -> None:
    """A 16: ten thousand of them, and those of the call in every generation."""
    async with bench(provider) as b, b.live(provider) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.keep_talking)
        await trio.sleep(1.5)
        for at in range(0, 10_000, 500):
            await line.send(*(played(line, f"{n % 7}.m{n // 7}") for n in range(at, at + 500)))
        assert await line.ask("Hello there.") == "Turn 1. You said Hello there."
        assert b.rig.total("bad_frames_total") == 0
        nursery.cancel_scope.cancel()
        await hang_up(b, line)


def played(line: Line, name: str) -> str | bytes:
    return line.side.mark_played(name if line.provider == "twilio" else as_json({"mark": name}))


@providers
async def test_a16_marks_that_never_come_back_hold_nothing_up(provider: str, autojump_clock: MockClock) -> None:
    """A 16: each is given up two seconds after its audio; the caller is greeted once and answered each time."""
    async with bench(provider) as b, b.live(provider) as line, trio.open_nursery() as nursery:
        line.echoes_marks = False
        nursery.start_soon(line.keep_talking)
        await trio.sleep(3.0)
        for turn in (1, 2, 3):
            assert await line.ask("Hello there.", within_s=4.6) == f"Turn {turn}. You said Hello there."
        assert len(line.marks) == 4
        nursery.cancel_scope.cancel()
        await hang_up(b, line)


@providers
async def test_c8_ten_thousand_keys_are_a_short_turn(provider: str, autojump_clock: MockClock) -> None:
    """C 8: what the model is shown of them is bounded."""
    async with bench(provider) as b, b.live(provider) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.keep_talking)
        await trio.sleep(1.5)
        for _ in range(20):
            await line.send(*[line.side.dtmf("7")] * 500)
        await line.send(line.side.dtmf("#"))
        assert await line.ask("", within_s=6.0) == f"Turn 1. You said {'7' * 64}."
        assert b.rig.total("bad_frames_total") == 0
        nursery.cancel_scope.cancel()
        await hang_up(b, line)
