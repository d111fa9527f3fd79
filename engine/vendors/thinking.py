"""The mind of a call that outlives its models: an answer in which one of them fails is gone on with, by another try or
another vendor, from the last whole sentence."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog
import trio

from engine.dialogue.context import Shortening
from engine.dialogue.sentences import MAX_CHARS, whole_sentences
from engine.errors import ModelFailed, VendorError, Why
from engine.events import Context, ModelPart, Role, SessionInfo, ToolCall, Usage
from engine.observe.labels import Token, VendorKind
from engine.ports import ModelVendor, Owner, PatientVendor, RawModel, ResourceKind, patience_of
from engine.runtime.background import beside, ungrouped
from engine.runtime.outlet import Outlet, filled
from engine.vendors.around import Asked, Vendoring
from engine.vendors.held import Held, Opener
from engine.vendors.patience import Patience
from engine.vendors.tries import Roster, Tries

log = structlog.get_logger()

ROOM = 64
"""Parts of an answer that have come and were not taken; then the vendor waits."""
RESULT_CHARS = 1000
"""Of a tool's result, where all of it is too long for the model."""


@asynccontextmanager
async def open_model(
    vendors: Sequence[ModelVendor], session: SessionInfo, owner: Owner, around: Vendoring
) -> AsyncIterator[Thinking]:
    """The models of these vendors, each in the owner's ledger under its name from when it is needed. Raises
    ModelFailed."""
    async with beside() as nursery:
        thinking = Thinking(vendors, session, owner, around, nursery)
        await thinking.connect()
        yield thinking
        await thinking.close()


class Thinking:
    """Implements ``engine.ports.RawModel``. ``Usage`` is counted here and not passed on; of an answer's text whole
    sentences are, with an empty piece before them when the first of it has come; tool calls come once the answer that
    holds them is whole."""

    def __init__(
        self,
        vendors: Sequence[ModelVendor],
        session: SessionInfo,
        owner: Owner,
        around: Vendoring,
        nursery: trio.Nursery,
    ) -> None:
        self._around = around
        self._session = session
        self._vendors = vendors
        self._roster = Roster(
            vendors, VendorKind.LLM, around, ModelFailed, call_id=session.call_id, session_id=session.session_id
        )
        self._opener: Opener[ModelVendor, RawModel] = Opener(
            self._roster, nursery, lambda vendor: _owned(vendor, session, owner)
        )
        self._held: dict[ModelVendor, Held[ModelVendor, RawModel]] = {}

    @property
    def is_closed(self) -> bool:
        return self._opener.is_closed

    @property
    def vendor(self) -> str:
        """See ``engine.ports.Backed``."""
        return self._roster.current.name

    async def connect(self) -> None:
        """Raises ModelFailed."""
        await self._model_of(self._roster.current)

    async def close(self) -> None:
        await self._opener.close()

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ModelPart]]:
        """See ``engine.ports.RawModel.open_reply``. Asked as often as may be of use; ModelFailed is the last word."""
        return filled(ROOM, partial(self._answer, context))

    async def _answer(self, context: Context, outlet: Outlet[ModelPart]) -> None:
        policy = self._around.policy
        tries = self._roster.tries(within_s=patience_of(self._vendors, policy.answer_s), most=policy.tries)
        answer = _Answer(context.said, outlet)
        may_shorten = True
        vendor = await tries.next()
        while True:
            said = answer.said
            try:
                await self._ask(vendor, replace(context, said=said), answer, tries)
            except VendorError as exc:
                if answer.has_acted:
                    raise  # what it did would be done again
                if answer.said != said:
                    tries.progressed(answer.said_at_s)
                shorter = shortened(context) if exc.why is Why.TOO_LONG and may_shorten else None
                may_shorten = may_shorten and shorter is None
                if shorter is not None:
                    self._has_shortened(context, shorter)
                    context = shorter
                    continue
                tries.failed(exc)
                vendor = await tries.next()
            else:
                return

    async def _ask(self, vendor: ModelVendor, context: Context, answer: _Answer, tries: Tries[ModelVendor]) -> None:
        """One request. Raises ModelFailed."""
        policy = self._around.policy
        held = await self._model_of(vendor)
        with self._around.asked(vendor.name, VendorKind.LLM) as asked:
            first_s, gap_s = policy.first_token_s, policy.token_gap_s
            if isinstance(vendor, PatientVendor):
                first_s = gap_s = vendor.patience_s
            patience = Patience(min(first_s, tries.left_s), gap_s)
            with patience.scope, ungrouped():
                usage = await answer.take(held.part, context, patience, asked)
            if patience.is_over:
                what = "stopped in the middle of an answer" if answer.has_begun else "gave no answer in time"
                raise ModelFailed(vendor.name, what, why=Why.TIMEOUT)
        for count, kind in ((usage.input_tokens, Token.INPUT), (usage.output_tokens, Token.OUTPUT)):
            self._around.metrics.llm_tokens_total.labels(vendor=vendor.name, type=kind).inc(count)

    async def _model_of(self, vendor: ModelVendor) -> Held[ModelVendor, RawModel]:
        held = self._held.get(vendor)
        if held is None or held.gone.is_set():
            held = self._held[vendor] = await self._opener.hold(vendor, self._around.policy.try_s)
        return held

    def _has_shortened(self, context: Context, shorter: Context) -> None:
        self._around.metrics.context_truncations_total.labels(how=Shortening.DROPPED).inc()
        log.warning(
            "context_too_long", session_id=self._session.session_id, messages=len(context), messages_now=len(shorter)
        )


