"""What the agent was about to say, or to answer, when the line went away under it."""

from __future__ import annotations

from engine.calls.returning import Resumption


class Leftover:
    """Of one talk. ``goes_on`` is what was left of the line before."""

    def __init__(self, goes_on: Resumption | None) -> None:
        self._goes_on = goes_on
        self._was_opened = False
        self._cut_off: Resumption | None = None

    def opened(self) -> None:
        """The opening, or what came in its place, has been heard."""
        self._was_opened = True

    def begins(self) -> None:
        """An utterance: what was cut off before is past."""
        self._cut_off = None

    def cut_off(self, left: Resumption) -> None:
        """An utterance was neither heard whole nor interrupted."""
        self._cut_off = left

    def of(self, waiting: Resumption | None) -> Resumption | None:
        """See :attr:`engine.calls.talks.conversing.Conversing.unfinished`. ``waiting``: what was to be said next."""
        if waiting is not None:
            return waiting
        if self._cut_off is None and not self._was_opened:
            return self._goes_on
        return self._cut_off or Resumption()
