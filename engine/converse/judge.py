"""Was the answer the one that was wanted? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from engine.converse.report import Exchange
from engine.converse.script import Turn, pattern_in, texts

_NO_WORD = re.compile(r"[^\w']+")


def faults(turn: Turn, exchange: Exchange) -> Iterator[str]:
    """What is wrong with an exchange, a sentence each."""
    yield from _faults_in("greeting", texts(turn.greeting), texts(turn.greeting_not), exchange.greeting)
    if not exchange.answer:
        yield "no answer"
        return
    yield from _faults_in("answer", texts(turn.expect), texts(turn.expect_not), exchange.answer)
    if turn.agent and exchange.agent != turn.agent:
        yield f"answered by {exchange.agent or 'nobody known'}, expected {turn.agent}"
    yield from _forgotten(turn, exchange)


def holds(text: str, wanted: str) -> bool:
    """The words of ``wanted`` follow one another in the text, or its /pattern/ is found there. Case, punctuation and
    hyphens do not matter to words."""
    pattern = pattern_in(wanted)
    if pattern is not None:
        return re.search(pattern, text, re.IGNORECASE) is not None
    return f" {_plain(wanted)} " in f" {_plain(text)} "


def _faults_in(what: str, wanted: Iterable[str], unwanted: Iterable[str], text: str) -> Iterator[str]:
    for words in wanted:
        if not holds(text, words):
            yield f"{words!r} is not in the {what}"
    for words in unwanted:
        if holds(text, words):
            yield f"{words!r} is in the {what}"


def _forgotten(turn: Turn, exchange: Exchange) -> Iterator[str]:
    memory = exchange.memory
    if isinstance(turn.remembers, dict):
        for name, wanted in turn.remembers.items():
            known = memory.entities.get(name)
            if known is None or not holds(known, wanted):
                yield (
                    f"{name} is remembered as {known!r}, expected {wanted!r}" if known else f"{name} is not remembered"
                )
        return
    where = _all_that_is_known(exchange)
    for wanted in texts(turn.remembers):
        if not any(holds(text, wanted) for text in where):
            yield f"{wanted!r} is not remembered"


def _all_that_is_known(exchange: Exchange) -> Sequence[str]:
    memory = exchange.memory
    return [
        *(text for _, text in exchange.shown),
        memory.summary,
        *memory.entities.values(),
        *(item.content for item in memory.items),
    ]


def _plain(text: str) -> str:
    return _NO_WORD.sub(" ", text.casefold()).strip()
