"""The watchdogs of one call: silence, dead air, no progress, no media, maximum duration (B5)."""

from __future__ import annotations

import itertools
from contextlib import suppress

import trio

from engine.calls.talks.conversing import Conversing
from engine.errors import CallEnd, Cause
from engine.observe.labels import TurnOutcome

STEP_S = 0.5
"""All watchdogs of a call share one task and look this often: cheaper than a deadline pushed by each frame."""
DEAD_AIR_S = 3.0
LAST_MINUTE_S = 60.0
TASKS_EVERY = 4
"""Every so many looks the tasks of the call are counted."""


async def watch(talk: Conversing) -> None:
    """Until cancelled. Never speaks itself: it asks the talk to."""
    rounds, meters, pulse = _Rounds(talk), talk.ground.meters, talk.ground.pulse
    call_task = _above(trio.lowlevel.current_task())
    for number in itertools.count():
        await trio.sleep(STEP_S)
        now = trio.current_time()
        meters.audio(in_s=pulse.audio_in_s, out_s=talk.voice.audio_out_s, spoken_s=talk.voice.spoken_s)
        meters.buffered(talk.voice.remaining_s)
        if number % TASKS_EVERY == 0:
            meters.tasks(_tasks_of(call_task))
        talk.follow()
        await rounds.media(now)
        await rounds.answer(now)
        rounds.silence(now)
        rounds.progress(now)
        rounds.duration(now)


class _Rounds:
    def __init__(self, talk: Conversing) -> None:
        self._talk = talk
        self._limits = limits = talk.ground.limits
        self._pulse = pulse = talk.ground.pulse
        self._meters = talk.ground.meters
        self._prompts = 0
        self._prompted_at_turn = 0
        self._in_dead_air = False
        age_s = trio.current_time() - pulse.began_at_s
        self._said_last_minute = limits.max_call_s - max(LAST_MINUTE_S, age_s) <= LAST_MINUTE_S

    async def media(self, now: float) -> None:
        """No audio from the provider: ask whether it is there, then give up."""
        quiet_s = now - self._pulse.last_media_s
        if quiet_s >= self._limits.media_timeout_s:
            self._pulse.end(CallEnd(Cause.MEDIA_TIMEOUT, "the provider sent no audio"))
        elif self._limits.media_ping_s <= quiet_s < self._limits.media_ping_s + STEP_S:
            # A socket that is gone is the pump's to notice.
            with trio.move_on_after(STEP_S / 2), suppress(trio.EndOfChannel):
                await self._talk.voice.ping()

    async def answer(self, now: float) -> None:
        """It is the agent's turn and nothing is heard: say a filler, count dead air."""
        talk = self._talk
        cause, since_s = talk.awaited()
        if cause is None:
            self._in_dead_air = False
            if self._pulse.leaving is not None and not talk.voice.is_audible:
                await self._fill(now - self._pulse.last_activity_s)
            return
        waited_s = now - since_s
        await self._fill(waited_s)
        if waited_s >= DEAD_AIR_S:
            self._meters.dead_air(cause, STEP_S, is_new=not self._in_dead_air)
            self._in_dead_air = True

    async def _fill(self, waited_s: float) -> None:
        if waited_s >= self._limits.filler_s:
            await self._talk.fill()

    def silence(self, now: float) -> None:
        """Neither side says anything: ask whether the caller is still there, then hang up."""
        talk = self._talk
        if self._pulse.turns_taken != self._prompted_at_turn:
            self._prompted_at_turn, self._prompts = self._pulse.turns_taken, 0
        # The next look would be too late.
        if not talk.is_idle or now + STEP_S - self._pulse.last_activity_s <= self._limits.silence_s:
            return
        self._meters.turn(TurnOutcome.NO_INPUT)
        if self._prompts < self._limits.silence_prompts:
            self._prompts += 1
            talk.say(talk.phrases.still_there)
        else:
            talk.say(talk.phrases.goodbye, then=CallEnd(Cause.SILENCE))

    def progress(self, now: float) -> None:
        """Something goes on, but nothing is heard of the agent, and no words come of the caller."""
        talk = self._talk
        if talk.voice.is_audible:
            self._pulse.last_progress_s = now
            return
        if now - self._pulse.last_progress_s >= self._limits.no_progress_s:
            self._pulse.end(CallEnd(Cause.NO_PROGRESS, "no say of either side was finished"))

    def duration(self, now: float) -> None:
        talk = self._talk
        age_s = now - self._pulse.began_at_s
        if age_s >= self._limits.max_call_s:
            talk.say(talk.phrases.goodbye, then=CallEnd(Cause.MAX_DURATION))
        elif not self._said_last_minute and age_s >= self._limits.max_call_s - LAST_MINUTE_S:
            self._said_last_minute = True
            talk.say(talk.phrases.last_minute)


def _above(task: trio.lowlevel.Task) -> trio.lowlevel.Task:
    """The task whose nursery this one runs in: the call's."""
    assert task.parent_nursery is not None  # noqa: S101 - started in the talk's
    return task.parent_nursery.parent_task


def _tasks_of(task: trio.lowlevel.Task) -> int:
    """The task and all below it."""
    count, left = 0, [task]
    while left:
        count += 1
        for nursery in left.pop().child_nurseries:
            left.extend(nursery.child_tasks)
    return count
