"""Which of an agent's intents was meant: keywords first, then likeness to examples. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapters.scripted.spoken import mentions, plain

ALIKE = 0.45
"""Cosine from which an utterance is taken for one like the example."""
_FILLERS = frozenset(
    {
        "a", "an", "the", "i", "you", "we", "me", "my", "your", "is", "are", "am", "be", "do", "does", "to", "of",
        "for", "on", "in", "at", "it", "and", "or", "would", "like", "please", "can", "could", "have", "with",
        "what",
        "not", "was", "that", "this", "so", "uh", "um", "hello", "hi", "well", "just", "want", "need"
    }
)  # fmt: skip

Vector = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One intent as the matcher sees it."""

    name: str
    keywords: Sequence[str]
    examples: Sequence[str]


class Matcher:
    """Made once for a script, shared by its calls."""

    def __init__(self, candidates: Sequence[Candidate], synonyms: Mapping[str, Sequence[str]]) -> None:
        self._synonyms = [
            (re.compile(rf"\b{re.escape(plain(synonym))}\b"), plain(word))
            for word, others in synonyms.items()
            for synonym in others
        ]
        self._keywords = [(item.name, [*map(self.canonical, item.keywords)]) for item in candidates]
        texts = [
            (candidate.name, _terms(self.canonical(example)))
            for candidate in candidates
            for example in [*candidate.examples, *candidate.keywords]
        ]
        seen = Counter(term for _, terms in texts for term in set(terms))
        self._weights = {term: math.log(1 + len(texts) / count) for term, count in seen.items()}
        self._unknown = math.log(1 + len(texts))
        """Weight of a word that no example has: it counts against all of them."""
        self._examples = [(name, self._vector(terms)) for name, terms in texts]

    def canonical(self, text: str) -> str:
        """Plain text with every synonym replaced by the word it stands for."""
        said = plain(text)
        for synonym, word in self._synonyms:
            said = synonym.sub(word, said)
        return said

    def by_keyword(self, text: str) -> tuple[str, int] | None:
        """The intent most of whose keywords' words were said, and how many; the first of equals."""
        said = self.canonical(text)
        scores = [(_words_of(keywords, said), name) for name, keywords in self._keywords]
        best = max((score for score, _ in scores), default=0)
        return next(((name, score) for score, name in scores if score == best), None) if best else None

    def by_likeness(self, text: str) -> str | None:
        """The intent of the example most like it, by TF-IDF, if it is like enough."""
        vector = self._vector(_terms(self.canonical(text)))
        scored = [(_cosine(vector, example), name) for name, example in self._examples]
        best, name = max(scored, default=(0.0, ""), key=lambda pair: pair[0])
        return name if best >= ALIKE else None

    def best(self, text: str) -> str | None:
        by_keyword = self.by_keyword(text)
        return by_keyword[0] if by_keyword else self.by_likeness(text)

    def _vector(self, terms: Iterable[str]) -> Vector:
        return {term: count * self._weights.get(term, self._unknown) for term, count in Counter(terms).items()}


def _words_of(keywords: Iterable[str], said: str) -> int:
    return sum(len(plain(keyword).split()) for keyword in keywords if mentions(said, keyword))


def _terms(said: str) -> list[str]:
    return [_stem(word) for word in said.split() if word not in _FILLERS]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _cosine(a: Vector, b: Vector) -> float:
    dot = sum(weight * b.get(term, 0.0) for term, weight in a.items())
    norm = math.sqrt(sum(w * w for w in a.values()) * sum(w * w for w in b.values()))
    return dot / norm if norm else 0.0
