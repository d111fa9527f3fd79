"""What is worth knowing of a conversation, taken from its own words: for agents without a language model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.dialogue.facts import Fact, FactKind, find_facts
from engine.dialogue.sentences import SentenceSplitter
from engine.dialogue.vocabulary import DATE_WORDS, STOP_WORDS
from engine.events import MemoryItem, MemoryKind, Message, Recollection, Role

SUMMARY_CHARS = 600
SINGLES_CHARS = 360
"""Of single key facts, when there are too many for all of them."""
LONGEST_LINE_CHARS = 160
"""A longer sentence is taken in pieces."""
MOST_LINES = 120
"""Looked at of a stretch of conversation, the newest."""
MOST_ENTITIES = 30
MOST_ITEMS = 40
MOST_TOPICS = 12
NEW_TOPICS = 6
_WHO = {Role.CALLER: "Caller", Role.AGENT: "Agent"}
_CALLER, _AGENT = _WHO[Role.CALLER], _WHO[Role.AGENT]
_ALSO = "Also"
_SOURCES = (*_WHO.values(), _ALSO)


def key_facts(text: str) -> list[str]:
    """What must not be lost of a text, word for word, what matters most first: ``order SKU-4471``, ``3 May``."""
    facts: dict[str, str] = {}
    for fact in sorted(find_facts(" ".join(text.split())), key=lambda fact: fact.kind):
        facts.setdefault(fact.text.lower(), fact.text)
    return list(facts.values())


def recollect(messages: Sequence[Message], before: Recollection) -> Recollection:
    """What is to be known once these messages are out of sight: of their own words, and of what was known before.

    The summary has a line for each sentence worth keeping, ``Caller: ...`` or ``Agent: ...``, and one of single key
    facts, ``Also: ...; ...``, for whose sentences there was no room; SUMMARY_CHARS at most. The same messages a second
    time, or none, change nothing.
    """
    said = [message for message in messages if message.role in _WHO and message.text.strip()]
    also, known = _lines_of_summary(before.summary)
    new = [line for message in said for line in _lines_of(message)][-MOST_LINES:]
    return Recollection(
        _summary(_each_once([*known, *new]), also),
        _entities(new, before.entities),
        _items(new, before.items),
        _topics(new, before.topics),
    )


# --- lines --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """One sentence, and who said it; nobody, if it comes from somebody else's summary."""

    who: str
    text: str
    facts: tuple[Fact, ...]

    @property
    def shown(self) -> str:
        return f"{self.who}: {self.text}" if self.who else self.text

    @property
    def weight(self) -> int:
        """How much is lost without it. 0 is chit-chat."""
        facts = sum(3 if fact.kind is not FactKind.NUMBER else 1 for fact in self.facts)
        if self.text.endswith("?"):  # what matters of a question is said again in the answer
            return facts // 2
        is_wish = self.who == _CALLER and len(_content(self.text)) > 1
        return 2 * facts + is_wish + (not self.who)


def _lines_of_summary(summary: str) -> tuple[list[str], list[_Line]]:
    """The single facts, and the lines."""
    also: list[str] = []
    lines: list[_Line] = []
    for row in summary.split("\n"):
        who, colon, text = row.partition(": ")
        if colon and who == _ALSO:
            also += [fact for fact in text.split("; ") if fact]
        elif colon and who in _SOURCES:
            lines.append(_line(who, text))
        else:
            lines += [_line("", piece) for piece in map(_nobodys, _pieces(row))]
    return also, lines


def _lines_of(message: Message) -> list[_Line]:
    return [_line(_WHO[message.role], piece) for piece in _pieces(message.text)]


def _line(who: str, text: str) -> _Line:
    return _Line(who, text, tuple(find_facts(text)))


def _pieces(text: str) -> list[str]:
    """Sentences, and of long ones clauses."""
    splitter = SentenceSplitter()
    sentences = [*splitter.feed(" ".join(text.split())), *splitter.flush()]
    pieces = [piece for sentence in sentences for piece in _short(sentence)]
    return [piece for piece in pieces if piece]


def _nobodys(piece: str) -> str:
    """Not as if it were one of our own lines."""
    return f"'{piece}'" if piece.partition(": ")[0] in _SOURCES else piece


