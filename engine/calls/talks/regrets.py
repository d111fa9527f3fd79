"""A model that fails now and then is regretted; one that fails for good is not waited for."""

from __future__ import annotations

import structlog

from engine.calls.talks.pulse import Ground
from engine.errors import ModelFailed
from engine.observe.labels import TurnOutcome

log = structlog.get_logger()


class Regrets:
    """Counts the failures of the models of one talk, in a row."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._failures = 0

    def answered(self) -> None:
        self._failures = 0

    def failed(self, failure: ModelFailed) -> None:
        """The caller is to be told. Raises it if there were too many, or if it cannot pass."""
        self._failures += 1
        self._ground.meters.turn(TurnOutcome.ERROR)
        if self._failures > self._ground.limits.model_failures or not failure.why.may_pass:
            raise failure
        log.warning("answer_failed", call_id=self._ground.call.call_id, detail=str(failure))
