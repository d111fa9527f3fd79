"""A language model that needs none: an agent's script, played by a small state machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime

import trio

from adapters.scripted.commands import (
    after_greeting,
    answers_offer,
    asks_again,
    asks_for_help,
    asks_for_history,
    asks_to_repeat,
    asks_what_is_known,
    declines,
    goes_on,
    leaves,
    resets,
)
from adapters.scripted.parts import Derived, Intent, Slot, SlotType
from adapters.scripted.recall import all_known, asked_for, history, recalled, requests_in
from adapters.scripted.script import Script
from adapters.scripted.slots import Value, read_correction, read_slot
from adapters.scripted.spoken import is_keys, plain, yes_or_no
from adapters.scripted.state import REQUEST_CHARS, SAID_CHARS, VALUE_CHARS, Form, State
from adapters.scripted.tables import references
from adapters.scripted.thread import Thread
from engine.events import Context, HandOver, HangUp, MemoryItem, MemoryKind, Message, Modality, ReplyPart, Role

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
class _Start:
    """How a turn began."""

    turn_id: str
    before: tuple[Message, ...]
    """The context without the turn's words."""
    text: str
    state: State
    completed: int


class ScriptedModel:
    """Implements ``engine.ports.LanguageModel`` for one call, or for one written turn.

    Where it is in its script it notes with every answer; the next model goes on from there. ``completed`` is what the
    caller has asked for and confirmed while this model was there.
    """

    def __init__(self, script: Script, today: Callable[[], date] | None = None, *, call_id: str = "") -> None:
        self.completed: list[Completed] = []
        self.is_closed = False
        self._script = script
        self._today = today or _local_today
        self._state = State()
        self._items: list[MemoryItem] = []
        """What this turn gave to remember."""
        self._context = Context(())
        self._thread = Thread(script, call_id)
        self._start_of_turn: _Start | None = None

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        """The answer is there at once: what to remember, a text, and an action."""
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
        self._context = context if isinstance(context, Context) else Context(tuple(context))
        if self._thread.has_moved(self._context):
            self._start_of_turn = None
        self._state = self._thread.take_up(self._state, self._context)
        text = context[-1].text if context and context[-1].role is Role.CALLER else ""
        start = self._begin(text)
        parts = self._turn(text)
        said = " ".join(part for part in parts if isinstance(part, str) and part)
        was_missed = self._state.intent is None and self._state.misses > start.misses
        if not (was_missed and start.last_said):  # "repeat that" means what had been said before
            self._state = replace(self._state, last_said=said[:SAID_CHARS])
        actions = [part for part in parts if not isinstance(part, str)]
        # What is noted comes first, so that it is there however soon the caller cuts the words off.
        return [
            *self._thread.noted(start, self._state, self._items),
            *([self._as_it_comes(said)] if said else []),
            *actions,
        ]

    def _begin(self, text: str) -> State:
        """The state at the start of this turn."""
        before = tuple(message for message in self._context[:-1] if message.role is not Role.SYSTEM)
        turn_id, last = self._context.turn_id, self._start_of_turn
        if last and (last.turn_id, last.before) == (turn_id, before) and text.startswith(last.text):
            self._state = last.state
            del self.completed[last.completed :]
        self._start_of_turn = _Start(turn_id, before, text, self._state, len(self.completed))
        self._items = []
        return self._state

    def _as_it_comes(self, said: str) -> str:
        """In a text without the words that make sense only aloud."""
        if self._context.modality is Modality.VOICE:
            return said
        for aloud, written in self._script.written.items():
            said = said.replace(aloud, written)
        return said.strip() or "..."

    # --- one turn -------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> list[ReplyPart]:
        state, said, script = self._state, plain(text), self._script
        about_talk = self._about_talk(text)
        if about_talk:
            return about_talk
        if asks_for_help(said) and script.matcher.by_keyword(text) is None:
            return [self._with_question(script.lines.help)]
        if state.intent is not None:
            return self._in_form(state.intent, text)
        if state.suspended is not None:
            return self._on_suspended(state.suspended, text)
        return self._open_question(text)

    def _about_talk(self, text: str) -> list[ReplyPart]:
        """An answer to what is about the conversation itself, or about what is known from it; else empty."""
        state, said, script = self._state, plain(text), self._script
        if asks_again(said):
            return self._again()
        if asks_to_repeat(said):
            return [state.last_said or script.phrases.greeting]
        if asks_for_history(said):
            return self._told(history(script, state, self._context))
        if asks_what_is_known(said):
            return self._told(all_known(script, state, self._context))
        takes_all = state.expected is not None and state.expected.type is SlotType.TEXT
        item = asked_for(script, text, only=takes_all)
        return self._recall(item, text) if item else []

    def _open_question(self, text: str) -> list[ReplyPart]:
        matcher = self._script.matcher
        errand = matcher.by_keyword(after_greeting(plain(text)))
        name = errand[0] if errand else matcher.best(text)
        if name is not None:
            return self._start(self._script.intents[name], text)
        answer = answers_offer(text, plain(text))
        if answer is False and self._state.offered_more:
            return self._start(self._script.intents[self._script.lines.farewell], "")
        is_greeting = bool(plain(text)) and not after_greeting(plain(text))
        if answer is True or is_greeting or resets(plain(text)):
            return [self._script.lines.ask]
        return self._not_understood(self._script.lines.unclear)

    def _on_suspended(self, form: Form, text: str) -> list[ReplyPart]:
        """The first words since a form was left: they go on with it, or are about something else."""
        errand = self._script.matcher.by_keyword(after_greeting(plain(text)))
        if errand and errand[0] != form.intent.name:
            return self._start(self._script.intents[errand[0]], text)
        if not (errand or is_keys(text)) and (goes_on(plain(text)) or answers_offer(text, plain(text))):
            return self._resume(form, self._script.lines.go_on)
        waiting, slot = self._state, self._open(form)
        is_open = slot is not None and slot.type is SlotType.TEXT  # which anything would fit
        if errand:
            self._state = replace(self._state, request=text[:REQUEST_CHARS])
        refusal = self._fill(form.intent, text, None if is_open else slot)
        if refusal:
            return [refusal]
        if errand or self._state.values != form.values:
            return self._next(form.intent)
        if resets(plain(text)) or answers_offer(text, plain(text)) is False:
            return self._leave(form.intent)
        self._state = waiting
        return self._open_question(text)

    def _open(self, form: Form) -> Slot | None:
        self._state = self._state.at_rest(intent=form.intent, values=form.values)
        return self._state.expected

    def _resume(self, form: Form, first: str) -> list[ReplyPart]:
        self._open(form)
        return [first, *self._next(form.intent)]

    def _in_form(self, intent: Intent, text: str) -> list[ReplyPart]:
        said, slot = plain(text), self._state.expected
        if leaves(said, free_text=slot is not None and slot.type is SlotType.TEXT):
            other = self._other_intent(text, SURE_WORDS)
            return self._start(other, text) if other and (other.slots or other.hang_up) else self._leave(intent)
        if slot is not None and slot.type is not SlotType.YES_NO and goes_on(said):
            return [self._with_question(self._script.lines.go_on)]
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
            return self._next(intent)
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
                values[slot.name] = value.said[:VALUE_CHARS]
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
        for slot in intent.asked(self._state.values):
            if slot is asked or may_change or slot.name not in self._state.values:
                value = read_slot(slot, text, self._today(), asked=slot is asked)
                found += [(slot, value)] if value else []
        if self._state.is_confirming and not found:
            corrections = ((slot, read_correction(slot, text)) for slot in intent.asked(self._state.values))
            found += [(slot, value) for slot, value in corrections if value]
        return found

    def _next(self, intent: Intent) -> list[ReplyPart]:
        slot = self._state.expected
        if slot is not None:
            self._state = replace(self._state, is_confirming=False)
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
        if other.slots or other.hang_up or other.hand_over:
            return self._start(other, text)
        answer = self._filled(other.answer)
        self._log(other, text, answer)
        return [self._with_question(answer)]

    def _start(self, intent: Intent, text: str, known: Mapping[str, str] | None = None) -> list[ReplyPart]:
        if not intent.slots:
            return self._answer(intent, text)
        from_before = {
            s.name: self._state.known[s.name] for s in intent.slots if s.remember and s.name in self._state.known
        }
        self._state = self._state.at_rest(intent=intent, values={**from_before, **(known or {})})
        self._log(intent, text)
        refusal = self._fill(intent, text, None)
        rest: list[ReplyPart] = [refusal] if refusal else self._next(intent)
        return [intent.opening, *rest] if intent.opening else rest

    def _answer(self, intent: Intent, text: str) -> list[ReplyPart]:
        """To an intent that asks nothing. A form that is open waits for another time."""
        state = self._state
        form = Form(state.intent, state.values) if state.intent else state.suspended
        answer = self._filled(intent.answer)
        self._state = state.at_rest(offered_more=True, suspended=form)
        self._log(intent, text, answer)
        action = [HandOver(intent.hand_over)] if intent.hand_over else [HangUp()] if intent.hang_up else []
        return [*([answer] if answer else []), *action]

    def _log(self, intent: Intent, text: str, came: str = "") -> None:
        if text and not (intent.small_talk or intent.name == self._script.lines.farewell):
            self._state = self._state.asked(text, intent.name, came)

    def _leave(self, intent: Intent) -> list[ReplyPart]:
        """The caller does not want it any more."""
        can_say = references(intent.declined) <= self._script.facts.keys() | intent.whole(self._state.values).keys()
        answer = self._filled(intent.declined) if intent.declined and can_say else self._script.lines.anything_else
        self._state = self._state.came(intent.name, answer.split(". ")[0]).at_rest(offered_more=True)
        return [answer]

    def _complete(self, intent: Intent) -> list[ReplyPart]:
        """All slots are filled, and confirmed."""
        values, state = intent.whole(self._state.values), self._state
        self.completed.append(Completed(intent.name, values))
        answer = self._filled(intent.answer_to(values))
        fact = self._filled(intent.fact) or f"{intent.name}: {', '.join(' '.join(pair) for pair in values.items())}"
        self._items.append(MemoryItem(MemoryKind.FACT, fact))
        if intent.preference:
            self._items.append(MemoryItem(MemoryKind.PREFERENCE, self._filled(intent.preference)))
        stale = {*intent.forgets, *(item.name for item in intent.named)}
        known = {name: value for name, value in state.known.items() if name not in stale}
        known |= {name: value for name, value in values.items() if name not in intent.forgets}
        self._state = state.came(intent.name, fact if intent.fact else answer).at_rest(offered_more=True, known=known)
        return [answer, HangUp()] if intent.hang_up else [f"{answer} {self._script.lines.anything_else}"]

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

    # --- what was before ------------------------------------------------------------------------------------

    def _again(self) -> list[ReplyPart]:
        """What was asked for last, as if it were said again; a form that is open for it goes on."""
        state, lines = self._state, self._script.lines
        request, intent = self._last_request()
        if not request:
            return [self._with_question(lines.nothing_again)]
        form = Form(state.intent, state.values) if state.intent else state.suspended
        if form and form.intent is intent:
            return self._resume(form, lines.go_on)
        if (item := asked_for(self._script, request)) is not None:
            return self._recall(item, request)
        if intent is None:
            return self._open_question(request)
        return self._digress(intent, request) if state.intent else self._start(intent, request)

    def _last_request(self) -> tuple[str, Intent | None]:
        """In the caller's words, and which it is: noted, or still to be seen."""
        said = [self._state.request] if self._state.request else requests_in(self._context)[::-1]
        for text in said:
            name = self._script.matcher.best(after_greeting(plain(text)))
            intent = self._script.intents[name] if name else None
            if intent and not (intent.small_talk or intent.name == self._script.lines.farewell):
                return text, intent
        return self._state.request, None

    def _recall(self, item: Slot | Derived, text: str) -> list[ReplyPart]:
        """The value of a slot, for a caller who asks for it."""
        self._state = replace(self._state, request=text[:REQUEST_CHARS])
        state, lines = self._state, self._script.lines
        form = Form(state.intent, state.values) if state.intent else state.suspended
        value = form.values.get(item.name) if form else None
        is_lasting = isinstance(item, Slot) and item.remember
        if value and not is_lasting:
            return self._told(f"{lines.noted} {value}.")
        known = {**state.known, item.name: value} if value else state.known
        if answer := recalled(self._script, item, known):
            return self._told(answer)
        if state.intent is None and form and item in form.intent.named:  # not said yet: it is asked for
            return self._resume(form, lines.unknown)
        return self._told(lines.unknown)

    def _told(self, answer: str) -> list[ReplyPart]:
        """An answer from memory. A form goes on after it."""
        if self._state.intent is None:
            self._state = replace(self._state, offered_more=True)
        return [self._with_question(answer)]

    # --- texts ----------------------------------------------------------------------------------------------

    def _with_question(self, sentence: str) -> str:
        """The sentence, and after it what the form was asking for."""
        intent, slot = self._state.intent, self._state.expected
        if intent is None:
            return sentence
        return f"{sentence} {self._filled(slot.prompt if slot else intent.confirm)}"

    def _filled(self, text: str) -> str:
        form, script = self._state, self._script
        values = form.intent.whole(form.values) if form.intent else {}
        return text.format_map({**dict.fromkeys(script.names, ""), **script.facts, **values})


@asynccontextmanager
async def open_model(
    script: Script, today: Callable[[], date] | None = None, *, call_id: str = ""
) -> AsyncIterator[ScriptedModel]:
    """A model for one call, or, without a call's id, for one written turn."""
    model = ScriptedModel(script, today, call_id=call_id)
    try:
        yield model
    finally:
        model.is_closed = True


def _local_today() -> date:
    return datetime.now().astimezone().date()
