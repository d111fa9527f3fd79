"""The metric children one call needs, looked up once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Generic, TypeVar

import trio

from engine.dialogue.turns import Turn
from engine.errors import SpeechFailed
from engine.events import FRAME_S, CallInfo
from engine.observe.labels import (
    AudioDirection,
    BargeIn,
    DeadAir,
    FrameDrop,
    SpeechKind,
    Stage,
    TurnOutcome,
    VendorKind,
    VendorStatus,
)
from engine.observe.metrics import Metrics
from engine.ports import Agent, Mode, counts_itself

T = TypeVar("T")


class CallMeters:
    """What a call counts while it goes on. No label is looked up per frame."""

    def __init__(self, metrics: Metrics, call: CallInfo, agent: Agent) -> None:
        provider = call.provider
        self.on_late = metrics.audio_send_lag_seconds.labels(provider=provider).observe
        self.on_gap = metrics.audio_receive_gap_seconds.labels(provider=provider).observe
        self.buffered = metrics.playout_buffered.note
        self._metrics = metrics
        self._call_id = call.call_id
        self._provider = provider
        self._setup = metrics.call_setup_seconds.labels(provider=provider)
        self._barge_in_latency = metrics.barge_in_latency_seconds.labels(provider=provider)
        self._underruns = metrics.audio_underruns_total.labels(provider=provider)
        self._underrun_s = metrics.audio_underrun_seconds_total.labels(provider=provider)
        self._audio_in = metrics.audio_seconds_total.labels(provider=provider, direction=AudioDirection.IN)
        self._audio_out = metrics.audio_seconds_total.labels(provider=provider, direction=AudioDirection.OUT)
        self._began_at_s = trio.current_time()
        self._is_set_up = False
        self._seen = (0.0, 0.0, 0.0)
        self._greetings = 0
        self._tasks_peak = 0
        self.answered_by(agent)

    def answered_by(self, agent: Agent) -> None:
        """From here on the caller talks with this agent, and its vendors are counted."""
        metrics = self._metrics
        ear, voice = agent.transcriber_vendor, agent.synthesizer_vendor
        if agent.mode is not Mode.PIPELINE:  # it has neither
            ear = voice = agent.model_vendor
        self._counts_itself = counts_itself(agent)
        self._pipeline = agent.pipeline
        self._turn_latency = metrics.turn_latency_seconds.labels(pipeline=agent.pipeline)
        self._recognised = metrics.speech_audio_seconds_total.labels(vendor=ear, kind=SpeechKind.STT)
        self._spoken = metrics.speech_audio_seconds_total.labels(vendor=voice, kind=SpeechKind.TTS)
        self._characters = metrics.tts_characters_total.labels(vendor=voice)

    # --- the talk -------------------------------------------------------------------------------------------

    def turn(self, outcome: TurnOutcome) -> None:
        self._metrics.turns_total.labels(pipeline=self._pipeline, outcome=outcome).inc()

    def barge_in(self, kind: BargeIn) -> None:
        self._metrics.barge_ins_total.labels(kind=kind).inc()

    def silenced(self, after_s: float) -> None:
        """So long after the caller's first sound the agent was silent."""
        self._barge_in_latency.observe(after_s, exemplar={"call_id": self._call_id[:64]})

    def stage(self, stage: Stage, vendor: str, seconds: float) -> None:
        self._metrics.turn_stage_seconds.labels(stage=stage, vendor=vendor).observe(max(0.0, seconds))

    def latency(self, turn: Turn, now_s: float) -> None:
        self._turn_latency.observe(max(0.0, now_s - turn.ended_at_s), exemplar={"call_id": self._call_id[:64]})

    def dead_air(self, cause: DeadAir, seconds: float, *, is_new: bool) -> None:
        self._metrics.dead_air_seconds_total.labels(pipeline=self._pipeline, cause=cause).inc(seconds)
        if is_new:
            self._metrics.dead_air_events_total.labels(pipeline=self._pipeline, cause=cause).inc()

    def greeted(self) -> None:
        """The greeting was heard whole."""
        self._greetings += 1
        if self._greetings > 1:
            self._metrics.greeting_repeats_total.labels(pipeline=self._pipeline).inc()

    # --- audio ----------------------------------------------------------------------------------------------

    def first_audio(self) -> None:
        """The agent is about to be heard. Only the first time counts."""
        if not self._is_set_up:
            self._is_set_up = True
            self._setup.observe(trio.current_time() - self._began_at_s)

    def on_bad(self, kind: str) -> None:
        self._metrics.bad_frames_total.labels(provider=self._provider, kind=kind).inc()

    def on_dry(self, seconds: float) -> None:
        """The playout had nothing left for so long, with more of the utterance to come."""
        self._underruns.inc()
        self._underrun_s.inc(seconds)

    def on_drop(self, why: str, seconds: float) -> None:
        """Audio of the agent that the caller will not hear."""
        self._dropped(AudioDirection.OUT, why, round(seconds / FRAME_S))

    def early_frame_dropped(self) -> None:
        """Of the caller, while the vendors were slow to open."""
        self._dropped(AudioDirection.IN, FrameDrop.QUEUE_FULL, 1)

    def _dropped(self, direction: AudioDirection, why: str, frames: int) -> None:
        self._metrics.audio_frames_dropped_total.labels(direction=direction, reason=why).inc(frames)

    def audio(self, *, in_s: float, out_s: float, spoken_s: float) -> None:
        """How much there was since the call began: received, queued for the line, and of that made by the vendor. Told
        now and then, so that the counters run with the call."""
        was_in_s, was_out_s, was_spoken_s = self._seen
        self._seen = (in_s, out_s, spoken_s)
        self._audio_in.inc(in_s - was_in_s)
        self._audio_out.inc(out_s - was_out_s)
        if not self._counts_itself:
            self._recognised.inc(in_s - was_in_s)
            self._spoken.inc(spoken_s - was_spoken_s)

    # --- vendors --------------------------------------------------------------------------------------------

    def opening(
        self, kind: VendorKind, vendor: str, opening: AbstractAsyncContextManager[T], *, within_s: float
    ) -> AbstractAsyncContextManager[T]:
        """The same, counted and timed, where the agent does not count its vendors itself. Cancelled after ``within_s``,
        it was too slow."""
        return _Counted(self, kind, vendor, opening, within_s)

    @contextmanager
    def asked(self, kind: VendorKind, vendor: str, scope: trio.CancelScope) -> Iterator[None]:
        """The block is one request. Cancelled after the scope's deadline, it was too slow."""
        if self._counts_itself and kind is not VendorKind.TELEPHONY:
            yield
            return
        try:
            yield
        except BaseException as exc:
            is_late = trio.current_time() >= scope.deadline
            # A voice that fails while the model still answers is not the model's failure.
            is_others = kind is VendorKind.LLM and isinstance(exc, SpeechFailed)
            self.request(kind, vendor, VendorStatus.CANCELLED if is_others else status_of(exc, is_late=is_late))
            raise
        self.request(kind, vendor, VendorStatus.OK)

    def request(self, kind: VendorKind, vendor: str, status: VendorStatus) -> None:
        if not self._counts_itself or kind is VendorKind.TELEPHONY:
            self._metrics.vendor_requests_total.labels(vendor=vendor, kind=kind, status=status).inc()

    def connected(self, kind: VendorKind, vendor: str, took_s: float) -> None:
        self._metrics.vendor_connect_duration_seconds.labels(vendor=vendor, kind=kind).observe(took_s)

    def characters(self, text: str) -> None:
        """The vendor is asked to speak this."""
        if not self._counts_itself:
            self._characters.inc(len(text))

    # --- the call itself ------------------------------------------------------------------------------------

    def tasks(self, alive: int) -> None:
        self._tasks_peak = max(self._tasks_peak, alive)

    def released(self) -> None:
        """Once, when nothing of the call is left. A call that never came to talking has no peak."""
        if self._tasks_peak:
            self._metrics.call_tasks_peak.observe(self._tasks_peak)


