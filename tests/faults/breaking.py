"""An agent that works, but for one number: there, one of its parts breaks or hangs, at a place that the test names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from engine.events import (
    AudioFormat,
    CallInfo,
    Context,
    Message,
    Recollection,
    ReplyPart,
    SessionInfo,
    TranscriberEvent,
)
from engine.ports import Agent, CallControl, LanguageModel, Owner, Synthesizer, Transcriber
from tests.fakes.puppet import speech_of
from tests.faults.bench import VICTIM_NUMBER, Bench

PLACES = (
    "open_transcriber",
    "open_synthesizer",
    "open_model",
    "transcriber opens",
    "synthesizer opens",
    "model opens",
    "transcriber.send",
    "transcriber.receive",
    "synthesizer.open_speech",
    "speech.receive",
    "model.open_reply",
    "reply.receive",
    "transcriber closes",
    "synthesizer closes",
    "model closes",
    "clip",
)
"""Where the parts of a call can break."""


def install(bench: Bench, place: str, error: BaseException | None, *, after: int = 0) -> BreakingAgent:
    """From now on calls of ``VICTIM_NUMBER`` break at ``place``, the first time or after so many times. Without an
    error they hang there instead."""
    agents = bench.rig.engine._agents
    agents["desk"] = breaking = BreakingAgent(agents["desk"], place, error, after)
    return breaking


class BreakingAgent:
    """``was_there`` counts how often the place was reached."""

    def __init__(self, inner: Agent, place: str, error: BaseException | None, after: int) -> None:
        self.name, self.phrases, self.pipeline = inner.name, inner.phrases, inner.pipeline
        self.mode = inner.mode
        self.transcriber_vendor = inner.transcriber_vendor
        self.synthesizer_vendor = inner.synthesizer_vendor
        self.model_vendor = inner.model_vendor
        self.was_there = 0
        self._inner = inner
        self._place = place
        self._error = error
        self._after = after

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the port's word
        if text != self.phrases.apology:
            return None
        self.check("clip")
        return speech_of("sorry", format)

    def check(self, place: str) -> None:
        if place == self._place:
            self.was_there += 1
            if self.was_there > self._after and self._error is not None:
                raise self._error

    async def check_or_hang(self, place: str) -> None:
        self.check(place)
        if place == self._place and self._error is None:
            await trio.sleep_forever()

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        opening = self._inner.open_transcriber(call, owner)
        return self._broken(call, "transcriber", opening, lambda part: _Transcriber(self, part))

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        opening = self._inner.open_synthesizer(call, owner)
        return self._broken(call, "synthesizer", opening, lambda part: _Synthesizer(self, part))

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        opening = self._inner.open_model(session, owner, control)
        return self._broken(session, "model", opening, lambda part: _Model(self, part))

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        return await self._inner.recollect(messages, before, session)

    def _broken(
        self,
        call: CallInfo | SessionInfo,
        kind: str,
        opening: AbstractAsyncContextManager[Any],
        wrap: Callable[[Any], Any],
    ) -> AbstractAsyncContextManager[Any]:
        if call.caller != VICTIM_NUMBER:
            return opening
        self.check(f"open_{kind}")
        return self._open(kind, opening, wrap)

    @asynccontextmanager
    async def _open(
        self, kind: str, opening: AbstractAsyncContextManager[Any], wrap: Callable[[Any], Any]
    ) -> AsyncIterator[Any]:
        await self.check_or_hang(f"{kind} opens")
        async with opening as part:
            yield wrap(part)
        await self.check_or_hang(f"{kind} closes")


class _Transcriber:
    decides_turns = False

    def __init__(self, agent: BreakingAgent, inner: Transcriber) -> None:
        self._agent, self._inner = agent, inner

    @property
    def is_closed(self) -> bool:
        return self._inner.is_closed

    def send(self, audio: bytes) -> None:
        self._agent.check("transcriber.send")
        self._inner.send(audio)

    async def receive(self) -> TranscriberEvent:
        event = await self._inner.receive()
        await self._agent.check_or_hang("transcriber.receive")
        return event


class _Synthesizer:
    def __init__(self, agent: BreakingAgent, inner: Synthesizer) -> None:
        self._agent, self._inner = agent, inner

    @property
    def is_closed(self) -> bool:
        return self._inner.is_closed

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        await self._agent.check_or_hang("synthesizer.open_speech")
        async with self._inner.open_speech(text) as speech:
            yield _Channel(self._agent, "speech.receive", speech)


class _Model:
    def __init__(self, agent: BreakingAgent, inner: LanguageModel) -> None:
        self._agent, self._inner = agent, inner

    @property
    def is_closed(self) -> bool:
        return self._inner.is_closed

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        await self._agent.check_or_hang("model.open_reply")
        async with self._inner.open_reply(context) as reply:
            yield _Channel(self._agent, "reply.receive", reply)


class _Channel(trio.abc.ReceiveChannel[Any]):
    def __init__(self, agent: BreakingAgent, place: str, inner: trio.abc.ReceiveChannel[Any]) -> None:
        self._agent, self._place, self._inner = agent, place, inner

    async def receive(self) -> Any:
        item = await self._inner.receive()
        await self._agent.check_or_hang(self._place)
        return item

    async def aclose(self) -> None:
        await self._inner.aclose()
