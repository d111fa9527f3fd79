"""What models are shown, checked and counted: one place for calls and texts."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from engine.dialogue.context import Built, ContextLimits, FactsKnown, Shortening, build_context
from engine.dialogue.conversation import Conversation
from engine.dialogue.history import Entry, TraceWhat
from engine.dialogue.validator import Rule, violations
from engine.events import Context, Modality
from engine.observe.metrics import Metrics
from engine.ports import Agent
from engine.storage.record import SessionRecord

log = structlog.get_logger()


class Showing:
    """Makes contexts. ``keeps_trace``: what is shown is written down with the turn."""

    def __init__(self, metrics: Metrics, limits: ContextLimits, *, keeps_trace: bool = True) -> None:
        self._metrics = metrics
        self._limits = limits
        self._keeps_trace = keeps_trace
        self._log = log.bind()  # once: it is asked for each turn
        self._shortened = {how: metrics.context_truncations_total.labels(how=how) for how in Shortening}

    def context(
        self,
        record: SessionRecord,
        before: Sequence[Entry],
        conversation: Conversation,
        *,
        agent: Agent,
        modality: Modality,
        call_id: str = "",
        is_returning: bool,
        facts: FactsKnown,
        unsaid: str = "",
        vendor: str = "",
    ) -> Context:
        """The context of the turn that is open in ``conversation``; ``before`` is everything that came before it, and
        ``facts`` is what the session knows of it. ``unsaid``: words of the caller that may not be all of a turn yet.
        ``vendor``: who is asked, if not the first of the agent's models."""
        entries = (*before, *conversation.open_entries_with(unsaid))
        built = build_context(
            entries,
            record.memory,
            self._limits,
            session_id=record.session_id,
            turn_id=conversation.turn_id,
            agent=agent.name,
            modality=modality,
            is_returning=is_returning,
            facts=facts,
        )
        broken = violations(built.context, entries, self._limits, record.session_id)
        self._count(built, broken)
        if broken:
            log.warning("context_violated", session_id=record.session_id, rules=[str(rule) for rule in broken])
        vendor = vendor or agent.model_vendor
        self._log.debug("model_asked", session_id=record.session_id, turn_id=conversation.turn_id, vendor=vendor)
        if self._keeps_trace:
            knew = list(dict.fromkeys(entry.turn_id for entry in entries[-self._limits.window :]))
            self._trace(built.context, broken, knew, conversation, agent, vendor, call_id)
        if any(entry.modality is not modality for entry in entries[-self._limits.window :]):
            conversation.bridged(record.session_id)
        return built.context

    def recalled(
        self,
        record: SessionRecord,
        before: Sequence[Entry],
        conversation: Conversation,
        *,
        agent: Agent,
        is_returning: bool,
        facts: FactsKnown,
    ) -> Context:
        """What was said so far, for a model that follows the conversation itself from here on: nothing in it waits for
        an answer."""
        return build_context(
            (*before, *conversation.open_entries),
            record.memory,
            self._limits,
            session_id=record.session_id,
            turn_id=conversation.turn_id,
            agent=agent.name,
            modality=Modality.VOICE,
            is_returning=is_returning,
            facts=facts,
        ).context

    def _count(self, built: Built, broken: Sequence[Rule]) -> None:
        self._metrics.context_messages.observe(len(built.context))
        self._metrics.context_tokens.observe(built.tokens)
        for how in built.shortened:
            self._shortened[how].inc()
        for rule in broken:
            self._metrics.context_violations_total.labels(rule=rule).inc()

    def _trace(  # noqa: PLR0917 - all that a trace of it holds
        self,
        context: Context,
        broken: Sequence[Rule],
        knew: list[str],
        conversation: Conversation,
        agent: Agent,
        vendor: str,
        call_id: str,
    ) -> None:
        conversation.trace(
            TraceWhat.MODEL_ASKED,
            context.session_id,
            turn_id=context.turn_id,
            agent=agent.name,
            vendor=vendor,
            modality=str(context.modality),
            call_id=call_id,
            shown=[[str(message.role), message.text] for message in context],
            violations=[str(rule) for rule in broken],
            knew=knew,
        )

    def answered(
        self,
        conversation: Conversation,
        session_id: str,
        *,
        agent: Agent,
        text: str,
        status: str,
        took_s: float,
        vendor: str = "",
    ) -> None:
        """What came back. ``vendor``: of whom, if not of the first of the agent's models."""
        if self._keeps_trace:
            conversation.trace(
                TraceWhat.MODEL_ANSWERED,
                session_id,
                turn_id=conversation.turn_id,
                agent=agent.name,
                vendor=vendor or agent.model_vendor,
                text=text,
                status=status,
                ms=round(took_s * 1000, 1),
            )
