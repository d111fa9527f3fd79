"""What a model is shown of a session: the last messages, cut to size, and what is known besides them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from engine.dialogue.history import Entry
from engine.dialogue.recollection import key_facts
from engine.events import Context, Memory, MemoryKind, Message, Modality, Role

CUT = "…"
"""Stands for what was left out of a message."""
MAX_FACTS = 12
"""Of what was left out, how many key facts are told."""
MOST_AHEAD = 64
"""Messages of a session whose facts were looked for ahead, and are kept."""
LAST_WORDS = 2
"""Messages shown beside a summary, besides the caller's newest."""
CHARS_PER_TOKEN = 4


class Shortening(StrEnum):
    """How a context was made to fit."""

    DROPPED = "dropped"
    """Older messages were left out."""
    CUT = "cut"
    """A message was longer than a model is shown."""
    SUMMARISED = "summarised"
    """Older messages were left out, and a summary stands for them."""


class ContextFormat(StrEnum):
    MESSAGES = "messages"
    """One by one."""
    TEXT = "text"
    """As one text."""
    SUMMARY = "summary"
    """A summary, and the last words."""


@dataclass(frozen=True, slots=True)
class ContextLimits:
    window: int = 10
    """Messages, the one to be answered included."""
    max_chars: int = 200
    """Of each message but the one to be answered, which is shown whole."""
    format: ContextFormat = ContextFormat.MESSAGES


@dataclass(frozen=True, slots=True)
class Built:
    context: Context
    shortened: frozenset[Shortening]

    @property
    def tokens(self) -> int:
        """About how many a language model would count."""
        return sum(len(message.text) for message in self.context) // CHARS_PER_TOKEN


class FactsKnown:
    """The key facts of what was said in one session: looked for once, which takes longer than all else of a context.

    It holds words of the session, those that the last context needed, those that were looked through ahead, and what is
    known besides: ``forget`` them with the session.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[str]] = {}
        self._needed: dict[str, list[str]] = {}
        self._ahead: dict[str, list[str]] = {}
        self._memory: tuple[Memory, str] | None = None

    def of(self, text: str) -> list[str]:
        facts = self._known.get(text)
        if facts is None:
            facts = self._ahead.get(text)
        if facts is None:
            facts = key_facts(text)
        self._needed[text] = facts
        return facts

    def look_ahead(self, found: Mapping[str, list[str]]) -> None:
        """``facts_of_each`` of messages that will be cut, or out of sight soon; of those given before some are kept."""
        self._ahead |= found
        for text in list(self._ahead)[:-MOST_AHEAD]:
            del self._ahead[text]

    def in_words(self, memory: Memory) -> str:
        """As ``known_in_words``, put into words once as long as it stays the same."""
        if self._memory is None or self._memory[0] is not memory:
            self._memory = (memory, known_in_words(memory))
        return self._memory[1]

    def next_context(self) -> None:
        """What the last context did not need is let go of."""
        self._known, self._needed = self._needed, {}

    def forget(self) -> None:
        self._known, self._needed, self._ahead, self._memory = {}, {}, {}, None


def facts_of_each(texts: Iterable[str]) -> dict[str, list[str]]:
    """For ``FactsKnown.look_ahead``; may run in any thread."""
    return {text: key_facts(text) for text in texts}


def build_context(
    entries: Sequence[Entry],
    memory: Memory,
    limits: ContextLimits,
    *,
    session_id: str,
    turn_id: str,
    agent: str,
    modality: Modality,
    is_returning: bool,
    facts: FactsKnown | None = None,
) -> Built:
    """The context of the turn whose caller's words are the last of ``entries``.

    Key facts (names, numbers, dates, codes) of what does not fit are kept: in a message that is cut, behind the cut;
    of messages that are left out, with what is known. ``facts`` spares looking for them again.
    """
    facts = facts or FactsKnown()
    window = entries[-limits.window :]
    dropped = entries[: -limits.window]
    shown = [_cut(entry.as_message(), limits.max_chars, facts) for entry in window[:-1]]
    shown += [entry.as_message() for entry in window[-1:]]
    shortened = set()
    if any(message.text != entry.text for message, entry in zip(shown, window, strict=True)):
        shortened.add(Shortening.CUT)
    if dropped:
        shortened.add(Shortening.SUMMARISED if memory.summary else Shortening.DROPPED)
    known = _with_mentioned(facts.in_words(memory), _facts_of(dropped, facts))
    facts.next_context()
    context = Context(
        tuple(_in_format(known, shown, limits.format)),
        session_id=session_id,
        turn_id=turn_id,
        agent=agent,
        modality=modality,
        memory=_own(memory, agent),
        is_returning=is_returning,
    )
    return Built(context, frozenset(shortened))


def known_in_words(memory: Memory) -> str:
    """The memory as a model reads it; empty if there is nothing to tell."""
    facts = [item.content for item in memory.items if item.kind is MemoryKind.FACT]
    likes = [item.content for item in memory.items if item.kind is MemoryKind.PREFERENCE]
    lines = [
        ("Summary of what came before", memory.summary),
        ("Known", "; ".join(f"{name}: {value}" for name, value in memory.entities.items())),
        ("Facts", "; ".join(facts)),
        ("Preferences", "; ".join(likes)),
    ]
    return "\n".join(f"{title}: {text}" for title, text in lines if text)


def transcript(messages: Iterable[Message]) -> str:
    """Who said what, a line each."""
    names = {Role.CALLER: "Caller", Role.AGENT: "Agent", Role.SYSTEM: "Note"}
    return "\n".join(f"{names[message.role]}: {message.text}" for message in messages)


def _with_mentioned(known: str, mentioned: Sequence[str]) -> str:
    said = f"Mentioned earlier: {'; '.join(mentioned)}" if mentioned else ""
    return "\n".join(part for part in (known, said) if part)


def _in_format(known: str, shown: Sequence[Message], form: ContextFormat) -> list[Message]:
    system = [Message(Role.SYSTEM, known)] if known else []
    if form is ContextFormat.MESSAGES or len(shown) < 2:
        return [*system, *shown]
    before = shown[:-1] if form is ContextFormat.TEXT else shown[-1 - LAST_WORDS : -1]
    text = "\n".join(part for part in (known, "The conversation so far:", transcript(before)) if part)
    return [Message(Role.SYSTEM, text), shown[-1]]


def _cut(message: Message, max_chars: int, facts: FactsKnown) -> Message:
    text = message.text
    if len(text) <= max_chars:
        return message
    tail = ""
    for fact in facts.of(text):
        longer = f"{tail}; {fact}" if tail else f" {fact}"
        # A third of the room at most: the beginning says what it is about.
        if len(longer) > max_chars // 3:
            break
        tail = longer
    head = text[: max_chars - len(CUT) - len(tail)].rstrip()
    return replace(message, text=f"{head}{CUT}{tail}")


def _facts_of(dropped: Sequence[Entry], facts: FactsKnown) -> list[str]:
    """The newest key facts of what is out of sight, each once."""
    newest: dict[str, None] = {}
    for entry in reversed(dropped):
        newest |= dict.fromkeys(facts.of(entry.text))
        if len(newest) >= MAX_FACTS:
            break
    return list(newest)[:MAX_FACTS]


def _own(memory: Memory, agent: str) -> Memory:
    """No agent is shown another one's state."""
    return replace(memory, states={name: state for name, state in memory.states.items() if name == agent})
