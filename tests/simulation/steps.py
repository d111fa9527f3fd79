"""Counting the steps of one call's tasks, and disturbing it just before one of them."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

import trio

is_target: contextvars.ContextVar[bool] = contextvars.ContextVar("is_target", default=False)
"""Set in the context of the tasks that are the call; what they start inherits it."""


def _is_inside_trio(task: trio.lowlevel.Task) -> bool:
    """The step is the end of a nursery's wait for its children: no code of anybody's that could raise there."""
    return any(frame.f_code.co_name == "_nested_child_finished" for frame, _ in task.iter_await_frames())


class AtStep(trio.abc.Instrument):
    """Counts the steps of the tasks of one call, and disturbs the call just before step ``k``."""

    def __init__(self, k: int | None, disturb: Callable[[trio.lowlevel.Task], None] = lambda _: None) -> None:
        self.steps = 0
        self.at_s: float | None = None
        self._k = k
        self._disturb = disturb

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not task.context.get(is_target, False) or _is_inside_trio(task):
            return
        self.steps += 1
        if self.steps == self._k:
            self.at_s = trio.current_time()
            self._disturb(task)


def fix_the_order(seed: int = 7) -> None:
    """The order of tasks that are ready together: the same in each run, so that step k is the same step."""
    trio._core._run._r.seed(seed)
