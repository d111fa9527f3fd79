"""A session of scripted agents as the engine keeps it: what a model is shown, and what is remembered of its answers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import date

from adapters.scripted.model import ScriptedModel
from adapters.scripted.script import Script
from engine.dialogue.context import ContextLimits, build_context
from engine.dialogue.conversation import Conversation
from engine.dialogue.history import Entry, TurnRecord, remember
from engine.events import HandOver, HangUp, Memory, Modality, Noted

TODAY = date(2026, 11, 20)
"""A Friday."""


class Session:
    """What is kept between models: entries and memory."""

    def __init__(self, scripts: Mapping[str, Script] | Script, agent: str = "desk") -> None:
        self.scripts = scripts if isinstance(scripts, Mapping) else {agent: scripts}
        self.agent = agent
        self.entries: list[Entry] = []
        self.memory = Memory()
        self._calls = itertools.count(1)

    def call(self) -> Line:
        return Line(self, Modality.VOICE, f"call-{next(self._calls)}")

    def text(self, text: str, modality: Modality = Modality.SMS) -> str:
        """A written turn, with a model of its own."""
        return Line(self, modality, "").say(text)

    def close(self, turn: TurnRecord) -> None:
        self.entries += turn.entries
        for agent, noted in turn.noted:
            self.memory = remember(self.memory, agent, [noted])


class Line:
    """One call, or one text: its models live as long as it does."""

    def __init__(self, session: Session, modality: Modality, call_id: str) -> None:
        self.session, self.modality, self.call_id = session, modality, call_id
        self.models: dict[str, ScriptedModel] = {}
        self.is_over = False
        self._talk = Conversation(agent=session.agent, modality=modality, now=lambda: 0.0, on_turn=session.close)

    def say(self, text: str, *, hears: bool = True) -> str:
        """What is answered. ``hears`` False: nothing of it was heard, and what is said next joins on."""
        self._talk.caller_said(text)
        answer = " ".join(self._answers())
        if hears:
            self._talk.agent_was_heard(answer)
        return answer

    def _answers(self) -> list[str]:
        session, said = self.session, list[str]()
        for _ in range(4):
            agent, target = self._talk.agent, ""
            model = self.models.setdefault(agent, self.new_model(session.scripts[agent]))
            context = build_context(
                (*session.entries, *self._talk.open_entries),
                session.memory,
                ContextLimits(),
                session_id="s",
                turn_id=self._talk.turn_id,
                agent=agent,
                modality=self.modality,
                is_returning=bool(session.entries),
            ).context
            for part in model.reply(context):
                if isinstance(part, str):
                    said.append(part)
                elif isinstance(part, Noted):
                    self._talk.note(part)
                elif isinstance(part, HandOver):
                    target = part.agent
                self.is_over = isinstance(part, HangUp)
            if not target:
                return said
            self._talk.agent = session.agent = target
        raise AssertionError("handed over for ever")

    def new_model(self, script: Script) -> ScriptedModel:
        return ScriptedModel(script, lambda: TODAY, call_id=self.call_id)
