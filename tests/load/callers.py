"""The callers of a load run: each has a conversation by plain speech, interrupts now and then, and hangs up."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import trio

from engine.errors import OffhookError
from engine.phone.call import PhoneCall, Said
from engine.phone.errors import CallRefused, LineLost, TooSlow
from engine.phone.phone import Phone
from engine.phone.side import Callee
from engine.phone.twilio import TwilioSide
from tests.fakes.plain_speech import speak, words

GREETING_S = 10.0
REPLY_S = 15.0
INTERRUPT_EVERY = 2
"""Every so many turns the caller asks for a story, and interrupts it."""


@dataclass
class Results:
    """Of all callers together. Seconds."""

    placed: int = 0
    answered: int = 0
    greeted: int = 0
    refused: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """What went wrong with how many calls."""
    violations: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    unanswered: int = 0
    response_s: list[float] = field(default_factory=list)
    barge_in_stop_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    frames: int = 0
    frames_late: int = 0
    """Frames that the callers themselves sent more than 20 ms late."""
    agent_audio_s: float = 0.0
    call_s: float = 0.0
    foreign_words: int = 0
    """Calls in which another call's canary word was heard."""
    remembered: int = 0
    """Calls in which the agent knew the caller's own canary word to the end."""


@dataclass(frozen=True)
class Plan:
    url: str
    calls: int
    duration_s: float
    auth_token: str = ""
    stagger_s: float = 0.05
    """Between the starts of two calls."""
    seed: int = 1
    pause_s: float = 0.6
    """Between the end of an answer and the caller's next words, on average: it is a third to five thirds of that."""


async def run_callers(plan: Plan, phone: Phone) -> Results:
    """All calls, to the last hang-up."""
    results = Results()
    async with trio.open_nursery() as nursery:
        for number in range(plan.calls):
            nursery.start_soon(_one_call, plan, phone, number, results)
            await trio.sleep(plan.stagger_s)
    return results


async def _one_call(plan: Plan, phone: Phone, number: int, results: Results) -> None:
    results.placed += 1
    callee = Callee(plan.url, caller=f"+1500{number:07d}", secret=plan.auth_token)
    try:
        async with phone.call(TwilioSide(callee)) as call:
            results.answered += 1
            try:
                with trio.move_on_after(plan.duration_s):
                    await _converse(call, number, plan, results)
            except (TooSlow, LineLost) as exc:
                results.failed[type(exc).__name__] += 1
            _count(call, number, results)
    except CallRefused:
        results.refused += 1
    except OffhookError as exc:
        results.failed[str(exc)] += 1


async def _converse(call: PhoneCall, number: int, plan: Plan, results: Results) -> None:
    chance = random.Random(plan.seed * 10_000 + number)
    await call.wait_for_reply(within_s=GREETING_S)
    results.greeted += 1
    await _say(call, f"My word is canary{number:04d}.", results)
    await call.wait_for_reply(within_s=REPLY_S)
    turn = 0
    while True:
        turn += 1
        await trio.sleep(chance.uniform(plan.pause_s / 3, plan.pause_s * 5 / 3))
        if turn % INTERRUPT_EVERY:
            await _say(call, f"This is question number {turn}.", results)
        else:
            await _say(call, "Tell me a story.", results)
            await call.wait_until_heard(within_s=REPLY_S)
            await trio.sleep(1.0 + chance.uniform(0.0, 0.5))
            await _say(call, "Please stop that now.", results)
        await call.wait_for_reply(within_s=REPLY_S)


async def _say(call: PhoneCall, text: str, results: Results) -> Said:
    results.turns += 1
    return await call.say(speak(text, call.format))


def _count(call: PhoneCall, number: int, results: Results) -> None:
    results.violations += call.violations
    results.frames += call.frames_sent
    results.frames_late += call.frames_late
    results.call_s += trio.current_time() - call.answered_at_s
    results.gaps_s += [gap.length_s for gap in call.gaps]
    results.agent_audio_s += sum(stretch.end_s - stretch.start_s for stretch in call.ear.stretches)
    for at, said in enumerate(call.said):
        timing = call.timing(said)
        if timing.response_s is not None:
            results.response_s.append(timing.response_s)
        elif at + 1 < len(call.said):  # the last one may have been cut short by the end of the call
            results.unanswered += 1
        if timing.barge_in_stop_s is not None:
            results.barge_in_stop_s.append(timing.barge_in_stop_s)
    heard = words(call.heard_audio, call.format)
    own = f"canary{number:04d}"
    canaries = {word.strip(".,") for word in heard.split() if word.startswith("canary") and len(word.strip(".,")) == 10}
    results.foreign_words += bool(canaries - {own})
    results.remembered += own in canaries
