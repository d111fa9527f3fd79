"""How long a vendor is waited for, in the middle of a request; while its listener is what takes long, it is not."""

from __future__ import annotations

import math

import trio


class Patience:
    """``scope`` goes around the request, and is cancelled when it takes too long."""

    def __init__(self, first_s: float, gap_s: float) -> None:
        self.scope = trio.CancelScope()
        self._first_s = first_s
        self._gap_s = gap_s

    @property
    def is_over(self) -> bool:
        """Asked behind the scope."""
        return self.scope.cancelled_caught

    def await_first(self) -> None:
        self.scope.deadline = trio.current_time() + self._first_s

    def await_more(self, behind_s: float = 0.0) -> None:
        """``behind_s``: by so much the vendor has taken too long already."""
        self.scope.deadline = trio.current_time() + self._gap_s - behind_s

    def await_listener(self) -> None:
        self.scope.deadline = math.inf
