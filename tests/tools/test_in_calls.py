"""Tools in a call: when they run, what the caller hears meanwhile, and what the provider is asked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import httpx
import trio
from trio.testing import MockClock

from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from engine.dialogue.context import ContextLimits
from engine.events import CallInfo, Context, Modality, ModelPart, SessionInfo
from engine.observe.metrics import Metrics
from engine.observe.timeline import What
from engine.ports import CallControl, LanguageModel, Owner, ToolScope
from engine.sessions.call_session import CallSession, LoneSeat
from engine.sessions.showing import Showing
from engine.storage.record import Scope, SessionRecord, new_session_id
from engine.tools.builtin import built_in
from engine.tools.toolbox import Toolbox
from engine.tools.using import tool_using
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import Stage, stage
from tests.tools.scripted import NUMBER, Puppet, ScriptedModel, call, metrics


class ToolAgent(PuppetAgent):
    """Its mind is what ``answers`` makes of what it is shown, with these tools."""

    def __init__(self, answers: Callable[[Context], list[ModelPart | float | Exception]], toolbox: Toolbox) -> None:
        super().__init__()
        self.shown: list[Context] = []
        self._answer = answers
        self._toolbox = toolbox

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        return tool_using(nullcontext(self), self._toolbox, session, control)

    is_closed = True

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ModelPart]]:
        self.shown.append(context)
        model = ScriptedModel(self._answer(context))
        async with model.open_reply(context) as parts:
            yield parts


def looks_up(context: Context) -> list[ModelPart | float | Exception]:
    """Calls one tool with the caller's words, and says what it found."""
    if context.exchanges:
        return [f"It is {context.exchanges[-1].results[0].text}."]
    return [call("look_up", words=context[-1].text)]


async def test_a_filler_is_heard_while_a_tool_takes_its_time(autojump_clock: MockClock) -> None:
    """FAULTS 37."""

    async def hangs(_: Mapping[str, Any], __: ToolScope) -> str:
        await trio.sleep_forever()
        raise AssertionError

    agent = ToolAgent(looks_up, Toolbox([Puppet(work=hangs)], metrics()))
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("what is it")
        said_at_s = trio.current_time()
        await trio.sleep(2.6)
        assert on.count(What.FILLER) == 1
        await trio.sleep(8)
        assert on.texts(What.SAID)[-1] == "It is No answer within 5 s; whether it was done is not known.."
        assert on.last(What.SAID)["response_ms"] < 8000  # type: ignore[operator]  # a number
        assert on.at(What.FILLER) - said_at_s < 2.5


async def test_a_draft_calls_no_tool_before_the_turn_is_over(autojump_clock: MockClock) -> None:
    tool = Puppet()
    agent = ToolAgent(looks_up, Toolbox([tool], metrics()))
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("I would like a table")
        await trio.sleep(0.35)
        assert [context[-1].text for context in agent.shown] == ["I would like a table"]
        assert tool.calls == []
        agent.transcriber.hears("for two")
        await trio.sleep(4)
        assert tool.calls == [{"words": "I would like a table for two"}]
        assert on.texts(What.SAID)[1:] == ["It is found 1."]


async def test_a_caller_who_cuts_in_stops_the_tool_and_is_answered(autojump_clock: MockClock) -> None:
    cancelled: list[float] = []

    async def slow(arguments: Mapping[str, Any], _: ToolScope) -> str:
        try:
            await trio.sleep(3)
        except trio.Cancelled:
            cancelled.append(trio.current_time())
            raise
        return str(arguments["words"])

    agent = ToolAgent(looks_up, Toolbox([Puppet(work=slow)], metrics()))
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("one thing.")
        await trio.sleep(1)
        agent.transcriber.hears("and another.")
        await trio.sleep(6)
        assert len(cancelled) == 1
        assert on.texts(What.SAID)[1:] == ["It is one thing. and another.."]


# --- the provider -----------------------------------------------------------------------------------------------


