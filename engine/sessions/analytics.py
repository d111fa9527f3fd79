"""How a caller uses calls and texts, from what is stored of the sessions (C6). Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.dialogue.history import Entry
from engine.events import Modality, Role
from engine.storage.record import MAX_ENTITIES, SessionRecord, Stored

MAX_TOPICS = 10


@dataclass(frozen=True, slots=True)
class Analytics:
    """What the sessions of one caller come to. Times in Unix seconds."""

    sessions: int
    calls: int
    texts: int
    turns: int
    """Of the caller."""
    messages: int
    """Of both sides, those no longer retained included."""
    mean_response_s: float | None
    """From the caller's last sound, or a text's arrival, to the answer; None if there was none."""
    satisfaction: float | None
    """An estimate, 0 to 1: of the caller's words of thanks and of complaint, how many were of thanks. English words
    only, and blind to irony; None if there were none."""
    satisfaction_words: int
    """How many words the estimate rests on: with a few it says little."""
    preferred_modality: Modality | None
    """Over which most of the retained messages of the caller came; of equals the latest."""
    key_topics: tuple[str, ...] = ()
    """The most frequent first."""
    entities: Mapping[str, str] = field(default_factory=dict)
    first_contact_at: float | None = None
    last_contact_at: float | None = None
    switches: int = 0
    """How often the modality changed."""
    bridges: int = 0
    """How often a turn was shown what had come over another modality."""
    handovers: int = 0


def analyse(stored: Sequence[Stored]) -> Analytics:
    """Of all sessions of one caller. What a branch has copied from another session counts once."""
    records = sorted((one.record for one in stored), key=lambda record: record.last_at)
    entries = _each_once(stored)
    said = [entry for entry in entries if entry.role is Role.CALLER]
    thanks, complaints = _feelings(entry.text for entry in said)
    responses = sum(record.responses for record in records)
    # A branch is somebody's experiment, not a contact of the caller's.
    contacts = [record for record in records if not record.parent] or records
    return Analytics(
        sessions=len(records),
        calls=sum(record.calls for record in records),
        texts=sum(record.texts for record in records),
        turns=sum(one.record.turns - _copied(one, Role.CALLER) for one in stored),
        messages=sum(one.record.message_count - _copied(one, *Role) for one in stored),
        mean_response_s=round(sum(r.response_s for r in records) / responses, 3) if responses else None,
        satisfaction=round(thanks / (thanks + complaints), 3) if thanks + complaints else None,
        satisfaction_words=thanks + complaints,
        preferred_modality=_preferred(said),
        key_topics=_topics(records),
        entities=_entities(records),
        first_contact_at=min((record.started_at for record in contacts), default=None),
        last_contact_at=max((record.last_at for record in contacts), default=None),
        switches=sum(record.switches for record in records),
        bridges=sum(record.bridges for record in records),
        handovers=sum(record.handovers for record in records),
    )


def _each_once(stored: Iterable[Stored]) -> list[Entry]:
    """Oldest first."""
    by_id = {entry.entry_id: entry for one in stored for entry in one.entries}
    return sorted(by_id.values(), key=lambda entry: entry.at)


def _copied(stored: Stored, *roles: Role) -> int:
    """Messages of a branch that are another session's."""
    began_at = stored.record.started_at if stored.record.parent else float("-inf")
    return sum(entry.at <= began_at and entry.role in roles for entry in stored.entries)


def _preferred(said: Sequence[Entry]) -> Modality | None:
    latest = {entry.modality: at for at, entry in enumerate(said)}
    counts = Counter(entry.modality for entry in said)
    return max(counts, key=lambda modality: (counts[modality], latest[modality]), default=None)


def _topics(records: Iterable[SessionRecord]) -> tuple[str, ...]:
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.topics)
    return tuple(sorted(counts, key=lambda topic: (-counts[topic], topic))[:MAX_TOPICS])


def _entities(records: Iterable[SessionRecord]) -> dict[str, str]:
    """Of two values for one thing the newer session's."""
    entities: dict[str, str] = {}
    for record in records:
        entities |= record.memory.entities
    return dict(list(entities.items())[-MAX_ENTITIES:])


# --- satisfaction: a small count of words -------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_THANKS = _words("appreciate appreciated cheers grateful thank thanks thx")
"""These are meant even behind a "can't"; only "no thanks" says nothing."""
_PRAISE = _words(
    "amazing awesome brilliant excellent fantastic friendly glad good great happy helpful impressed love lovely nice "
    "perfect pleased satisfied wonderful"
)
_COMPLAINTS = _words(
    "angry annoyed annoying awful bad complain complaint disappointed disappointing disgusted frustrated frustrating "
    "furious hate horrible incompetent nonsense pathetic ridiculous rude terrible unacceptable unhappy upset useless "
    "worst"
)
_NEGATIONS = _words("aint cannot cant didnt doesnt dont hardly isnt never no not wasnt wont without")
_GREETING = re.compile(r"\b(?:good|happy|great|nice|lovely) (?:morning|afternoon|evening|day|night|bye|weekend|new)\b")
_CLAUSE = re.compile(r"[.,;:!?\n]|\bbut\b")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_REACH = 3
"""Words that a "not" is good for."""


def _feelings(texts: Iterable[str]) -> tuple[int, int]:
    """How many words of thanks or praise, and how many of complaint."""
    thanks = complaints = 0
    for text in texts:
        plain = _GREETING.sub(" ", text.casefold().replace("\u2019", "'"))
        for clause in _CLAUSE.split(plain):
            good, bad = _of_clause(_WORD.findall(clause))
            thanks, complaints = thanks + good, complaints + bad
    return thanks, complaints


def _of_clause(words: Sequence[str]) -> tuple[int, int]:
    good = bad = 0
    for at, word in enumerate(words):
        before = words[max(0, at - _REACH) : at]
        is_denied = any(one in _NEGATIONS or one.endswith("n't") for one in before)
        if word in _THANKS:
            good += "no" not in before[-1:]
        elif word in _PRAISE or word in _COMPLAINTS:
            is_good = (word in _PRAISE) is not is_denied
            good, bad = good + is_good, bad + (not is_good)
    return good, bad