def _short(sentence: str) -> list[str]:
    pieces = []
    while len(sentence) > LONGEST_LINE_CHARS:
        head = sentence[:LONGEST_LINE_CHARS]
        cut = max(head.rfind(mark) for mark in (", ", "; ", " and ", " but ", " so "))
        cut = cut + 1 if cut > LONGEST_LINE_CHARS // 4 else head.rfind(" ")
        cut = cut if cut > 0 else LONGEST_LINE_CHARS
        pieces.append(sentence[:cut].strip())
        sentence = sentence[cut:].strip()
    return [*pieces, sentence]


def _each_once(lines: Iterable[_Line]) -> list[_Line]:
    """Where they were said last."""
    last = {(line.who, line.text.lower()): line for line in lines}
    order = {(line.who, line.text.lower()): place for place, line in enumerate(lines)}
    return [last[key] for key in sorted(last, key=lambda key: order[key])]


# --- the summary --------------------------------------------------------------------------------------------


def _summary(lines: Sequence[_Line], also: Sequence[str]) -> str:
    """First every key fact alone, as far as there is room; then, instead of facts, the sentences they are from."""
    worth = [line for line in lines if line.weight > 0]
    whole = "\n".join(line.shown for line in worth).lower()
    everything = _shown(worth, [fact for fact in also if not _is_in(fact.lower(), whole)])
    if len(everything) <= SUMMARY_CHARS:
        return everything
    singles = _single_facts(worth, also)
    held = [{fact for fact in singles if _is_in(fact.lower(), line.shown.lower())} for line in worth]
    kept, rest = set[int](), list(singles)
    for place in sorted(range(len(worth)), key=lambda place: (-worth[place].weight, -place)):
        left = [fact for fact in rest if fact not in held[place]]
        if _size([*(worth[one].shown for one in kept), worth[place].shown], left) <= SUMMARY_CHARS:
            kept.add(place)
            rest = left
    return _shown([worth[place] for place in sorted(kept)], rest)


def _single_facts(lines: Sequence[_Line], also: Sequence[str]) -> list[str]:
    """All, if they fit; else the newest of each kind in turn, so that there is room for sentences."""
    spoken = dict.fromkeys([*also, *(fact.text for line in lines for fact in line.facts)])
    each = list({text.lower(): text for text in spoken if ";" not in text}.values())
    if _size([], each) <= SUMMARY_CHARS:
        return each
    kinds = {fact.text.lower(): fact.kind for line in lines for fact in line.facts}
    turns, ranks = Counter[FactKind](), dict[int, tuple[int, FactKind]]()
    for place in reversed(range(len(each))):
        kind = kinds.get(each[place].lower()) or _kind(each[place])
        turns[kind] += 1
        ranks[place] = (turns[kind], kind)
    taken = list[int]()
    for place in sorted(ranks, key=ranks.__getitem__):
        if _size([], [each[one] for one in (*taken, place)]) <= SINGLES_CHARS:
            taken.append(place)
    return [each[place] for place in sorted(taken)]


def _kind(fact: str) -> FactKind:
    return min((one.kind for one in find_facts(fact)), default=FactKind.NAME)


def _size(rows: Sequence[str], singles: Sequence[str]) -> int:
    """Characters of a summary of these."""
    also = len(_ALSO) + 2 + sum(len(fact) + 2 for fact in singles) - 2 if singles else -1
    return sum(len(row) + 1 for row in rows) + also


def _shown(lines: Sequence[_Line], singles: Sequence[str]) -> str:
    return "\n".join([*(line.shown for line in lines), *([f"{_ALSO}: {'; '.join(singles)}"] if singles else [])])


def _is_in(fact: str, text: str) -> bool:
    return fact in text and re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text) is not None


# --- entities and items -------------------------------------------------------------------------------------

_LABELLED = re.compile(
    r"(?P<label>[a-z]{3,}) ?(?:(?:number|no|code|id|is)\b\.? ?)*:? ?#?(?P<code>[\w./-]*\d.*)", re.IGNORECASE
)
_ENTITY = {
    FactKind.EMAIL: "email",
    FactKind.PHONE: "phone",
    FactKind.DATE: "date mentioned",
    FactKind.TIME: "time mentioned",
    FactKind.AMOUNT: "amount mentioned",
}
"""Apart from what scripts call theirs: a day that was booked is more than one that was mentioned."""
_PERSONAL = (FactKind.EMAIL, FactKind.PHONE, FactKind.NAME)
"""Of the agent's it is not the caller's."""


