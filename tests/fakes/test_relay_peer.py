"""The relay's peer and our codec, each against the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from adapters.providers.twilio.relay import TwilioRelay, TwilioRelayCodec
from engine.events import CutOff, Dtmf, Prompt
from engine.phone.errors import CallFailed, CallRefused, LineLost, TooSlow
from engine.phone.side import Callee
from engine.ports import IncomingCall
from tests.fakes.provider_peer import FakeSocket
from tests.fakes.relay_peer import CHARS_PER_S, RelayCall, read_relay

CALL = "CA" + "7" * 32
Agent = Callable[["Engine"], Awaitable[None]]


class Engine:
    """The engine's side of a socket in memory."""

    def __init__(self, socket: FakeSocket) -> None:
        self.socket = socket
        self.codec = TwilioRelayCodec()

    async def receive(self) -> object:
        while True:
            event = self.codec.decode(await self.socket.receive())
            if event is not None:
                return event

    async def say(self, *pieces: str) -> None:
        for number, piece in enumerate(pieces, 1):
            await self.socket.send(self.codec.encode_text(piece, is_last=number == len(pieces)))


class PeersEnd:
    """Twilio's side of the same socket."""

    def __init__(self, socket: FakeSocket) -> None:
        self._socket = socket
        self._sender, self._receiver = trio.open_memory_channel[str | bytes](100)
        socket.on_message = self._sender.send_nowait

    @property
    def close_code(self) -> int | None:
        return self._socket.close_code

    async def receive(self) -> str | bytes:
        return await self._receiver.receive()

    async def send(self, *messages: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._socket.say(*messages)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await trio.lowlevel.checkpoint()
        self._socket.close(code)


@asynccontextmanager
async def answered_by(agent: Agent) -> AsyncIterator[RelayCall]:
    document = TwilioRelay().connect(IncomingCall(CALL, "", ""), "wss://h/media/twilio-relay", "t0ken").body
    url, parameters = read_relay(document)
    assert url == "wss://h/media/twilio-relay"
    socket = FakeSocket()
    call = RelayCall(PeersEnd(socket), CALL, parameters, Callee("http://engine"))
    engine = Engine(socket)
    async with trio.open_nursery() as nursery:
        await call.open()
        start = engine.codec.decode_start(await socket.receive())
        assert start is not None
        assert (start.call_id, start.token) == (CALL, "t0ken")
        nursery.start_soon(call.run)
        nursery.start_soon(agent, engine)
        yield call
        nursery.cancel_scope.cancel()


async def echo(engine: Engine) -> None:
    await engine.say("Hello.")
    try:
        while True:
            event = await engine.receive()
            if isinstance(event, Prompt) and event.is_last:
                await engine.say("You said ", f"{event.text}.")
            elif isinstance(event, Dtmf):
                await engine.say(f"You pressed {event.digit}.")
    except trio.EndOfChannel:
        pass


async def test_a_call_is_greeted_answered_and_hung_up(autojump_clock: MockClock) -> None:
    async with answered_by(echo) as call:
        assert await call.wait_for_reply() == "Hello."
        await call.say("a question", "a que")
        assert await call.wait_for_reply() == "You said a question."
        await call.press("5")
        assert await call.wait_for_reply() == "You pressed 5."
        await call.hang_up()
        assert call.end == "caller"
        with pytest.raises(LineLost):
            await call.say("hello?")
        assert not call.violations


async def test_who_speaks_into_an_answer_cuts_it_off_and_both_know_where(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def agent(engine: Engine) -> None:
        await engine.say("One two three four five six seven eight nine ten.")
        seen.append(await engine.receive())
        seen.append(await engine.receive())

    async with answered_by(agent) as call:
        await call.wait_until_speaking()
        await trio.sleep(7 / CHARS_PER_S)
        await call.say("stop")
        await trio.sleep(0.1)
        assert call.heard == ["One two"]
    cut, prompt = seen
    assert isinstance(cut, CutOff)
    assert cut.heard == "One two"
    assert cut.heard_s == pytest.approx(7 / CHARS_PER_S, abs=0.01)
    assert prompt == Prompt("stop")


async def test_the_end_comes_once_all_has_been_said_and_keys_are_pressed(autojump_clock: MockClock) -> None:
    async def agent(engine: Engine) -> None:
        await engine.say("Goodbye now.")
        await engine.socket.send(engine.codec.encode_digits("1w#"), engine.codec.encode_end())

    async with answered_by(agent) as call:
        began_s = trio.current_time()
        assert await call.wait_until_over() == "agent"
        assert trio.current_time() - began_s >= len("Goodbye now.") / CHARS_PER_S
        assert call.digits == "1w#"
        assert not call.violations


@pytest.mark.parametrize(
    "message",
    [
        "not JSON",
        "[]",
        '{"type":"clear"}',
        '{"type":"text"}',
        '{"type":"text","token":null,"last":true}',
        '{"type":"text","token":"a","last":"true"}',
        '{"type":"text","token":"a","more":1}',
        '{"type":"sendDigits","digits":"A"}',
        '{"type":"language"}',
        '{"type":"end","handoffData":{}}',
        b"\0",
    ],
)
async def test_what_twilio_does_not_take_is_told_and_ten_in_a_row_end_the_call(
    message: str | bytes, autojump_clock: MockClock
) -> None:
    async def agent(engine: Engine) -> None:
        for number in range(19):
            if number == 9:
                await engine.say("Right.")
            else:
                await engine.socket.send(message)
        await trio.sleep(1)
        await engine.socket.send(message)

    async with answered_by(agent) as call:
        await trio.sleep(0.5)
        assert not call.end, "one good one in between begins the count anew"
        assert call.violations.total() == 18
        assert await call.wait_until_over() == "twilio 1007"


async def test_an_agent_that_says_nothing_is_too_slow(autojump_clock: MockClock) -> None:
    async def agent(engine: Engine) -> None:
        await engine.socket.send(engine.codec.encode_text("never whole", is_last=False))

    async with answered_by(agent) as call:
        with pytest.raises(TooSlow):
            await call.wait_for_reply(within_s=2)


def test_other_documents_are_named() -> None:
    with pytest.raises(CallRefused, match="Busy"):
        read_relay(b"<Response><Say>Busy</Say><Hangup/></Response>")
    for inside in (
        "<Connect/>",
        "<Play/>",
        '<Connect><Stream url="wss://h"/></Connect>',
        '<Connect><ConversationRelay url="https://h"/></Connect>',
        '<Connect><ConversationRelay url="wss://h" invented="1"/></Connect>',
        '<Connect><ConversationRelay url="wss://h"><Stream/></ConversationRelay></Connect>',
    ):
        with pytest.raises(CallFailed):
            read_relay(f"<Response>{inside}</Response>".encode())
