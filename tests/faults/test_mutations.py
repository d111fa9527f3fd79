"""FAULTS A 9-16 once more, as a property: whatever is made of a provider's own messages, a live call survives it or
ends in order."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.errors import Cause
from tests.fakes.hostile import BINARY, CLOSE, TEXT, frame
from tests.faults.bench import bench
from tests.faults.test_garbage import send_on
from tests.faults.wires import EVERY_WIRE, Line, start_of, twilio_media
from tests.system.every_provider import with_all_providers

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")

ALLOWED = {str(Cause.PROTOCOL_ERROR), str(Cause.CALLER_HANGUP)}
CLOSES = {1000, 1002, 1007, 1009}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "MZ1", "\ud800", "0" * 30, "1e999", "__proto__", "x" * 3000]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
Mutation = Callable[[Line], bytes]


def valid_messages(line: Line) -> list[dict[str, Any]]:
    if line.provider == "vonage":
        return [
            {"event": "websocket:dtmf", "digit": "5", "duration": 260},
            {"event": "websocket:notify", "payload": {"mark": "0.m1"}},
            {"event": "websocket:cleared"},
            start_of("vonage", line.call_id, "x"),
        ]
    if line.provider == "telnyx":
        at = {"sequence_number": "7", "stream_id": line.stream_id}
        return [
            json.loads(line.media(b"\xff" * 160)),
            {"event": "mark", **at, "mark": {"name": "0.m1"}},
            {"event": "dtmf", **at, "occurred_at": "2026-11-21T10:00:00Z", "dtmf": {"digit": "5"}},
            {"event": "error", **at, "payload": {"code": 100003, "title": "malformed_frame", "detail": ""}},
            {"event": "stop", **at, "stop": {"user_id": "u1", "call_control_id": line.call_id}},
            start_of("telnyx", line.call_id, "x"),
        ]
    if line.provider == "plivo":
        return [
            json.loads(line.media(b"\xff" * 160)),
            {"event": "playedStream", "streamId": line.stream_id, "name": "0.m1"},
            {"event": "clearedAudio", "streamId": line.stream_id},
            {"event": "dtmf", "streamId": line.stream_id, "dtmf": {"track": "inbound", "digit": "5"}},
            {"event": "playFailed", "reason": "x"},
            {"event": "stop"},
            start_of("plivo", line.call_id, "x"),
        ]
    about = {"sequenceNumber": "7", "streamSid": line.stream_id}
    return [
        twilio_media(line.stream_id, b"\xff" * 160, 7),
        twilio_media(line.stream_id, b"\x10" * 160, 10**6),
        {"event": "mark", **about, "mark": {"name": "0.m1"}},
        {"event": "dtmf", **about, "dtmf": {"track": "inbound_track", "digit": "5"}},
        {"event": "stop", **about, "stop": {"accountSid": "AC1", "callSid": line.call_id}},
        start_of("twilio", line.call_id, "x"),
        {"event": "connected", "protocol": "Call", "version": "1.0.0"},
    ]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """One message with something wrong in it, or nothing."""
    which = draw(st.integers(0, 99))
    steps = draw(st.lists(st.integers(0, 9), max_size=3))
    how = draw(st.sampled_from(["keep", "replace", "delete", "add", "cut", "flip", "bytes", "wrap"]))
    value = draw(values)
    at = draw(st.integers(0, 10_000))
    junk = draw(st.binary(max_size=700))

    def make(line: Line) -> bytes:
        bases = valid_messages(line)
        message: Any = copy.deepcopy(bases[which % len(bases)])
        holder, key = message, None
        for step in steps:
            if not isinstance(holder, dict) or not holder:
                break
            key = list(holder)[step % len(holder)]
            if isinstance(holder[key], dict):
                holder, key = holder[key], None
        key = key or next(iter(holder))
        if how == "replace":
            holder[key] = value
        elif how == "delete":
            del holder[key]
        elif how == "add":
            holder[json.dumps(value)[:10]] = value
        elif how == "wrap":
            message = [message]
        data = json.dumps(message, ensure_ascii=at % 2 == 0).encode("utf-8", "surrogatepass")
        if how == "cut":
            data = data[: at % len(data)]
        elif how == "flip":
            data = data[: at % len(data)] + junk[:3] + data[at % len(data) + 1 :]
        if how == "bytes":
            return frame(BINARY, junk)
        return frame(TEXT, data)

    return make


async def throw(provider: str, thrown: list[Mutation]) -> None:
    async with (
        bench(provider, witness=False, configure=with_all_providers) as b,
        b.live(provider) as line,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(line.keep_talking)
        await trio.sleep(0.3)
        for make in thrown:
            await send_on(line, make(line))
            await trio.sleep(0.01)
        if not b.end_of(line.call_id) and not line.over.is_set():
            await send_on(line, b"".join(frame(TEXT, str(stop).encode()) for stop in line.side.stop()))
            await send_on(line, frame(CLOSE, b"\x03\xe8"))
        assert await b.ended(line) in ALLOWED
        await line.over.wait()
        nursery.cancel_scope.cancel()
        assert line.code in CLOSES
        assert not line.violations
        assert not line.is_torn


@pytest.mark.parametrize("provider", EVERY_WIRE)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(thrown=st.lists(mutations(), min_size=1, max_size=30))
def test_any_mutation_of_valid_messages_is_survived_or_ends_the_call_in_order(
    provider: str, thrown: list[Mutation]
) -> None:
    trio.run(partial(throw, provider, thrown), clock=MockClock(autojump_threshold=0))
