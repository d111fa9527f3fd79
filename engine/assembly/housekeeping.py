"""Once a second: figures that nobody else would report, and what calls go on without, for whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from engine.assembly.memory import Remembering
from engine.calls.supervisor import Supervisor
from engine.events import FRAME_S
from engine.observe.labels import AudioDirection, AudioQueue, FrameDrop
from engine.observe.metrics import Metrics
from engine.runtime.lag import LagWatch
from engine.vendors.breaker import Breakers

if TYPE_CHECKING:
    from adapters.speech.embedded.voice_activity import VoiceActivity

EVERY_S = 1.0


class Housekeeping:
    """``run`` it in a task beside the calls; it may be begun anew after a crash."""

    def __init__(self, supervisor: Supervisor, lag: LagWatch, breakers: Breakers, metrics: Metrics) -> None:
        self.memory: Remembering | None = None
        """Once its store is open."""
        self.activity: VoiceActivity | None = None
        """Who tells when callers speak, if that is a model of ours."""
        self.speech_limiter: trio.CapacityLimiter | None = None
        """Of the threads of the embedded speech, if it is loaded."""
        self._supervisor = supervisor
        self._lag = lag
        self._breakers = breakers
        self._metrics = metrics
        self._unheard_frames = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._supervisor.loop_lag_s = self._lag.worst_recent_s
            self.note_lacks()
            _ = self._supervisor.ready
            self._count()
            await trio.sleep(EVERY_S)

    def note_lacks(self) -> None:
        """What calls go on without."""
        self._supervisor.vendors_down = self._breakers.not_asked()
        if self.memory is not None:
            self._supervisor.lacks_store_keys = self.memory.vault.lacks_keys
            self._supervisor.store_is_down = self.memory.writer.is_down

    def _count(self) -> None:
        metrics = self._metrics
        metrics.tasks_alive.set(trio.lowlevel.current_statistics().tasks_living)
        limiter = self.speech_limiter or trio.to_thread.current_default_thread_limiter()
        metrics.worker_threads_in_use.set(limiter.borrowed_tokens)
        metrics.worker_threads_limit.set(limiter.total_tokens)
        if self.memory is not None:
            store = self.memory.store
            metrics.store_connections_in_use.labels(backend=store.backend).set(store.connections_in_use)
        metrics.playout_buffered.show()
        if self.activity is not None:
            self._count_hearing(self.activity)

    def _count_hearing(self, activity: VoiceActivity) -> None:
        self._metrics.audio_buffered_seconds.labels(queue=AudioQueue.TRANSCRIBER).set(activity.longest_queue_s)
        dropped = int(activity.dropped_s / FRAME_S)
        reason = self._metrics.audio_frames_dropped_total.labels(
            direction=AudioDirection.IN, reason=FrameDrop.QUEUE_FULL
        )
        reason.inc(dropped - self._unheard_frames)
        self._unheard_frames = dropped
