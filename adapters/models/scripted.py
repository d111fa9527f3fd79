"""A language model that needs none: an agent's script, played by a small state machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime

import trio

from adapters.models.commands import (
    after_greeting,
    answers_offer,
    asks_for_help,
    asks_to_repeat,
    declines,
    leaves,
)
from adapters.models.script import Intent, Script, Slot, SlotType
from adapters.models.slots import Value, read_correction, read_slot
from adapters.models.spoken import is_keys, plain, yes_or_no
from adapters.models.tables import references
from engine.events import Context, HangUp, Message, ReplyPart, Role

SURE_WORDS = 2
"""While a name is asked for, an intent is heard only if so many of its keywords' words were said."""
_TAKES_ALL = (SlotType.TEXT, SlotType.NUMBER, SlotType.PHONE)
"""What is said to these may sound like a time or a day, and is none."""
_TAKES_NO_KEYS = (SlotType.NAME, SlotType.DATE, SlotType.TIME)


@dataclass(frozen=True, slots=True)
class Completed:
    """An intent whose slots were filled and, where the script asks for it, confirmed."""

    intent: str
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class State:
    """Where one call is in the script."""

    intent: Intent | None = None
    """Whose slots are being filled."""
    values: dict[str, str] = field(default_factory=dict)
    is_confirming: bool = False
    offered_more: bool = False
    """Something was answered: a plain "no" now means that this was all."""
    misses: int = 0
    """Utterances in a row that were not understood."""
    last_said: str = ""

    @property
    def expected(self) -> Slot | None:
        """The slot that is asked for now."""
        if self.intent is None:
            return None
        return next((slot for slot in self.intent.slots if slot.name not in self.values), None)


