"""One caller for every kind of talk: what is said to it, and what its agent answers, in the same words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from engine.errors import ModelFailed
from engine.events import Context, HandOver, HangUp, Heard, ReplyOver, ReplyPart, ToolCall, Transfer
from engine.observe.timeline import What
from tests.fakes.puppet import PuppetAgent, PuppetRealtimeAgent
from tests.fakes.relay_caller import RelayCaller, relay_call
from tests.fakes.stage import Caller, Stage, stage

GREETING = "Hello, this is the desk."
STORY = "One is the first. Two is the second. Three is the third."
FAILS = "fails"
"""The model does not answer that."""
Answer = Sequence[str | HangUp | Transfer | HandOver]
ANSWERS: Mapping[str, Answer] = {
    "count": [STORY],
    "bye": ["Goodbye.", HangUp()],
    "bye for good": ["Thank you for calling us today. Goodbye.", HangUp()],
    "a human please": ["One moment.", Transfer("+15550109999")],
    "a quote": ["One moment.", HandOver("sales")],
}


def answer_to(text: str, name: str = "desk") -> Answer:
    return ANSWERS.get(text, [f"{name.title()} heard {text}."]) if name == "desk" else [f"{name.title()} heard {text}."]


@dataclass(eq=False)
class Side:
    """The caller's end of one call."""

    on: Stage
    line: Caller | RelayCaller
    agents: Mapping[str, PuppetAgent]
    talks_with: str = "desk"

    @property
    def agent(self) -> PuppetAgent:
        return self.agents[self.talks_with]

    @property
    def history(self) -> list[str]:
        """What was heard of either side, in order."""
        moments = self.on.moments
        return [str(moment.fields["text"]) for moment in moments if moment.what in (What.HEARD, What.SAID)]

    async def says(self, text: str) -> None:
        """A whole turn. Into the agent's words, it stops them."""
        if isinstance(self.line, RelayCaller):
            if so_far := self.line.heard_so_far():
                await self.line.interrupts(so_far)
            await self.line.says(text)
        elif isinstance(self.agent, PuppetRealtimeAgent):
            self.agent.realtime.hears(text)
            self._reply(self.agent, answer_to(text, self.talks_with) if text != FAILS else [])
        else:
            self.agents["desk"].transcriber.hears(text)
        if text == "a quote":
            self.talks_with = "sales"

    def coughs(self) -> None:
        """A sound without words."""
        self.onset()
        self.words("")

    def onset(self) -> None:
        agent = self.agent
        (agent.realtime if isinstance(agent, PuppetRealtimeAgent) else agent.transcriber).onset()

    def words(self, text: str) -> None:
        """Of the sound that began."""
        if isinstance(self.agent, PuppetRealtimeAgent):
            self.agent.realtime.falls_silent()
            self.agent.realtime.tells(Heard(text))
        else:
            self.agent.transcriber.words(text)

    @property
    def clears(self) -> list[float]:
        """When the agent was silenced."""
        return self.line.clears if isinstance(self.line, Caller) else []

    def _reply(self, agent: PuppetRealtimeAgent, parts: Answer) -> None:
        """One reply, and what it calls."""
        if not parts:
            return
        reply_id = agent.realtime.begins(" ".join(part for part in parts if isinstance(part, str)))
        for part in parts:
            if not isinstance(part, str):
                agent.tools.outcomes = {"act": ["done", part]}
                agent.realtime.tells(ToolCall("c1", "act", "{}"))
        agent.realtime.tells(ReplyOver(reply_id))

    async def over(self) -> None:
        await self.line.gone.wait()
        await self.on.supervisor.registry.wait_empty()

    @property
    def end(self) -> Mapping[str, object]:
        return self.on.last(What.CALL_ENDED)


@dataclass(frozen=True)
class Kind:
    name: str

    def __str__(self) -> str:
        return self.name

    def agent(self, name: str = "desk", **knobs: Any) -> PuppetAgent:
        if self.name == "realtime":
            return PuppetRealtimeAgent(name=name, **knobs)

        def answers(context: Context) -> list[ReplyPart | float | Exception]:
            text = context[-1].text
            return [ModelFailed("puppet", "500")] if text == FAILS else list(answer_to(text, name))

        return PuppetAgent(answers, name=name, **knobs)

    @asynccontextmanager
    async def call(self, *, agents: Sequence[PuppetAgent] = (), **knobs: Any) -> AsyncIterator[Side]:
        """A call that has been answered; ``knobs`` are the stage's."""
        agents = agents or (self.agent(), self.agent("sales"))
        async with stage(*agents, **knobs) as on:
            opening = relay_call(on) if self.name == "relay" else on.call()
            async with opening as line:
                yield Side(on, line, {agent.name: agent for agent in agents})


KINDS = [Kind("pipeline"), Kind("realtime"), Kind("relay")]
WITH_AUDIO = KINDS[:2]
