"""What has been asked for under a key, so that the same request asked again has the same answer."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

KEPT_S: Final = 24 * 3600.0
KEPT: Final = 10_000
"""Beyond it the oldest is forgotten before its time."""


@dataclass(eq=False, slots=True)
class Asked(Generic[T]):
    """A key in use. ``result`` is None as long as nothing came of it."""

    digest: bytes
    until_s: float
    result: T | None = None
    done: trio.Event = field(default_factory=trio.Event)


class OnceTable(Generic[T]):
    """In the memory of this process alone. Of what was asked only a digest is kept."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._salt = secrets.token_bytes(16)
        self._kept = kept
        self._asked: OrderedDict[tuple[str, str], Asked[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._asked)

    def find(self, key: tuple[str, str]) -> Asked[T] | None:
        self._expire()
        return self._asked.get(key)

    def begin(self, key: tuple[str, str], asked: object) -> Asked[T]:
        one: Asked[T] = Asked(self._digest(asked), trio.current_time() + KEPT_S)
        self._asked[key] = one
        while len(self._asked) > self._kept:
            self._asked.popitem(last=False)
        return one

    def give_up(self, key: tuple[str, str], one: Asked[T]) -> None:
        """Nothing came of it: the key may be used again."""
        if self._asked.get(key) is one:
            del self._asked[key]

    def is_same(self, one: Asked[T], asked: object) -> bool:
        return hmac.compare_digest(one.digest, self._digest(asked))

    def drop(self, is_wanted: Callable[[T], bool]) -> None:
        """Forget all keys with such a result."""
        for key, one in list(self._asked.items()):
            if one.result is not None and is_wanted(one.result):
                del self._asked[key]

    def _expire(self) -> None:
        now = trio.current_time()
        while self._asked and next(iter(self._asked.values())).until_s <= now:
            self._asked.popitem(last=False)

    def _digest(self, asked: object) -> bytes:
        return hmac.digest(self._salt, repr(asked).encode("utf-8", "surrogatepass"), hashlib.sha256)
