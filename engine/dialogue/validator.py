"""Is what a model is shown complete, in order, well formed, and without a second opening?

It is looked at from outside: nothing here shares code with what makes a context, so that a mistake there is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from engine.dialogue.context import LAST_WORDS, ContextFormat, ContextLimits
from engine.dialogue.history import Entry
from engine.events import Context, Message, Role


class Rule(StrEnum):
    """What a context must be before a model is shown it; the name says what is wrong."""

    EMPTY = "empty"
    """There is nothing to answer."""
    LAST_NOT_CALLER = "last_not_caller"
    SECOND_OPENING = "second_opening"
    OUT_OF_ORDER = "out_of_order"
    MISSING = "missing"
    """A message of the window is not in it."""
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    """An empty message, or a role that is none."""
    OTHER_SESSION = "other_session"
    """It bears another session's id, or words that were never said in this one."""


CUT = "…"
"""Stands for what was left out of a message."""
_ROLES = frozenset(Role)


def violations(context: Context, history: Sequence[Entry], limits: ContextLimits, session_id: str) -> list[Rule]:
    """The rules that this context breaks, each once, in the order of :class:`Rule`; empty if it is sound.

    ``history`` is everything that is known of the session's messages, oldest first; the last one is what the model is
    to answer, and is shown whole. Takes a few microseconds for a sound context.
    """
    messages = context.messages
    broken = set(well_formed(messages, limits))
    if session_id != context.session_id:
        broken.add(Rule.OTHER_SESSION)
    if has_second_opening(messages, history):
        broken.add(Rule.SECOND_OPENING)
    window = history[-limits.window :]
    if limits.format is ContextFormat.MESSAGES:
        broken |= _one_by_one(_said(messages), window, history, limits.max_chars)
    else:
        broken |= _folded(messages, window, context.memory.summary, limits)
    return [rule for rule in Rule if rule in broken] if broken else []


def well_formed(messages: Sequence[Message], limits: ContextLimits) -> list[Rule]:
    """What can be seen without a history: ``EMPTY``, ``LAST_NOT_CALLER``, ``TOO_LONG`` and ``MALFORMED``.

    The last message may be of any length.
    """
    said = _said(messages)
    if not said or not said[-1].text.strip():
        return [Rule.EMPTY]
    broken = []
    if said[-1].role is not Role.CALLER:
        broken.append(Rule.LAST_NOT_CALLER)
    longest = limits.max_chars + len(CUT)
    if any(len(message.text) > longest for message in said[:-1] if message.role is not Role.SYSTEM):
        broken.append(Rule.TOO_LONG)
    if not all(message.text.strip() and message.role in _ROLES for message in messages) or any(
        message.role is Role.SYSTEM for message in said
    ):
        broken.append(Rule.MALFORMED)
    return broken


def has_second_opening(messages: Sequence[Message], history: Sequence[Entry]) -> bool:
    """The opening was said twice in the history, or is shown twice."""
    openings = [entry.text for entry in history if entry.is_opening]
    if len(openings) != 1:
        return len(openings) > 1
    (opening,) = openings
    # Also when the agent says it as an answer, and nobody has marked it.
    said = sum(entry.text == opening for entry in history if entry.role is Role.AGENT)
    return said > 1 or sum(_times_shown(message, opening) for message in messages) > 1


def shows(shown: str, full: str, max_chars: int) -> bool:
    """``shown`` is ``full``, or what is left when that is cut: its beginning, the mark, and facts or words of it."""
    if shown == full:
        return True
    if len(full) <= max_chars:
        return False
    at = shown.find(CUT)
    while at >= 0:
        head, tail = shown[:at].rstrip(), shown[at + len(CUT) :].strip()
        # Two thirds are a beginning; a mark alone would stand for anything.
        if len(head) >= max_chars // 2 and full.startswith(head) and _are_of(tail, full):
            return True
        at = shown.find(CUT, at + 1)
    return False


def _are_of(tail: str, full: str) -> bool:
    return full.rstrip().endswith(tail) or all(piece.strip() in full for piece in tail.split(";"))


def _said(messages: Sequence[Message]) -> Sequence[Message]:
    """Without what is known besides the messages."""
    return messages[1:] if messages and messages[0].role is Role.SYSTEM else messages


def _times_shown(message: Message, opening: str) -> int:
    if message.role is Role.AGENT:
        return 1 if message.text == opening else 0
    if message.role is not Role.SYSTEM or opening not in message.text:
        return 0
    # A transcript, a line for each message behind who said it; an opening may be of several lines itself.
    first = opening.split("\n", 1)[0]
    return sum(line.partition(": ")[2] == first for line in message.text.split("\n"))


def _one_by_one(
    said: Sequence[Message], window: Sequence[Entry], history: Sequence[Entry], max_chars: int
) -> set[Rule]:
    is_newest_whole = bool(said and window) and said[-1].text == window[-1].text
    if (
        is_newest_whole
        and len(said) == len(window)
        and all(_is_entry(message, entry, max_chars) for message, entry in zip(said, window, strict=True))
    ):
        return set()
    broken = set() if is_newest_whole or not window else {Rule.MISSING}
    spare = list(said)
    there = []
    for entry in window:
        match = next((message for message in spare if _is_entry(message, entry, max_chars)), None)
        if match is None:
            broken.add(Rule.MISSING)
        else:
            spare.remove(match)
            there.append(entry)
    if not _in_order(said, there, max_chars):
        broken.add(Rule.OUT_OF_ORDER)
    if any(not _is_from(message, history) for message in spare):
        broken.add(Rule.OTHER_SESSION)
    return broken


def _is_entry(message: Message, entry: Entry, max_chars: int) -> bool:
    return message.role is entry.role and shows(message.text, entry.text, max_chars)


def _in_order(said: Sequence[Message], entries: Sequence[Entry], max_chars: int) -> bool:
    """The entries are found among the messages from the first to the last, whatever else is between them."""
    rest = iter(said)
    return all(any(_is_entry(message, entry, max_chars) for message in rest) for entry in entries)


def _is_from(message: Message, history: Iterable[Entry]) -> bool:
    """Somebody in this session said this, if perhaps at another time or more of it."""
    head = message.text.partition(CUT)[0].strip()
    return any(head in entry.text for entry in history)


def _folded(messages: Sequence[Message], window: Sequence[Entry], summary: str, limits: ContextLimits) -> set[Rule]:
    """The window is in one text, but for its last message."""
    if not window or not messages:
        return set()
    newest, text = messages[-1], "\n".join(message.text for message in messages[:-1])
    # A summary stands for all but the last words.
    is_summary = limits.format is ContextFormat.SUMMARY
    before = window[-1 - LAST_WORDS : -1] if is_summary else window[:-1]
    starts = [_start(entry.text, limits.max_chars) for entry in before]
    there = [start for start in starts if start in text]
    broken = set()
    if newest.text != window[-1].text or len(there) < len(starts) or (is_summary and summary not in text):
        broken.add(Rule.MISSING)
    at = 0
    for start in there:
        found = text.find(start, at)
        if found < 0:
            return broken | {Rule.OUT_OF_ORDER}
        at = found + len(start)
    return broken


def _start(full: str, max_chars: int) -> str:
    """What is to be found of a message in a transcript."""
    return full if len(full) <= max_chars else full[: max_chars // 2].rstrip()
