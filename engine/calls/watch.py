"""The watchdogs of one call: silence, dead air, no progress, no media, maximum duration (B5)."""

from __future__ import annotations

import itertools
from contextlib import suppress

import trio

from engine.calls.talk import Talk
from engine.errors import CallEnd, Cause
from engine.observe.labels import DeadAir, TurnOutcome

STEP_S = 0.5
"""All watchdogs of a call share one task and look this often: cheaper than a deadline pushed by each frame."""
DEAD_AIR_S = 3.0
LAST_MINUTE_S = 60.0
TASKS_EVERY = 4
"""Every so many looks the tasks of the call are counted."""


async def watch(talk: Talk) -> None:
    """Until cancelled. Never speaks itself: it asks the talk to."""
    rounds = _Rounds(talk)
    call_task = _above(trio.lowlevel.current_task())
    for number in itertools.count():
        await trio.sleep(STEP_S)
        now = trio.current_time()
        talk.note_audio()
        if number % TASKS_EVERY == 0:
            talk.meters.tasks(_tasks_of(call_task))
        await rounds.media(now)
        await rounds.answer(now)
        rounds.silence(now)
        rounds.progress(now)
        rounds.duration(now)


class _Rounds:
    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._limits = talk.limits
        self._prompts = 0
        self._prompted_at_turn = 0
        self._in_dead_air = False
        self._said_last_minute = talk.limits.max_call_s <= 2 * LAST_MINUTE_S

    async def media(self, now: float) -> None:
        """No audio from the provider: ask whether it is there, then give up."""
        quiet_s = now - self._talk.last_media_s
        if quiet_s >= self._limits.media_timeout_s:
            self._talk.end(CallEnd(Cause.MEDIA_TIMEOUT, "the provider sent no audio"))
        elif self._limits.media_ping_s <= quiet_s < self._limits.media_ping_s + STEP_S:
            # A socket that is gone is the pump's to notice.
            with trio.move_on_after(STEP_S / 2), suppress(trio.EndOfChannel):
                await self._talk.link.ping()

    async def answer(self, now: float) -> None:
        """It is the agent's turn and nothing is heard: say a filler, count dead air."""
        talk = self._talk
        utterance = talk.utterance
        cause, since_s = self._awaited()
        if cause is None:
            self._in_dead_air = False
            return
        waited_s = now - since_s
        if utterance and not utterance.has_sounded and not utterance.filler_said and waited_s >= self._limits.filler_s:
            utterance.filler_said = True
            await talk.say_filler()
        if waited_s >= DEAD_AIR_S:
            talk.meters.dead_air(cause, STEP_S, is_new=not self._in_dead_air)
            self._in_dead_air = True

    def _awaited(self) -> tuple[DeadAir | None, float]:
        """Who is waited for while neither side is audible, and since when."""
        talk = self._talk
        utterance = talk.utterance
        if talk.voice.is_audible or talk.turns.is_caller_speaking:
            return None, 0.0
        if utterance is not None and utterance.turn is not None:
            if utterance.is_queued:  # all has been said; only the provider's mark is missing
                return None, 0.0
            since_s = max(utterance.turn.ended_at_s, talk.voice.queued_until_s)
            return DeadAir.TTS if utterance.spoken else DeadAir.LLM, since_s
        if utterance is None and talk.turns.is_waiting_for_words:
            return DeadAir.STT, talk.last_sound_s
        return None, 0.0

    def silence(self, now: float) -> None:
        """Neither side says anything: ask whether the caller is still there, then hang up."""
        talk = self._talk
        if talk.turns_taken != self._prompted_at_turn:
            self._prompted_at_turn, self._prompts = talk.turns_taken, 0
        if not talk.is_idle or now - talk.last_activity_s < self._limits.silence_s:
            return
        talk.meters.turn(TurnOutcome.NO_INPUT)
        if self._prompts < self._limits.silence_prompts:
            self._prompts += 1
            talk.say_of_own_accord(talk.phrases.still_there)
        else:
            talk.say_of_own_accord(talk.phrases.goodbye, then=CallEnd(Cause.SILENCE))

    def progress(self, now: float) -> None:
        """Something goes on, but nothing is heard of the agent, and no words come of the caller."""
        talk = self._talk
        if talk.voice.is_audible:
            talk.last_progress_s = now
            return
        if now - talk.last_progress_s >= self._limits.no_progress_s:
            talk.end(CallEnd(Cause.NO_PROGRESS, "no say of either side was finished"))

    def duration(self, now: float) -> None:
        talk = self._talk
        age_s = now - talk.started_at_s
        if age_s >= self._limits.max_call_s:
            talk.say_of_own_accord(talk.phrases.goodbye, then=CallEnd(Cause.MAX_DURATION))
        elif not self._said_last_minute and age_s >= self._limits.max_call_s - LAST_MINUTE_S:
            self._said_last_minute = True
            talk.say_of_own_accord(talk.phrases.last_minute)


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
