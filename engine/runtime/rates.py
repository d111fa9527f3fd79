"""How often somebody may ask."""

from __future__ import annotations

from collections import OrderedDict, deque

import trio

PERIOD_S = 60.0


class RateLimiter:
    """At most so many a minute of each key. Remembers the last keys only. An empty key is nobody's: never limited."""

    def __init__(self, per_minute: int, *, kept: int = 10_000) -> None:
        self._per_minute = per_minute
        self._kept = kept
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """Keys remembered."""
        return len(self._times)

    def allows(self, key: str) -> bool:
        """Whether it may, now; then it has."""
        if not key:
            return True
        times = self._recent(key)
        if len(times) >= self._per_minute:
            return False
        times.append(trio.current_time())
        return True

    def wait_s(self, key: str) -> float:
        """Until the key is allowed again; 0 if it is already."""
        if key not in self._times:
            return 0.0
        times = self._recent(key)
        return 0.0 if len(times) < self._per_minute else times[0] + PERIOD_S - trio.current_time()

    def _recent(self, key: str) -> deque[float]:
        times = self._times.setdefault(key, deque())
        self._times.move_to_end(key)
        if len(self._times) > self._kept:
            self._times.popitem(last=False)
        now = trio.current_time()
        while times and times[0] <= now - PERIOD_S:
            times.popleft()
        return times


def number_key(number: str) -> str:
    """What a caller's number is limited under. Withheld ones are not one number, so they are not limited together."""
    return number if any(character.isdigit() for character in number) else ""
