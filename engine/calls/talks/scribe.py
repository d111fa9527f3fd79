"""Takes down what was said, in order, and hands it to the session as soon as it is certain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import trio

from engine.calls.talks.minutes import AgentSay, CallerSay, Minutes
from engine.events import Noted
from engine.observe.timeline import Timeline, What
from engine.sessions.call_session import CallSession


@dataclass(frozen=True, slots=True)
class Account:
    """What was heard of a say of the agent."""

    text: str
    interrupted: bool = False
    response_ms: int | None = None
    settles_in_s: float = 0.0
    """For so long somebody who knows better may correct it."""


class Scribe:
    """``run`` it in a task; ``close`` it when the talk is over."""

    def __init__(self, session: CallSession, timeline: Timeline, *, words_s: float) -> None:
        self._session = session
        self._timeline = timeline
        self._words_s = words_s
        """Words of the caller are waited for no longer than this, once the caller is silent or answered."""
        self._minutes = Minutes()
        self._settling = trio.CancelScope()

    @property
    def awaits_words(self) -> bool:
        """The caller made a sound whose words, if any, have not come yet."""
        return self._minutes.awaits_words(trio.current_time())

    def caller_began(self) -> None:
        self._minutes.caller_began()
        self._settle()

    def caller_stopped(self, at_s: float) -> None:
        self._minutes.caller_stopped(at_s + self._words_s)
        self._settle()

    def caller_said(self, text: str, *, before: AgentSay | None = None) -> bool:
        """See :meth:`Minutes.caller_said`."""
        is_last = self._minutes.caller_said(text, before=before)
        self._settle()
        return is_last

    def agent_began(self, say: AgentSay) -> None:
        self._minutes.agent_began(say, trio.current_time() + self._words_s)
        self._settle()

    def agent_was_heard(self, say: AgentSay, account: Account) -> None:
        say.was_heard(
            account.text,
            interrupted=account.interrupted,
            response_ms=account.response_ms,
            due_at_s=trio.current_time() + account.settles_in_s,
        )
        self._settle()

    def corrected(self, reply_id: str, text: str) -> None:
        if (say := self._minutes.of(reply_id)) is not None:
            say.correct(text)
            self._settle()

    def noted(self, noted: Noted, say: AgentSay | None) -> None:
        """To be remembered with this say of the agent, or with what is said next."""
        if say is not None and say in self._minutes:
            say.noted.append(noted)
        else:
            self._session.note(noted)

    def settle(self) -> None:
        """What may still be corrected is not waited for any more."""
        self._minutes.settle()
        self._settle()

    async def run(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._minutes.due_at_s()) as self._settling:
                await trio.sleep_forever()
            self._settle()

    def close(self) -> None:
        """All that is left, as it is."""
        self._write_down(math.inf)

    def _settle(self) -> None:
        self._write_down(trio.current_time())
        self._settling.deadline = self._minutes.due_at_s()

    def _write_down(self, now_s: float) -> None:
        for say in self._minutes.take(now_s):
            if isinstance(say, CallerSay):
                self._caller(say)
            else:
                self._agent(say)

    def _caller(self, say: CallerSay) -> None:
        if say.text:
            self._session.caller_said(say.text)
            self._timeline.note(What.HEARD, text=say.text)

    def _agent(self, say: AgentSay) -> None:
        for noted in say.noted:
            self._session.note(noted)
        self._session.agent_was_heard(
            say.text, interrupted=say.interrupted, is_opening=say.is_opening, response_ms=say.response_ms
        )
        if say.text:
            fields: dict[str, object] = {"text": say.text, "interrupted": say.interrupted}
            if say.response_ms is not None:
                fields["response_ms"] = say.response_ms
            self._timeline.note(What.SAID, **fields)
