"""The mind of a conversation: a turn's answer, from whichever agent's model, sentence by sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from engine.calls.gate import Gate
from engine.calls.talks.conversing import Conversing
from engine.calls.talks.errands import After, Errands, Minded
from engine.calls.talks.pulse import Ground
from engine.dialogue.conversation import MAX_HANDOVERS
from engine.dialogue.sentences import SentenceSplitter
from engine.errors import ModelFailed, VendorError
from engine.events import HandOver, HangUp, Noted, ReplyPart, Transfer
from engine.observe.labels import Stage, VendorKind, VendorStatus
from engine.ports import Agent, LanguageModel, patience_with, vendor_of
from engine.runtime.background import ungrouped
from engine.sessions.call_session import CallSession


class Saying(Protocol):
    """An answer on its way to the caller."""

    scope: trio.CancelScope
    gate: Gate
    """Open once it is certain that this is to be answered."""
    unsaid: str
    """The caller's words, as long as they are not in the session, because the caller may go on."""
    pending: list[Noted]
    """What is to be remembered, as long as the gate is closed."""
    after: After | None

    @property
    def has_words(self) -> bool: ...

    @property
    def text(self) -> str:
        """All of it so far."""
        ...

    @property
    def seconds(self) -> float:
        """How long it is so far."""
        ...


Say = Callable[[str, float], Awaitable[None]]
"""Say a sentence. With it comes the time at which the model began to answer."""


class Mind:
    """``agent`` is whose model answers now: another one's, once the session has been handed over."""

    def __init__(self, agent: Agent, model: LanguageModel, ground: Ground, errands: Errands) -> None:
        self.agent = agent
        self._model = model
        self._session = ground.session
        self._meters = ground.meters
        self._longest_s = ground.limits.max_answer_s
        self._errands = errands

    @property
    def vendor(self) -> str:
        """Of the model that answers now."""
        return vendor_of(self._model, self.agent.model_vendor)

    async def answer(self, saying: Saying, say: Say) -> Conversing | None:
        """The answer to the caller's last words; one that holds nothing is asked for once more. Returns the talk that
        is to go on once this has been heard, if an agent takes over that needs its own. Raises VendorError."""
        self._errands.thinking(saying.gate)
        if self._session.successor:
            # Somebody outside has handed the session over: from this turn on it is that agent's.
            if heir := await self._hand_over(self._session.successor, saying):
                return heir
            self._session.follow()
        for _ in range(2):
            for _ in range(MAX_HANDOVERS):
                successor = await self._ask(saying, say)
                if successor is None:
                    break
                # The answer goes on with the next agent's words.
                if heir := await self._hand_over(successor, saying):
                    return heir
                self._session.hand_over(successor)
            if saying.after or saying.has_words:
                return None
        raise ModelFailed(self.vendor, "empty answer")

    async def _hand_over(self, name: str, saying: Saying) -> Conversing | None:
        await saying.gate.wait()
        match await self._errands.hand_over(name, saying.text):
            case Minded(agent, model):
                self.agent, self._model = agent, model
                saying.scope.deadline += patience_with(agent)
                return None
            case heir:
                return heir

    async def _ask(self, saying: Saying, say: Say) -> str | None:
        """One model's reply; and the agent that it hands over to, if it does."""
        reply = _Reply(saying, self._session)
        splitter = SentenceSplitter()
        asked_at_s = trio.current_time()
        status = VendorStatus.CANCELLED
        try:
            # A model may run a nursery of its own: its failure comes in a group then.
            with ungrouped(), self._meters.asked(VendorKind.LLM, self.agent.model_vendor, saying.scope):
                context = self._session.context(self.agent, unsaid=saying.unsaid, vendor=self.vendor)
                async with self._model.open_reply(context) as parts:
                    async for part in parts:
                        if not isinstance(part, Noted) and not reply.began_at_s:
                            reply.began_at_s = trio.current_time()
                            self._stage(Stage.LLM_FIRST_TOKEN, reply.began_at_s - asked_at_s)
                        if reply.take(part):
                            break
                        if isinstance(part, str):
                            for sentence in splitter.feed(part):
                                await self._say(saying, say, sentence, reply.began_at_s)
                        if saying.seconds >= self._longest_s:
                            break
            status = VendorStatus.OK
        except VendorError:
            status = VendorStatus.ERROR
            raise
        finally:
            took_s = trio.current_time() - asked_at_s
            said = "".join(reply.said)
            self._session.model_answered(self.agent, said, status=status, took_s=took_s, vendor=self.vendor)
        if saying.seconds < self._longest_s:
            for sentence in splitter.flush():
                await self._say(saying, say, sentence, reply.began_at_s)
        return reply.successor

    async def _say(self, saying: Saying, say: Say, sentence: str, began_at_s: float) -> None:
        if not saying.has_words:
            self._stage(Stage.LLM_FIRST_SENTENCE, trio.current_time() - began_at_s)
        await say(sentence, began_at_s)

    def _stage(self, stage: Stage, seconds: float) -> None:
        self._meters.stage(stage, self.vendor, seconds)


class _Reply:
    """What one model has said and wants so far."""

    def __init__(self, saying: Saying, session: CallSession) -> None:
        self.said: list[str] = []
        self.successor: str | None = None
        self.began_at_s = 0.0
        self._saying = saying
        self._session = session

    def take(self, part: ReplyPart) -> bool:
        """True when nothing more is wanted of it."""
        match part:
            case str():
                self.said.append(part)
            case Noted() if self._saying.gate.is_open:
                self._session.note(part)
            case Noted():
                self._saying.pending.append(part)
            case HangUp() | Transfer():
                self._saying.after = part
                return True
            case HandOver(agent):
                self.successor = agent
                return True
        return False
