"""A vendor's model becomes a mind: it is shown its tools, what it calls is run, and it is asked again with what came of
that, until it has answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from engine.errors import VendorError
from engine.events import Context, Exchange, HandOver, HangUp, ReplyPart, SessionInfo, ToolCall, Transfer, Usage
from engine.ports import Action, CallControl, LanguageModel, RawModel, vendor_of
from engine.runtime.background import beside, ungrouped
from engine.tools.toolbox import Round, Toolbox, ToolUse

REFUSED_ROUNDS: Final = 1
"""After so many rounds of calls that were all refused, a model that calls on is not asked any more."""
_PARAGRAPH: Final = "\n"
"""Ends a sentence: what is said before a call is heard while the tool works."""


@asynccontextmanager
async def tool_using(
    opening: AbstractAsyncContextManager[RawModel], toolbox: Toolbox, session: SessionInfo, control: CallControl
) -> AsyncIterator[LanguageModel]:
    """For one call, or one written turn.

    What a model says together with its calls is said at once. Hanging up and transferring come at the end of the
    answer, and end it: if nothing has been said until then, the model is asked once more, for a word of farewell.
    Handing over ends it at once. Failures of the model are raised by the answer's channel.
    """
    async with opening as model:
        yield _ToolUsing(model, toolbox.use(session, control))


class _ToolUsing:
    def __init__(self, model: RawModel, tools: ToolUse) -> None:
        self._model = model
        self._tools = tools
        self._turn_id = ""

    @property
    def is_closed(self) -> bool:
        return self._model.is_closed

    @property
    def vendor(self) -> str:
        """See ``engine.ports.Backed``."""
        return vendor_of(self._model, "")

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        if not context.turn_id or context.turn_id != self._turn_id:
            self._turn_id = context.turn_id
            self._tools.begin_turn()
        parts, receive = trio.open_memory_channel[ReplyPart](0)
        answer = _Answer(self._model, self._tools, context, parts)
        # The task ends before its channel closes: it never sends to nobody.
        async with _Parts(receive, answer) as channel, beside(answer.run):
            yield channel


class _Answer:
    """One answer, over as many rounds as it takes."""

    def __init__(
        self, model: RawModel, tools: ToolUse, context: Context, parts: trio.abc.SendChannel[ReplyPart]
    ) -> None:
        self._model = model
        self._tools = tools
        self._context = replace(context, tools=tools.offered)
        self._parts = parts
        self._last: Action | None = None
        """What the answer ends with."""
        self.failure: VendorError | None = None

    async def run(self) -> None:
        """Fills the channel, and closes it."""
        async with self._parts:
            try:
                with ungrouped():
                    await self._rounds()
            except VendorError as exc:
                # The word of farewell is missing; what is to be done can still be done.
                self.failure = exc if self._last is None else None
            if self._last is not None:
                await self._parts.send(self._last)

    async def _rounds(self) -> None:
        refused = 0
        while refused <= REFUSED_ROUNDS:
            said, calls = await self._ask()
            if not calls or self._last is not None:
                break
            done = await self._tools.run(calls, self._context)
            refused += done.is_refused
            await self._take_actions(done)
            if isinstance(self._last, HandOver) or (self._last is not None and any(map(str.isalnum, said))):
                break
            exchange = Exchange(said, tuple(calls), done.results)
            self._context = replace(self._context, exchanges=(*self._context.exchanges, exchange), said="")

    async def _ask(self) -> tuple[str, list[ToolCall]]:
        """What the model says, passed on as it comes, and what it calls."""
        said, calls = list[str](), list[ToolCall]()
        async with self._model.open_reply(self._context) as parts:
            async for part in parts:
                match part:
                    case ToolCall():
                        if not calls and said:
                            await self._parts.send(_PARAGRAPH)
                        calls.append(part)
                    case str():
                        said.append(part)
                        await self._parts.send(part)
                    case Usage():
                        pass
                    case _:
                        await self._parts.send(part)
        return "".join(said), calls

    async def _take_actions(self, done: Round) -> None:
        for action in done.actions:
            if not isinstance(action, HangUp | Transfer | HandOver):
                await self._parts.send(action)
            elif self._last is None:
                self._last = action


class _Parts(trio.abc.ReceiveChannel[ReplyPart]):
    """The answer's channel: raises what the model failed with once all that came before has been taken."""

    def __init__(self, inner: trio.MemoryReceiveChannel[ReplyPart], answer: _Answer) -> None:
        self._inner = inner
        self._answer = answer

    async def receive(self) -> ReplyPart:
        try:
            return await self._inner.receive()
        except trio.EndOfChannel:
            if self._answer.failure is not None:
                raise self._answer.failure from None
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()