class _Counted(AbstractAsyncContextManager[T], Generic[T]):
    def __init__(
        self,
        meters: CallMeters,
        kind: VendorKind,
        vendor: str,
        opening: AbstractAsyncContextManager[T],
        within_s: float,
    ) -> None:
        self._meters = meters
        self._kind = kind
        self._vendor = vendor
        self._opening = opening
        self._within_s = within_s

    async def __aenter__(self) -> T:
        began_at_s = trio.current_time()
        try:
            part = await self._opening.__aenter__()
        except BaseException as exc:
            is_late = trio.current_time() - began_at_s >= self._within_s
            self._meters.request(self._kind, self._vendor, status_of(exc, is_late=is_late))
            raise
        self._meters.request(self._kind, self._vendor, VendorStatus.OK)
        self._meters.connected(self._kind, self._vendor, trio.current_time() - began_at_s)
        return part

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opening.__aexit__(kind, exc, trace)


def outcome_of(heard: str, *, is_whole: bool) -> TurnOutcome:
    """How a turn ended, by what the caller heard of its answer."""
    if is_whole:
        return TurnOutcome.COMPLETED
    return TurnOutcome.INTERRUPTED if heard else TurnOutcome.SUPERSEDED


def status_of(exc: BaseException, *, is_late: bool) -> VendorStatus:
    """What ended a request, as a label. ``is_late``: its deadline had passed."""
    if isinstance(exc, BaseExceptionGroup):
        is_cancelled = exc.split(trio.Cancelled)[1] is None
    else:
        is_cancelled = isinstance(exc, trio.Cancelled | GeneratorExit)
    if is_cancelled:
        return VendorStatus.TIMEOUT if is_late else VendorStatus.CANCELLED
    return VendorStatus.TIMEOUT if isinstance(exc, trio.TooSlowError) else VendorStatus.ERROR
