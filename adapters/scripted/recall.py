"""What was said, and what is known, when the caller asks for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapters.scripted.commands import (
    asks_again,
    asks_for_help,
    asks_for_history,
    asks_to_repeat,
    asks_what_is_known,
    goes_on,
)
from adapters.scripted.parts import Derived, Slot
from adapters.scripted.script import Script
from adapters.scripted.spoken import mentions, plain
from adapters.scripted.state import Request, State
from adapters.scripted.tables import references
from engine.events import Context, MemoryKind, Role

MOST_REQUESTS = 3
"""Told of a history that is asked for: it is spoken."""
MOST_FACTS = 2
HISTORY_CHARS = 450
LEAST_REQUESTS = 2
"""With fewer, other words of the caller are told too."""
LEAST_WORDS = 2
"""Fewer are no request: "yes", "hello"."""


def asked_for(script: Script, text: str, *, only: bool = False) -> Slot | Derived | None:
    """The slot whose value the caller wants to know: what is asked for in more words than any errand.

    ``only``: nothing else may be said, because anything would be an answer.
    """
    said = plain(text)
    words, found = 0, None
    for item in (item for intent in script.intents.values() for item in intent.named):
        most = max((len(plain(phrase).split()) for phrase in item.recall if mentions(said, phrase)), default=0)
        if most > words:
            words, found = most, item
    if found is None or (only and words < len(said.split()) - 1):
        return None
    errand = script.matcher.by_keyword(text)
    return found if errand is None or words >= errand[1] else None


def recalled(script: Script, item: Slot | Derived, known: Mapping[str, str]) -> str:
    """The answer; empty if something in it is not known."""
    values = {**script.facts, **known}
    if item.name not in known or references(item.recalled) - values.keys():
        return ""
    return item.recalled.format_map(values)


def all_known(script: Script, state: State, context: Context) -> str:
    """Everything that is known of the caller, values and facts."""
    values = {name: value for name, value in {**context.memory.entities, **state.entities}.items() if value}
    told = [f"{name.replace('_', ' ')}: {value}" for name, value in sorted(values.items())]
    facts = _facts(context)[-MOST_FACTS:]
    if not (told or facts):
        return script.lines.unknown
    return _within(script.lines.known, [*([_sentence("; ".join(told))] if told else []), *facts])


def history(script: Script, state: State, context: Context) -> str:
    """The last things the caller asked for, and what came of them."""
    log = list(state.log[-MOST_REQUESTS:])
    is_open = state.intent or (state.suspended.intent if state.suspended else None)
    requests = {item.text: _request(script, item, is_open is not None and item.intent == is_open.name) for item in log}
    told = list(requests.values())
    if len(log) < LEAST_REQUESTS:
        seen = [
            (text, next((told for start, told in requests.items() if _same(text, start)), ""))
            for text in requests_in(context)
        ]
        out_of_sight = [text for text in told if text not in (known for _, known in seen)]
        told = [*out_of_sight, *(known or _quoted(text) for text, known in seen)][-MOST_REQUESTS:]
    said = " ".join(told)
    told = [fact for fact in _facts(context)[-MOST_FACTS:] if fact.rstrip(".") not in said] + told
    return _within(script.lines.history, told) if told else script.lines.no_history


def requests_in(context: Context) -> list[str]:
    """What the caller said before, without what is about the conversation itself, oldest first."""
    said = [message.text for message in context[:-1] if message.role is Role.CALLER]
    return [text for text in said if len(text.split()) >= LEAST_WORDS and not _is_about_talk(plain(text))]


def _is_about_talk(said: str) -> bool:
    return any(is_one(said) for is_one in _ABOUT_TALK)


_ABOUT_TALK = (asks_again, asks_to_repeat, asks_for_history, asks_what_is_known, asks_for_help, goes_on)


def _request(script: Script, item: Request, is_open: bool) -> str:
    came = item.came or (script.lines.unfinished if is_open else "")
    return f"{_quoted(item.text)} {_sentence(came)}".strip()


def _quoted(text: str) -> str:
    return _sentence(f"You said: {text}")


def _sentence(text: str) -> str:
    return text if not text or text[-1] in ".!?…" else f"{text}."


def _same(text: str, shorter: str) -> bool:
    return text.startswith(shorter.rstrip("…"))


def _facts(context: Context) -> list[str]:
    return [_sentence(item.content) for item in context.memory.items if item.kind is MemoryKind.FACT and item.content]


def _within(intro: str, told: Sequence[str]) -> str:
    """As many of the last as are short enough to be spoken."""
    return " ".join([intro, *reversed(list(_fitting(told, HISTORY_CHARS - len(intro))))])


def _fitting(told: Sequence[str], room: int) -> Iterator[str]:
    for number, text in enumerate(reversed(told)):
        room -= len(text) + 1
        if room < 0 and number:
            return
        yield text[:HISTORY_CHARS]