def _entities(lines: Sequence[_Line], before: Mapping[str, str]) -> dict[str, str]:
    entities = dict(before)
    for line in lines:
        for fact in line.facts:
            if line.who == _AGENT and fact.kind in _PERSONAL:
                continue
            key, value = _entity(fact)
            is_new = key and not _means(entities.get(key, ""), value)
            if is_new and (key in entities or len(entities) < MOST_ENTITIES):
                entities[key] = value
    return entities


def _entity(fact: Fact) -> tuple[str, str]:
    """What it is, and the value; nothing, if that cannot be told."""
    if fact.kind is FactKind.NAME:
        return ("name", fact.text) if fact.is_own else ("", "")
    if fact.kind is FactKind.CODE:
        found = _LABELLED.fullmatch(fact.text)
        return (found["label"].lower(), found["code"]) if found and " " in fact.text else ("code", fact.text)
    return _ENTITY.get(fact.kind, ""), fact.text


def _means(known: str, said: str) -> bool:
    """The known value says the same, or more: ``5 5 5, 1 2 3 4`` and ``555 1234``, ``Ada Lovelace`` and ``Ada``."""
    digits = re.sub(r"\D", "", said)
    if len(digits) > 5:
        return digits in re.sub(r"\D", "", known)
    return bool(known) and set(said.lower().split()) <= set(known.lower().split())


_LIKES = re.compile(
    r"\bi(?:'d| would| really| always| usually)* (?:prefer|rather|like|love|hate|dislike|am allergic|never|always)\b"
    r"|\bi(?:'m| am)(?: not)? (?:allergic|vegetarian|vegan|deaf|blind)\b"
    r"|\bi (?:do not|don't) (?:like|eat|drink|want any)\b",
    re.IGNORECASE,
)
_WISH = re.compile(r"\bi(?:'d| would) (?:really )?(?:like|love)\b", re.IGNORECASE)
"""A request, not a liking."""
_DONE = re.compile(
    r"\b(?:is|are|was|were|has been|have been|i have|we have|i've|we've) (?:now )?"
    r"(?:booked|confirmed|cancelled|canceled|ordered|reserved|moved|changed|recorded|registered|shipped|sent|refunded|paid|approved|refused|noted|agreed)\b",
    re.IGNORECASE,
)
_DEDUCED = 0.6
"""Confidence in what was taken from the words alone."""


def _items(lines: Sequence[_Line], before: Sequence[MemoryItem]) -> tuple[MemoryItem, ...]:
    """What the caller likes, and what the agent has confirmed."""
    items = {(item.kind, item.content): item for item in before}
    for line in lines:
        kind = _kind_of_item(line)
        if kind is not None:
            items.setdefault((kind, line.text), MemoryItem(kind, line.text, _DEDUCED))
    return tuple(items.values())[-MOST_ITEMS:] if len(items) > len(before) else tuple(before)


def _kind_of_item(line: _Line) -> MemoryKind | None:
    if line.text.endswith("?"):
        return None
    if line.who == _AGENT:
        return MemoryKind.FACT if line.facts and _DONE.search(line.text) else None
    return MemoryKind.PREFERENCE if _LIKES.search(line.text) and not _WISH.search(line.text) else None


# --- topics -------------------------------------------------------------------------------------------------

_CONTENT = re.compile(r"[^\W\d_]{4,}(?:-[^\W\d_]+)*")


def _content(text: str) -> list[str]:
    """The words that tell what it is about."""
    words = _CONTENT.findall(text.lower().replace("\u2019", "'"))
    return [word for word in words if word not in STOP_WORDS and word not in DATE_WORDS]


def _topics(lines: Sequence[_Line], before: Sequence[str]) -> tuple[str, ...]:
    counted = Counter(word for line in lines for word in _content(line.text))
    new = [word for word, _ in counted.most_common(NEW_TOPICS) if word not in before]
    return (*before, *new)[-MOST_TOPICS:] if new else tuple(before)
