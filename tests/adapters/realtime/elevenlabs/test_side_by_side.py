"""ElevenLabs Agents over HTTP and over the WebSocket, side by side (D3): one conversation, one session id, the opening
once, everything that was said shown with every turn, and the same answers."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from adapters.realtime.elevenlabs.chat import ElevenLabsAgentsChatVendor
from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.http import (
    ElevenLabsAgentsHttpConfig,
    ElevenLabsAgentsHttpVendor,
    parts_of,
)
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import (
    Context,
    Exchange,
    Message,
    Modality,
    ModelPart,
    ReplyText,
    Role,
    SessionInfo,
    ToolCall,
    ToolResult,
)
from engine.ports import ModelVendor, RawModel
from engine.runtime.ledger import Ledger
from engine.runtime.network import Network
from tests.contract.ears import NoBook
from tests.contract.realtime_benches import ELEVENLABS, talking
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.loopback import dialled
from tests.simulation.steps import AtStep, fix_the_order, is_target

SESSION = SessionInfo("session-4711", "desk", Modality.TEXT)
OPENING = "Welcome to the desk, what can I do for you?"
TURNS = ("my word is canary1", "another is canary2", "it rains", "and it snows", "what do you know")


def _http(key: str, network: Network) -> ModelVendor:
    return ElevenLabsAgentsHttpVendor(ElevenLabsAgentsHttpConfig(key, agent="agent_1", url="http://cloud"), network)


def _chat(key: str, network: Network) -> ModelVendor:
    config = ElevenLabsAgentsConfig(key, agent="agent_1", url="ws://cloud/v1/convai/conversation")
    return ElevenLabsAgentsChatVendor(config, network)


@dataclass(frozen=True)
class Way:
    name: str
    make: Callable[[str, Network], ModelVendor]

    def __str__(self) -> str:
        return self.name


HTTP, CHAT = Way("http", _http), Way("websocket", _chat)
each_way = pytest.mark.parametrize("way", [HTTP, CHAT], ids=str)


@asynccontextmanager
async def open_model(way: Way, cloud: ElevenLabsAgentsCloud, nursery: Any, key: str = "k") -> AsyncIterator[RawModel]:
    ledger = Ledger("CA1", NoBook())
    async with way.make(key, dialled(cloud, nursery)).open(SESSION, ledger) as model:
        yield model
    assert model.is_closed
    assert not ledger.entries


def context_of(messages: list[Message], **more: Any) -> Context:
    system = Message(Role.SYSTEM, "The caller likes canary0.")
    return Context((system, *messages), session_id=SESSION.session_id, instructions="Be of help.", **more)


async def answer(model: RawModel, context: Context) -> list[ModelPart]:
    async with model.open_reply(context) as parts:
        return [part async for part in parts]


def text_of(parts: list[ModelPart]) -> str:
    return "".join(part for part in parts if isinstance(part, str)).strip()


async def converse(way: Way, cloud: ElevenLabsAgentsCloud, nursery: trio.Nursery) -> list[str]:
    """The whole conversation; what was answered."""
    messages = [Message(Role.AGENT, OPENING)]
    answers = []
    async with open_model(way, cloud, nursery) as model:
        for turn in TURNS:
            messages.append(Message(Role.CALLER, turn))
            answers.append(text_of(await answer(model, context_of(messages))))
            messages.append(Message(Role.AGENT, answers[-1]))
    await trio.sleep(1.0)
    assert (cloud.sockets_open, cloud.requests_open) == (0, 0)
    assert cloud.faults == []
    return answers


def shown_over_http(cloud: ElevenLabsAgentsCloud) -> list[tuple[str, str]]:
    """Session id and everything shown, for each turn."""
    return [
        (
            test["dynamic_variables"]["session_id"],
            "\n".join([test["dynamic_variables"]["context"], *(turn["message"] for turn in test["chat_history"])]),
        )
        for test in cloud.tests.asked
    ]


def shown_over_the_socket(cloud: ElevenLabsAgentsCloud) -> list[tuple[str, str]]:
    shown = []
    for session in cloud.sessions:
        told = [said["text"] for said in session.told if "text" in said]
        prompt = session.initiation["conversation_config_override"]["agent"]["prompt"]["prompt"]
        shown.append((session.initiation["dynamic_variables"]["session_id"], "\n".join([prompt, *told])))
    return shown


@pytest.mark.proves("ours", adapter=("elevenlabs_agents_http", "elevenlabs_agents in text"))
async def test_both_ways_are_the_same_conversation(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    clouds = {way: ElevenLabsAgentsCloud() for way in (HTTP, CHAT)}
    answers = {way: await converse(way, cloud, nursery) for way, cloud in clouds.items()}
    assert answers[HTTP] == answers[CHAT]
    assert answers[HTTP][-1] == "Turn 5. You said what do you know. I know canary0 and canary1 and canary2."
    shown = {HTTP: shown_over_http(clouds[HTTP]), CHAT: shown_over_the_socket(clouds[CHAT])}
    for way, turns in shown.items():
        assert len(turns) == len(TURNS)
        for number, (session_id, text) in enumerate(turns, 1):
            assert session_id == SESSION.session_id, way
            assert text.count(OPENING) == 1, way
            assert all(text.count(said) >= 1 for said in TURNS[:number]), way
            assert all(said in text for said in answers[way][: number - 1]), way
        assert all(OPENING not in said for said in answers[way])


async def test_a_call_over_the_socket_is_the_same_conversation_too(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """One connection for all turns, where the written ways make one for each."""
    cloud = ElevenLabsAgentsCloud()
    context = context_of([Message(Role.AGENT, OPENING)])
    async with talking(ELEVENLABS, cloud, nursery, context=context) as rig:
        for turn in TURNS:
            rig.model.told(turn)
            await rig.listen(5.0)
    spoken = [event.text for event in rig.of(ReplyText)]
    assert spoken == await converse(HTTP, ElevenLabsAgentsCloud(), nursery)
    assert len(cloud.sessions) == 1


@each_way
async def test_every_request_is_logged_with_the_session(
    way: Way, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    with structlog.testing.capture_logs() as logs:
        await converse(way, ElevenLabsAgentsCloud(), nursery)
    asked = [entry for entry in logs if entry["event"] == "model_request"]
    assert [entry["session_id"] for entry in asked] == [SESSION.session_id] * len(TURNS)
    assert "canary" not in repr(logs)


@each_way
async def test_a_tool_is_called_and_its_result_is_answered_on(
    way: Way, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    question = [Message(Role.CALLER, 'call the tool weather with {"city": "Bonn"}')]
    async with open_model(way, cloud, nursery) as model:
        parts = await answer(model, context_of(question))
        (call,) = [part for part in parts if isinstance(part, ToolCall)]
        assert (call.name, call.arguments.replace(" ", "")) == ("weather", '{"city":"Bonn"}')
        exchange = Exchange(text_of(parts), (call,), (ToolResult(call.call_id, "it rains in Bonn"),))
        await answer(model, context_of(question, exchanges=(exchange,)))
    shown = cloud.tests.asked if way is HTTP else [session.told for session in cloud.sessions]
    assert "it rains in Bonn" in repr(shown[-1])
    assert cloud.faults == []


async def test_the_test_at_the_vendor_is_one_and_is_deleted(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = ElevenLabsAgentsCloud()
    await converse(HTTP, cloud, nursery)
    made = [request for request in cloud.requests if request.path.endswith("/create")]
    assert len(made) == 1
    assert cloud.tests.kept == {}


@each_way
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, Why.AUTH),
        (404, Why.BAD_REQUEST),
        (429, Why.RATE_LIMITED),
        (500, Why.UNREACHABLE),
        (200, Why.NONSENSE),
        (302, Why.NONSENSE),
    ],
)
async def test_a_refusal_is_told_by_why(
    way: Way, status: int, why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.refuse_first, cloud.manner.refuses, cloud.manner.page = 1, status, b"<html>a page</html>"
    context = context_of([Message(Role.CALLER, "hello")])
    async with open_model(way, cloud, nursery) as model:
        with pytest.raises(ModelFailed) as failure:
            await answer(model, context)
        assert failure.value.why is why
        assert failure.value.retry_after_s == (2.0 if way is HTTP and status != 200 else None)
        assert text_of(await answer(model, context)).startswith("Turn 1.")


@each_way
async def test_a_wrong_key_is_told_as_such_and_never_repeated(
    way: Way, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_model(way, ElevenLabsAgentsCloud(), nursery, key="sk-secret") as model:
        with pytest.raises(ModelFailed) as failure:
            await answer(model, context_of([Message(Role.CALLER, "hello")]))
    assert failure.value.why is Why.AUTH
    assert "secret" not in repr(failure.value) + repr(failure.value.__cause__)


@each_way
async def test_an_answer_that_does_not_come_is_given_up(
    way: Way, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.pending_polls, cloud.manner.stalls = 10_000, True
    async with open_model(way, cloud, nursery) as model:
        with pytest.raises(ModelFailed) as failure:
            await answer(model, context_of([Message(Role.CALLER, "hello")]))
    assert failure.value.why is Why.TIMEOUT
    assert trio.current_time() < 32.0


async def test_a_vendor_that_hangs_up_in_the_middle_is_told_by_why(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.session_s = 0.05
    async with open_model(CHAT, cloud, nursery) as model:
        with pytest.raises(ModelFailed) as failure:
            await answer(model, context_of([Message(Role.CALLER, "hello")]))
    assert failure.value.why is Why.CUT


@pytest.mark.parametrize(
    "run",
    [{}, {"agent_responses": []}, {"agent_responses": "x"}, {"agent_responses": [{"role": "agent", "message": 5}]}],
)
def test_a_run_without_an_answer_is_none(run: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        parts_of(run)


class _Elsewhere:
    """Starts tasks of the cloud, whose steps are not counted."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, run: Any, *args: Any) -> None:
        token = is_target.set(False)
        self._nursery.start_soon(run, *args)
        is_target.reset(token)


@each_way
@pytest.mark.proves("cancelled")
async def test_cancelled_at_any_step_nothing_is_left(way: Way, autojump_clock: MockClock) -> None:
    for k in itertools.count(1):
        cloud = ElevenLabsAgentsCloud()
        cancelling = trio.CancelScope()
        fix_the_order()
        async with trio.open_nursery() as nursery:
            instrument = AtStep(k, lambda _, scope=cancelling: scope.cancel())  # type: ignore[misc]  # bound early
            trio.lowlevel.add_instrument(instrument)
            token = is_target.set(True)
            try:
                with cancelling:
                    async with open_model(way, cloud, _Elsewhere(nursery)) as model:
                        await answer(model, context_of([Message(Role.CALLER, "hello")]))
            finally:
                is_target.reset(token)
                trio.lowlevel.remove_instrument(instrument)
            await trio.sleep(1.0)
            assert (cloud.sockets_open, cloud.requests_open) == (0, 0), f"step {k}"
            nursery.cancel_scope.cancel()
        if k > instrument.steps:
            break
    assert k > 20
