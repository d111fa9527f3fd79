"""The keys that a caller presses, gathered to what they meant by them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from engine.dialogue.turns import Turn, TurnTaker
from engine.events import Dtmf


class Keys:
    """``run`` it in a task. ``typed`` gets all keys up to ``#``, or to a pause."""

    def __init__(self, typed: Callable[[Turn], Awaitable[None]]) -> None:
        self._typed = typed
        self._taker = TurnTaker()
        self._pause = trio.CancelScope()

    @property
    def is_idle(self) -> bool:
        return self._taker.due_at_s() == float("inf")

    def press(self, event: Dtmf) -> None:
        self._taker.on_digit(event, trio.current_time())
        self._pause.deadline = self._taker.due_at_s()

    async def run(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._taker.due_at_s()) as self._pause:
                await trio.sleep_forever()
            turn = self._taker.take()
            if turn is not None:
                await self._typed(turn)