class ScriptedModel:
    """Implements ``engine.ports.LanguageModel`` for one call.

    ``completed`` is what the caller has asked for and confirmed; whoever owns the call may read it, nothing is stored.
    """

    def __init__(self, script: Script, today: Callable[[], date] | None = None) -> None:
        self.completed: list[Completed] = []
        self.is_closed = False
        self._script = script
        self._today = today or _local_today
        self._state = State()
        self._before: tuple[tuple[Message, ...], str, State, int] | None = None
        """The last turn: the context before it, its words, and the state and the completed at its start."""

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        """The answer is there at once: a text, and a HangUp after a goodbye."""
        parts = self.reply(context)
        send, receive = trio.open_memory_channel[ReplyPart](len(parts))
        for part in parts:
            send.send_nowait(part)
        send.close()
        async with receive:
            yield receive

    def reply(self, context: Sequence[Message]) -> list[ReplyPart]:
        """The answer to the last message of the context.

        A turn that is asked again, longer or not, because nothing of its answer was heard, starts from where it
        started: the caller has said it once.
        """
        before = tuple(message for message in context[:-1] if message.role is not Role.SYSTEM)
        text = context[-1].text if context and context[-1].role is Role.CALLER else ""
        if self._before and self._before[0] == before and text.startswith(self._before[1]):
            self._state = self._before[2]
            del self.completed[self._before[3] :]
        start = self._state
        self._before = (before, text, start, len(self.completed))
        parts = self._turn(text)
        texts = " ".join(part for part in parts if isinstance(part, str))
        was_missed = self._state.intent is None and self._state.misses > start.misses
        if not (was_missed and start.last_said):  # "repeat that" means what had been said before
            self._state = replace(self._state, last_said=texts)
        return [texts, *(part for part in parts if isinstance(part, HangUp))]

    # --- one turn -------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> list[ReplyPart]:
        state, said = self._state, plain(text)
        if asks_to_repeat(said):
            return [state.last_said or self._script.phrases.greeting]
        if asks_for_help(said) and self._script.matcher.by_keyword(text) is None:
            return [self._with_question(self._script.lines.help)]
        if state.intent is not None:
            return self._in_form(state.intent, text)
        return self._open_question(text)

    def _open_question(self, text: str) -> list[ReplyPart]:
        matcher = self._script.matcher
        errand = matcher.by_keyword(after_greeting(plain(text)))
        name = errand[0] if errand else matcher.best(text)
        if name is not None:
            return self._start(self._script.intents[name], text)
        answer = answers_offer(text, plain(text))
        if answer is False and self._state.offered_more:
            return self._start(self._script.intents[self._script.lines.farewell], "")
        if answer is True:
            return [self._script.lines.ask]
        return self._not_understood(self._script.lines.unclear)

    def _in_form(self, intent: Intent, text: str) -> list[ReplyPart]:
        said, slot = plain(text), self._state.expected
        if leaves(said, free_text=slot is not None and slot.type is SlotType.TEXT):
            other = self._other_intent(text, SURE_WORDS)
            return self._start(other, text) if other and (other.slots or other.hang_up) else self._leave(intent)
        if self._state.is_confirming or slot is None:
            return self._on_confirmation(intent, text)
        return self._on_answer(intent, slot, text)

    def _on_answer(self, intent: Intent, slot: Slot, text: str) -> list[ReplyPart]:
        is_no = declines(plain(text))
        if slot.type is SlotType.NAME and not is_no and (other := self._other_intent(text, SURE_WORDS)) is not None:
            return self._digress(other, text)
        before = self._state.values
        refusal = self._fill(intent, text, slot)
        if refusal:
            return [refusal]
        if self._state.values != before:  # this slot, or another one: then this is asked again
            return self._next(intent)
        if is_no:
            return self._leave(intent)
        if (other := self._other_intent(text, 1)) is not None:
            return self._digress(other, text)
        return self._not_understood(self._asked_again(slot, text))

    def _asked_again(self, slot: Slot, text: str) -> str:
        if is_keys(text) and slot.type in _TAKES_NO_KEYS:
            return f"{self._script.lines.no_keys} {self._filled(slot.prompt)}"
        return self._filled(slot.reprompt)

    def _on_confirmation(self, intent: Intent, text: str) -> list[ReplyPart]:
        before = self._state.values
        refusal = self._fill(intent, text, None)
        if refusal:
            return [refusal]
        if self._state.values != before:  # "no, at eleven"
            return [self._ask_to_confirm(intent)]
        answer = yes_or_no(plain(text))
        if answer is True:
            return self._complete(intent)
        if answer is False:
            return self._leave(intent)
        if (other := self._other_intent(text, 1)) is not None:
            return self._digress(other, text)
        return self._not_understood(self._ask_to_confirm(intent))

    # --- slots ----------------------------------------------------------------------------------------------

    def _fill(self, intent: Intent, text: str, asked: Slot | None) -> str:
        """Take every value the caller gave; what to say if one of them cannot be had, else empty."""
        values, refusal = dict(self._state.values), ""
        for slot, value in self._read(intent, text, asked):
            if value.is_refused:
                values.pop(slot.name, None)
                refusal = refusal or self._filled(slot.refused)
            else:
                values[slot.name] = value.said
        took = values != self._state.values
        self._state = replace(
            self._state,
            values=values,
            misses=0 if took else self._state.misses,
            is_confirming=self._state.is_confirming and not refusal,
        )
        return refusal

    def _read(self, intent: Intent, text: str, asked: Slot | None) -> list[tuple[Slot, Value]]:
        """What was asked for, and every other value that shows what it is: of slots already filled too."""
        may_change = asked is None or asked.type not in _TAKES_ALL
        found = []
        for slot in intent.slots:
            if slot is asked or may_change or slot.name not in self._state.values:
                value = read_slot(slot, text, self._today(), asked=slot is asked)
                found += [(slot, value)] if value else []
        if self._state.is_confirming and not found:
            corrections = ((slot, read_correction(slot, text)) for slot in intent.slots)
            found += [(slot, value) for slot, value in corrections if value]
        return found

    def _next(self, intent: Intent) -> list[ReplyPart]:
        slot = self._state.expected
        if slot is not None:
            return [self._filled(slot.prompt)]
        if intent.confirm:
            return [self._ask_to_confirm(intent)]
        return self._complete(intent)

    def _ask_to_confirm(self, intent: Intent) -> str:
        self._state = replace(self._state, is_confirming=True)
        return self._filled(intent.confirm)

    # --- intents --------------------------------------------------------------------------------------------

    def _other_intent(self, text: str, least_words: int) -> Intent | None:
        found = self._script.matcher.by_keyword(text)
        if found is None or found[1] < least_words:
            return None
        intent = self._script.intents[found[0]]
        return None if intent is self._state.intent else intent

    def _digress(self, other: Intent, text: str) -> list[ReplyPart]:
        """A question in the middle of a form is answered and the form goes on; another errand takes its place."""
        if other.slots or other.hang_up:
            return self._start(other, text)
        return [self._with_question(self._filled(other.answer))]

    def _start(self, intent: Intent, text: str, known: Mapping[str, str] | None = None) -> list[ReplyPart]:
        self._state = State(intent, dict(known or {}))
        if not intent.slots:
            return self._complete(intent)
        refusal = self._fill(intent, text, None)
        rest: list[ReplyPart] = [refusal] if refusal else self._next(intent)
        return [intent.opening, *rest] if intent.opening else rest

    def _leave(self, intent: Intent) -> list[ReplyPart]:
        """The caller does not want it any more."""
        can_say = references(intent.declined) <= self._script.facts.keys() | self._state.values.keys()
        answer = self._filled(intent.declined) if intent.declined and can_say else self._script.lines.anything_else
        self._state = State(offered_more=True)
        return [answer]

    def _complete(self, intent: Intent) -> list[ReplyPart]:
        if intent.slots:
            self.completed.append(Completed(intent.name, dict(self._state.values)))
        answer = self._filled(intent.answer)
        self._state = State(offered_more=True)
        if intent.hang_up:
            return [answer, HangUp()]
        return [f"{answer} {self._script.lines.anything_else}" if intent.slots else answer]

    def _not_understood(self, sentence: str) -> list[ReplyPart]:
        lines = self._script.lines
        misses = self._state.misses + 1
        if misses <= lines.patience:
            self._state = replace(self._state, misses=misses)
            return [sentence]
        fallback = self._script.intents[lines.fallback]
        if self._state.intent is fallback:
            return [lines.give_up, HangUp()]
        return [lines.handover, *self._start(fallback, "", self._known_to(fallback))]

    def _known_to(self, intent: Intent) -> dict[str, str]:
        """What the caller has said already is not asked again."""
        now = self._state.intent
        same = {(slot.name, slot.type) for slot in now.slots} if now else set()
        values = self._state.values
        return {s.name: values[s.name] for s in intent.slots if (s.name, s.type) in same and s.name in values}

    # --- texts ----------------------------------------------------------------------------------------------

    def _with_question(self, sentence: str) -> str:
        """The sentence, and after it what the form was asking for."""
        intent, slot = self._state.intent, self._state.expected
        if intent is None:
            return sentence
        return f"{sentence} {self._filled(slot.prompt if slot else intent.confirm)}"

    def _filled(self, text: str) -> str:
        return text.format_map({**self._script.facts, **self._state.values})


@asynccontextmanager
async def open_model(script: Script, today: Callable[[], date] | None = None) -> AsyncIterator[ScriptedModel]:
    """A model for one call."""
    model = ScriptedModel(script, today)
    try:
        yield model
    finally:
        model.is_closed = True


def _local_today() -> date:
    return datetime.now().astimezone().date()
