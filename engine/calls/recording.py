"""Recording of calls: a link that passes on what it carries to a recorder, and the task that writes it down.

The call queues; whoever writes does so in a task of the process, because a store may take longer than a call has for
its end. What does not fit the queue is silence in the recording, and counted.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from engine.audio.stereo import StereoTrack
from engine.errors import StoreDown
from engine.events import AudioFormat, CallInfo, ProviderEvent
from engine.observe.labels import RecordingOutcome
from engine.observe.metrics import Metrics
from engine.ports import ProviderLink
from engine.ports.recordings import RecordingFailed, RecordingStore
from engine.settings import RecordingSettings

log = structlog.get_logger()

PIECE_S: Final = 0.5
QUEUE: Final = 64
"""Pieces that wait to be written: half a minute."""
FINISH_S: Final = 60.0
"""For what is left once the call has ended."""
PLAY_S: Final = 0.2
"""Audio is passed on in pieces of this length, so that it is known what of it was queued."""
NOBODY: Final = "nobody"
"""The folder of callers without a number."""
SAMPLE_BYTES: Final = 4
_SILENCE = bytes(64 * 1024)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


class Recorder:
    """Of one call; never waits."""

    def __init__(self, form: AudioFormat, pieces: trio.MemorySendChannel[tuple[int, bytes]]) -> None:
        self._track = StereoTrack(form)
        self._pieces = pieces
        self._began_s = trio.current_time()
        self._flushed_s = 0.0
        self._missing = 0
        self.dropped_bytes = 0
        self.is_closed = False

    def heard(self, audio: bytes) -> None:
        self._track.heard(audio, self._now())
        self._flush()

    def played(self, audio: bytes) -> None:
        self._track.played(audio, self._now())
        self._flush()

    def cleared(self) -> None:
        self._track.cleared(self._now())

    def close(self) -> None:
        """The last of it is on its way then. Idempotent."""
        if not self.is_closed:
            self._send(self._track.take(self._now(), is_end=True))
            self.is_closed = True
            self._pieces.close()

    def _now(self) -> float:
        return trio.current_time() - self._began_s

    def _flush(self) -> None:
        now = self._now()
        if now - self._flushed_s >= PIECE_S:
            self._flushed_s = now
            self._send(self._track.take(now))

    def _send(self, pcm: bytes) -> None:
        if self.is_closed or not pcm:
            return
        try:
            self._pieces.send_nowait((self._missing, pcm))
            self._missing = 0
        except trio.WouldBlock:
            self._missing += len(pcm)
            self.dropped_bytes += len(pcm)
        except trio.BrokenResourceError:
            pass  # nobody writes any more; the call goes on


class RecordedLink:
    """A ``ProviderLink`` that a recorder listens to."""

    def __init__(self, link: ProviderLink, recorder: Recorder) -> None:
        self.format = link.format
        self._link = link
        self._recorder = recorder
        self._generation = 0
        self._piece_bytes = int(PLAY_S / 0.02) * link.format.frame_bytes

    async def receive(self) -> ProviderEvent:
        event = await self._link.receive()
        if type(event) is bytes:
            self._recorder.heard(event)
        return event

    async def deliver(self, take: Callable[[ProviderEvent], None]) -> None:
        def heard(event: ProviderEvent) -> None:
            if type(event) is bytes:
                self._recorder.heard(event)
            take(event)

        await self._link.deliver(heard)

    async def play(self, audio: bytes) -> None:
        generation = self._generation
        for start in range(0, len(audio), self._piece_bytes):
            piece = audio[start : start + self._piece_bytes]
            await self._link.play(piece)
            if generation != self._generation:
                return  # cleared while it waited: neither this piece nor the rest was queued
            self._recorder.played(piece)

    def mark(self, name: str) -> None:
        self._link.mark(name)

    def clear(self) -> None:
        self._generation += 1
        self._link.clear()
        self._recorder.cleared()

    def heard_s(self) -> float:
        return self._link.heard_s()

    def remaining_s(self) -> float:
        return self._link.remaining_s()

    def pace(self, every_s: float) -> None:
        self._link.pace(every_s)

    async def ping(self) -> None:
        await self._link.ping()


def recorded(link: ProviderLink, recorder: Recorder) -> ProviderLink:
    """The same link; the recorder hears both sides of it."""
    return RecordedLink(link, recorder)


@dataclass(eq=False, slots=True)
class _Job:
    folder: str
    call: CallInfo
    pieces: trio.MemoryReceiveChannel[tuple[int, bytes]]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)


class Recordings:
    """The actor that writes them down; ``run`` it in a task that outlives the calls. ``fingerprint`` makes of a number
    in E.164 the name of its folder, and raises StoreDown while it cannot; ``number`` puts numbers into E.164."""

    def __init__(
        self,
        settings: RecordingSettings,
        store: RecordingStore,
        metrics: Metrics,
        *,
        fingerprint: Callable[[str], str],
        number: Callable[[str], str],
    ) -> None:
        self.announcement = settings.announce
        """Said before the greeting, if it is not empty."""
        self.vendor = store.name
        self._agents = settings.agents
        self._store = store
        self._metrics = metrics
        self._fingerprint = fingerprint
        self._number = number
        self._jobs: set[_Job] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Until cancelled, which ends what is being written."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def are_wanted(self, agent: str) -> bool:
        """Calls of this agent are to be recorded."""
        return not self._agents or agent in self._agents

    def wants(self, call: CallInfo) -> bool:
        """It is to be recorded, and can be. What could not be erased later is not recorded."""
        if not self.are_wanted(call.agent):
            return False
        try:
            self._folder_of(call.caller)
        except StoreDown:
            self.skip(call, "the store has not been opened")
            return False
        return self._nursery is not None

    def skip(self, call: CallInfo, why: str) -> None:
        """It will not be recorded."""
        self._count(RecordingOutcome.SKIPPED)
        log.warning("not_recorded", call_id=call.call_id, detail=why)

    @asynccontextmanager
    async def open(self, call: CallInfo) -> AsyncIterator[Recorder]:
        """A recorder that is closed with the block; what it holds is written in any case."""
        await trio.lowlevel.checkpoint()
        send, receive = trio.open_memory_channel[tuple[int, bytes]](QUEUE)
        recorder, job = Recorder(call.format, send), _Job(self._folder_of(call.caller), call, receive)
        if self._nursery is None:
            receive.close()
        else:
            self._jobs.add(job)
            self._nursery.start_soon(self._write, job, recorder)
        try:
            yield recorder
        finally:
            recorder.close()
            job.scope.deadline = trio.current_time() + FINISH_S

    async def forget(self, number: str) -> None:
        """Erase what was recorded of this number, and record no more of it. Raises StoreDown."""
        folder = self._folder_of(number)
        for job in [job for job in self._jobs if job.folder == folder]:
            job.scope.cancel()
            await job.done.wait()
        try:
            count = await self._store.erase(folder)
        except RecordingFailed as exc:
            raise StoreDown("error", f"recordings: {exc.why}") from None
        if count:
            log.info("recordings_erased", count=count)

    async def wait_written(self) -> None:
        """Until none is left. The caller sets the deadline."""
        for job in list(self._jobs):
            await job.done.wait()

    async def _write(self, job: _Job, recorder: Recorder) -> None:
        outcome = RecordingOutcome.CUT
        call = job.call
        try:
            with job.scope, job.pieces:
                name = _NOT_IN_A_NAME.sub("_", call.call_id)[:128]
                async with self._store.open(job.folder, name, call.format.rate_hz) as sink:
                    async for missing, pcm in job.pieces:
                        for start in range(0, missing, len(_SILENCE)):
                            await sink.write(_SILENCE[: missing - start])
                        await sink.write(pcm)
                outcome = RecordingOutcome.KEPT
        except RecordingFailed as exc:
            outcome = RecordingOutcome.FAILED
            log.error("recording_failed", call_id=call.call_id, why=exc.why, detail=str(exc))
        except Exception as exc:  # the edge of one recording: the call goes on
            outcome = RecordingOutcome.FAILED
            log.error("recording_failed", call_id=call.call_id, error=type(exc).__name__, exc_info=exc)
        finally:
            self._jobs.discard(job)
            job.done.set()
            self._count(outcome)
            dropped_s = recorder.dropped_bytes / SAMPLE_BYTES / call.format.rate_hz
            self._metrics.recording_dropped_seconds_total.inc(dropped_s)
            log.info("recording_ended", call_id=call.call_id, outcome=str(outcome), dropped_s=round(dropped_s, 1))

    def _count(self, outcome: RecordingOutcome) -> None:
        self._metrics.recordings_total.labels(outcome=outcome).inc()

    def _folder_of(self, caller: str) -> str:
        """Raises StoreDown."""
        number = self._number(caller)
        return self._fingerprint(number) if number else NOBODY
