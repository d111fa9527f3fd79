"""Faults A 7 to A 15 over the wires of Telnyx and Plivo, as far as their codecs differ from the others'."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.hostile import CLOSE, frame
from tests.fakes.plain_speech import frames_of, speak, words
from tests.faults.bench import bench
from tests.faults.wires import Line, as_json, new_call_id, start_of
from tests.system.every_provider import with_all_providers

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")

providers = pytest.mark.parametrize("provider", ["telnyx", "plivo"])
wired = partial(bench, witness=False, configure=with_all_providers)


WRONG: tuple[Any, ...] = (None, 5, [], "../x\0", "x" * 5000)


def bad_messages(line: Line) -> dict[str, str | bytes]:
    """What a call survives, each of it once; twenty at most."""
    is_telnyx = line.provider == "telnyx"
    at = {"stream_id" if is_telnyx else "streamId": line.stream_id}
    foreign = {"stream_id" if is_telnyx else "streamId": "another"}
    audio = base64.b64encode(b"\xff" * 160).decode()
    media = {"track": "inbound", "chunk": "99", "payload": audio}
    mark: dict[str, Any] = (
        {"event": "mark", "mark": {"name": []}} if is_telnyx else {"event": "playedStream", "name": []}
    )
    return {
        "nothing": "",
        "words": "not JSON",
        "a list": "[]",
        "an object of nothing": "{}",
        "30,000 lists": "[" * 30_000,
        "binary": b"\0" * 160,
        "media of nothing": as_json({"event": "media", **at}),
        "media of a foreign stream": as_json({"event": "media", **foreign, "media": media}),
        "no payload": as_json({"event": "media", **at, "media": {}}),
        "bad base64": as_json({"event": "media", **at, "media": media | {"payload": "!!!!"}}),
        "159 bytes": as_json({"event": "media", **at, "media": media | {"payload": audio[:-8]}}),
        "more than a second": as_json({"event": "media", **at, "media": media | {"payload": audio[:-4] * 80}}),
        "a number that is none": as_json({"event": "media", **at, "media": media | {"chunk": "x"}}),
        "a number of 20 digits": as_json({"event": "media", **at, "media": media | {"chunk": "9" * 20}}),
        "a mark of a list": as_json(mark | at),
        "a key that is none": as_json({"event": "dtmf", **at, "dtmf": {"digit": "12"}}),
        "a stop of another stream": as_json({"event": "stop", **foreign}),
    }


@providers
async def test_messages_of_no_use_are_counted_and_the_call_goes_on(provider: str, autojump_clock: MockClock) -> None:
    async with wired(provider) as b, b.live(provider) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.keep_talking)
        await trio.sleep(0.5)
        counted = b.rig.total("bad_frames_total")
        for name, message in bad_messages(line).items():
            await line.send(message)
            await trio.sleep(0.1)  # a silent line is looked at every 60 ms
            counted += 1
            assert b.rig.total("bad_frames_total") == counted, name
        assert await line.ask("Hello there.") == "Turn 1. You said Hello there."
        assert not line.violations
        nursery.cancel_scope.cancel()
        await line.send(*line.side.stop())
        await line.peer.send(frame(CLOSE, b"\x03\xe8"))
        assert await b.ended(line) == "caller_hangup"


@providers
async def test_more_than_twenty_of_them_end_the_call(provider: str, autojump_clock: MockClock) -> None:
    async with wired(provider) as b, b.live(provider) as line:
        await line.send_audio(line.format.silence(0.1))
        await line.send(*["not JSON"] * 21)
        assert await b.ended(line) == "protocol_error"
        await line.over.wait()
        assert line.code == 1003


@providers
async def test_a_start_that_is_wrong_anywhere_opens_nothing(provider: str, autojump_clock: MockClock) -> None:
    async with wired(provider) as b:
        opened = b.opened()
        whole = start_of(provider, new_call_id(provider), "t")
        paths = [(name, "") for name in whole if name not in ("sequence_number", "sequenceNumber")]
        paths += [("start", name) for name in whole["start"] if name not in ("user_id", "tracks")]
        for name, inner in paths:
            for value in WRONG:
                call_id = new_call_id(provider)
                start = start_of(provider, call_id, await b.token(provider, call_id))
                (start[name] if inner else start)[inner or name] = value
                async with b.line(provider, call_id=call_id) as line:
                    await line.send(as_json(start))
                    with trio.fail_after(6):
                        await line.over.wait()
                    assert line.code in (1002, 1008), (name, inner, value)
        assert b.opened() == opened
        assert b.rig.total("calls_started_total") == 0


async def test_a_caller_whose_frames_overtake_one_another_is_understood(autojump_clock: MockClock) -> None:
    async with wired("telnyx") as b, b.live("telnyx") as line, trio.open_nursery() as nursery:
        await trio.sleep(1.0)  # the greeting
        said = speak("Hello there.", line.format, chars_per_s=50)
        messages = [line.media(sound) for sound in frames_of(said + line.format.silence(2), line.format)]
        for at in range(0, len(messages) - 3, 4):  # the first of four comes last
            messages[at : at + 4] = [*messages[at + 1 : at + 4], messages[at]]
        heard = len(line.heard)
        await line.send(*messages)
        nursery.start_soon(line.keep_talking)
        await trio.sleep(4)
        assert " ".join(words(bytes(line.heard[heard:]), line.format).split()) == "Turn 1. You said Hello there."
        nursery.cancel_scope.cancel()
