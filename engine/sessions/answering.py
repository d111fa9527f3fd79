"""Written turns: a text to the agent's whole answer, with no audio between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import trio

from engine.dialogue.context import FactsKnown
from engine.dialogue.conversation import MAX_HANDOVERS, Conversation
from engine.dialogue.history import Entry, TraceWhat, TurnRecord
from engine.errors import ModelFailed
from engine.events import HandOver, HangUp, Modality, Noted, SessionInfo, Transfer
from engine.observe.labels import VendorKind, VendorStatus
from engine.observe.timeline import Timeline
from engine.ports import NO_CONTROL, LanguageModel, ResourceKind, counts_itself, vendor_of
from engine.runtime.book import Book
from engine.runtime.ledger import Ledger
from engine.sessions.answers import TurnAnswer
from engine.sessions.around import Around
from engine.storage.record import SessionRecord


@dataclass(frozen=True, slots=True)
class Answering:
    """One written turn of one session, as the session was when the text came."""

    around: Around
    record: SessionRecord
    entries: Sequence[Entry]
    modality: Modality
    facts: FactsKnown

    async def answer(self, text: str, agent: str = "", line: str = "") -> tuple[TurnAnswer, TurnRecord]:
        """The answer, and the turn for the history. ``agent``: who is asked, if not whoever answered last; ``line``:
        whose line the text came in on. There, too, whoever answered last goes on, if it was this line.

        Raises VendorError, trio.TooSlowError.
        """
        record, turns = self.record, list[TurnRecord]()
        is_other_line = bool(line) and record.line not in ("", line)
        wanted = agent or (line if is_other_line else record.agent)
        name = self.around.agent(wanted).name  # there may be none of the old name any more
        conversation = Conversation(
            agent=name,
            modality=self.modality,
            now=self.around.now,
            on_turn=turns.append,
            line=line or (record.line if name == record.agent else ""),
        )
        turn_id = conversation.turn_id
        if name != record.agent and record.turns and not is_other_line:
            conversation.trace(TraceWhat.HANDED_OVER, record.session_id, origin=record.agent, target=name)
        conversation.caller_said(text)
        began_at_s = trio.current_time()
        with trio.fail_after(self.around.settings.turn_s):
            reply, is_over = await self._reply(conversation)
        conversation.agent_was_heard(reply, response_ms=round((trio.current_time() - began_at_s) * 1000))
        turn = replace(turns[0], assignments=record.assignments)
        return TurnAnswer(record.session_id, turn_id, reply, conversation.agent, is_over), turn

    async def _reply(self, conversation: Conversation) -> tuple[str, bool]:
        """The whole answer, by whichever agent gives it; and whether the agent holds the matter for settled."""
        pieces: list[str] = []
        for _ in range(MAX_HANDOVERS + 1):
            part = await self._asked(conversation, pieces)
            if not isinstance(part, HandOver):
                return " ".join(pieces), isinstance(part, HangUp)
            conversation.trace(
                TraceWhat.HANDED_OVER, self.record.session_id, origin=conversation.agent, target=part.agent
            )
            conversation.agent = self.around.agent(part.agent).name
        raise ModelFailed(conversation.agent, "handed over too often")

    async def _asked(self, conversation: Conversation, pieces: list[str]) -> HandOver | HangUp | None:
        """One agent's answer into ``pieces``, and what it wants to be done afterwards."""
        agent = self.around.agent(conversation.agent)
        record = self.record
        context = self.around.showing.context(
            record,
            self.entries,
            conversation,
            agent=agent,
            modality=self.modality,
            is_returning=bool(self.entries) or record.turns > 0,
            facts=self.facts,
        )
        info = SessionInfo(record.session_id, agent.name, self.modality, caller=record.number)
        ledger = Ledger(conversation.turn_id, Book(self.around.metrics, Timeline(conversation.turn_id)))
        model: LanguageModel | None = None
        began_at_s, status, said = trio.current_time(), VendorStatus.ERROR, list[str]()
        after: HandOver | HangUp | None = None
        opening = agent.open_model(info, ledger, NO_CONTROL)
        if not counts_itself(agent):
            opening = ledger.own(
                ResourceKind.LLM_CONNECTION, agent.model_vendor, opening, is_closed=lambda model: model.is_closed
            )
        try:
            async with opening as model, model.open_reply(context) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        said.append(part)
                    elif isinstance(part, Noted):
                        conversation.note(part)
                    elif not isinstance(part, Transfer):  # there is no call to transfer
                        after = part
                        break
            status = VendorStatus.OK
        except trio.Cancelled:
            status = VendorStatus.TIMEOUT
            raise
        finally:
            ledger.settle()
            text = "".join(said).strip()
            if not counts_itself(agent):
                self.around.metrics.vendor_requests_total.labels(
                    vendor=agent.model_vendor, kind=VendorKind.LLM, status=status
                ).inc()
            self.around.showing.answered(
                conversation,
                record.session_id,
                agent=agent,
                text=text,
                status=str(status),
                took_s=trio.current_time() - began_at_s,
                vendor=vendor_of(model, agent.model_vendor),
            )
        if text:
            pieces.append(text)
        if not pieces and not isinstance(after, HandOver):
            raise ModelFailed(vendor_of(model, agent.model_vendor), "empty answer")
        return after