class _Answer:
    """One answer over several requests."""

    def __init__(self, said: str, outlet: Outlet[ModelPart]) -> None:
        self.said = said
        """Passed on, as whole sentences; the last of them at:"""
        self.said_at_s = -math.inf
        self.has_begun = False
        """In this request."""
        self.has_acted = False
        """Something was passed on that must not come twice."""
        self._outlet = outlet
        self._held = ""
        self._late: list[ModelPart] = []

    async def take(self, model: RawModel, context: Context, patience: Patience, asked: Asked) -> Usage:
        """One request to its end. Raises ModelFailed."""
        self.has_begun, self._held, usage = False, "", Usage(0, 0)
        self._late.clear()
        patience.await_first()
        async with model.open_reply(context) as parts:
            while True:
                try:
                    part = await parts.receive()
                except trio.EndOfChannel:
                    break
                patience.await_listener()
                if isinstance(part, Usage):
                    usage = part
                else:
                    await self._pass_on(part)
                    asked.has_worked = self.has_acted
                patience.await_more()
            patience.await_listener()
            asked.has_worked = True
            await self._finish()
        return usage

    async def _pass_on(self, part: ModelPart) -> None:
        if not self.has_begun:
            self.has_begun = True
            if isinstance(part, str):
                await self._outlet.put("")
        if isinstance(part, ToolCall) or self._late:
            self._late.append(part)
        elif isinstance(part, str):
            self._held += part
            end = whole_sentences(self._held)
            await self._say(end if end or len(self._held) <= MAX_CHARS else self._held.rfind(" ") + 1)
        else:
            await self._say(len(self._held))
            self.has_acted = True
            await self._outlet.put(part)

    async def _finish(self) -> None:
        await self._say(len(self._held))
        for part in self._late:
            await self._outlet.put(part)

    async def _say(self, end: int) -> None:
        """So many characters of what is held."""
        if end:
            text, self._held = self._held[:end], self._held[end:]
            self.said += text
            await self._outlet.put(text)
            self.said_at_s = trio.current_time()


def shortened(context: Context) -> Context | None:
    """With the older half of the conversation left out; with none of that, with what tools have said cut short. None if
    nothing can be left out."""
    known = tuple(message for message in context if message.role is Role.SYSTEM)
    talk = tuple(message for message in context if message.role is not Role.SYSTEM)
    if len(talk) > 1:
        return replace(context, messages=(*known, *talk[(len(talk) + 1) // 2 :]))
    exchanges = tuple(
        replace(
            exchange, results=tuple(replace(result, text=result.text[:RESULT_CHARS]) for result in exchange.results)
        )
        for exchange in context.exchanges
    )
    return replace(context, exchanges=exchanges) if exchanges != context.exchanges else None


def _owned(vendor: ModelVendor, session: SessionInfo, owner: Owner) -> AbstractAsyncContextManager[RawModel]:
    opening = vendor.open(session, owner)
    return owner.own(ResourceKind.LLM_CONNECTION, vendor.name, opening, is_closed=lambda model: model.is_closed)