class Rest:
    """Twilio's REST API, and the clients that asked it."""

    def __init__(self, *, hangs: bool = False, status: int = 201) -> None:
        self.asked: list[dict[str, str]] = []
        self.clients: list[httpx.AsyncClient] = []
        self._hangs = hangs
        self._status = status

    def client(self) -> httpx.AsyncClient:
        self.clients.append(httpx.AsyncClient(transport=httpx.MockTransport(self._answer)))
        return self.clients[-1]

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        if self._hangs:
            await trio.sleep_forever()
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        self.asked.append(form)
        return httpx.Response(self._status, json={"sid": "SM1"})


def texts(context: Context) -> list[ModelPart | float | Exception]:
    if context.exchanges:
        return [f"{context.exchanges[-1].results[0].text}"]
    wants = "send_text" in [spec.name for spec in context.tools]
    return [call("send_text", text="The address.")] if wants else ["I cannot."]


@asynccontextmanager
async def whose(number: str, info: CallInfo, metrics: Metrics) -> AsyncIterator[CallSession]:
    """A session of this number."""
    at = time.time()
    record = SessionRecord(new_session_id(), "stream:x", Scope.CALL, at, at, info.agent, Modality.VOICE)
    seat = LoneSeat(replace(record, number=number))
    session = CallSession(seat, info, Showing(metrics, ContextLimits(), keeps_trace=False), time.time)
    try:
        yield session
    finally:
        session.close()


@asynccontextmanager
async def texting(rest: Rest, number: str = NUMBER) -> AsyncIterator[tuple[Stage, ToolAgent]]:
    agent = ToolAgent(texts, Toolbox(built_in(["send_text"], transfers={}, others=[]), metrics()))
    provider = TwilioProvider(TwilioConfig(auth_token="secret", account_sid="AC1"))
    async with stage(
        agent,
        provider=provider,
        new_http_client=rest.client,
        open_session=lambda info, metrics: whose(number, info, metrics),
    ) as on:
        yield on, agent
        assert on.value("resources_open", kind="http_client", vendor="twilio") == 0
        assert on.value("resources_leaked_total", kind="http_client") == 0
    assert all(client.is_closed for client in rest.clients)


async def test_a_text_goes_from_the_dialled_number_to_the_caller(autojump_clock: MockClock) -> None:
    rest = Rest()
    async with texting(rest) as (on, agent), on.call():
        await trio.sleep(3)
        agent.transcriber.hears("text me")
        await trio.sleep(4)
        assert on.texts(What.SAID)[-1] == "Sent."
        assert rest.asked == [{"From": "+15550100000", "To": NUMBER, "Body": "The address."}]
        assert on.value("vendor_requests_total", vendor="twilio", kind="telephony", status="ok") == 1


async def test_a_provider_that_does_not_answer_holds_nobody_up_for_long(autojump_clock: MockClock) -> None:
    rest = Rest(hangs=True)
    async with texting(rest) as (on, agent), on.call():
        await trio.sleep(3)
        agent.transcriber.hears("text me")
        await trio.sleep(9)
        assert on.texts(What.SAID)[-1] != "Sent."
        assert rest.clients[0].is_closed
        assert on.value("vendor_requests_total", vendor="twilio", kind="telephony", status="timeout") == 1


async def test_a_provider_that_refuses_is_a_failed_tool(autojump_clock: MockClock) -> None:
    async with texting(Rest(status=400)) as (on, agent), on.call():
        await trio.sleep(3)
        agent.transcriber.hears("text me")
        await trio.sleep(4)
        assert on.texts(What.SAID)[-1] == "The text could not be sent."


async def test_a_caller_without_a_number_is_not_texted(autojump_clock: MockClock) -> None:
    rest = Rest()
    async with texting(rest, number="") as (on, agent), on.call():
        await trio.sleep(3)
        agent.transcriber.hears("text me")
        await trio.sleep(4)
        assert on.texts(What.SAID)[-1] == "I cannot."
    assert rest.asked == []


async def test_a_hang_up_while_the_provider_is_asked_leaves_nothing(autojump_clock: MockClock) -> None:
    rest = Rest(hangs=True)
    async with texting(rest) as (on, agent):
        async with on.call():
            await trio.sleep(3)
            agent.transcriber.hears("text me")
            await trio.sleep(2)
            assert len(rest.clients) == 1
            began_s = trio.current_time()
        assert trio.current_time() - began_s < 1
        assert rest.clients[0].is_closed
