"""What one turn costs the event loop beside the model's own work.

    python -m tests.load.turn_cost                        all stores, calls' turns and written ones
    python -m tests.load.turn_cost --only sqlite,sealed   some of them
    python -m tests.load.turn_cost --only sqlite --profile

The session path alone, from the caller's words to the turn in the store: context, validation, trace, actor, writer,
vault and store, with an agent that answers at once with fixed words, in sessions that are full (50 messages). Figures
are CPU time of the main thread, which runs the loop; what worker threads take beside it is printed apart. An empty
turn, which only waits as long, is measured in the same way and taken off. Where others use the machine, too, a lone
turn finds the processor's caches cold, and the least of the figures is the one to compare. ``--at-once 200`` has so
many sessions take a turn at the same moment; what is printed is per turn.

    python -m tests.load.turn_cost --live 200 --only alone,memory,sqlite,sealed

So many full sessions take a turn every five seconds each, and the beat is watched by which audio would leave: with a
store and without, and with Python's collections of garbage as ``offhook serve`` has them or, with ``--collections
python``, as they would be by themselves, with what is loaded at the start kept out of them. What they took is printed.
"""

from __future__ import annotations

import argparse
import base64
import cProfile
import gc
import json
import logging
import pstats
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
import trio

from engine.assembly.engine import SWITCH_INTERVAL_S
from engine.assembly.memory import Remembering, remembering
from engine.dialogue.recollection import recollect
from engine.events import FRAME_S, MULAW_8K, CallInfo, Context, Message, Recollection, ReplyPart, SessionInfo
from engine.observe.metrics import Metrics
from engine.ports import Agent, CallControl, Owner
from engine.runtime.garbage import FullCollections
from engine.sessions.call_session import CallSession, lone_session
from engine.settings import AgentSettings, Secrets, Settings, StoreSettings, WebhookSettings
from tests.fakes.agents import MemoryAgent

CALLER = (
    "Hello, my name is Anna Berger and I would like to move my appointment of 3 May, number {n}.",
    "No, the order number is SKU-{n}, and it was 59.90 dollars.",
    "Could you please tell me again what we said about delivery {n}?",
    "Yes, {n}.",
    "You can reach me under anna{n}@example.com, or after five at the office, because I am out of the house before ten",
)
AGENT = (
    "Of course. I have moved it to Tuesday, 9 May at 10:30, as number {n}. Is there anything else that I can do?",
    """I have found order SKU-{n}. It was sent on Monday and should be with you by Thursday at the latest. The price
    of 59.90 dollars has been charged to your card already, and the invoice will be in your mailbox tomorrow.""",
    "We said that number {n} comes on Thursday.",
)
WARM_UP = 30
"""Turns before those that count: afterwards a session is full."""
SETTLE_S = 0.004
"""For each of many turns to reach the store."""
TURN_EVERY_S = 5.0
PAUSE_S = 0.02
"""For a turn to reach the store."""


@dataclass(frozen=True)
class Case:
    name: str
    store: str = ""
    """Empty: a lone session."""
    is_sealed: bool = False
    is_written: bool = False


CASES = [
    Case("alone"),
    Case("memory", "memory"),
    Case("sqlite", "sqlite"),
    Case("sealed", "sqlite", is_sealed=True),
    Case("memory-text", "memory", is_written=True),
    Case("sqlite-text", "sqlite", is_written=True),
    Case("sealed-text", "sqlite", is_sealed=True, is_written=True),
]

ASIDE = trio.CapacityLimiter(1)
"""As the embedded agent has it."""


class FixedAgent(MemoryAgent):
    """Answers at once with the next of ``AGENT``; recollects in a thread, as the embedded agent does."""

    def open_model(self, session: SessionInfo, owner: Owner, control: CallControl):  # type: ignore[no-untyped-def]  # as the base has it
        return self._part(_FixedModel())

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        return await trio.to_thread.run_sync(recollect, messages, before, limiter=ASIDE)


class _FixedModel:
    is_closed = False

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        send, receive = trio.open_memory_channel[ReplyPart](1)
        send.send_nowait(_words(AGENT, len(context.messages[-1].text)))
        send.close()
        yield receive


def _words(of: Sequence[str], number: int) -> str:
    """No two alike: what is found in a text is remembered."""
    return of[number % len(of)].replace("{n}", str(1000 + number))


Turn = Callable[[int], Awaitable[None]]
"""Take turn number ``n``; returns once it is under way."""


async def _nothing(number: int) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def turns_of(case: Case, sessions: int, folder: Path) -> AsyncIterator[list[Turn]]:
    """One for each session."""
    agent, metrics = FixedAgent("desk"), Metrics(stores=(case.store or "memory",))
    async with AsyncExitStack() as stack:
        if not case.store:
            yield [_call_turn(lone_session(_call(n), metrics), agent) for n in range(sessions)]
            return
        memory = await stack.enter_async_context(_memory(case, agent, metrics, folder))
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(memory.writer.run)
        nursery.start_soon(memory.sessions.run)
        await trio.sleep(0.1)
        if case.is_written:
            yield [_text_turn(memory, n) for n in range(sessions)]
            return
        seats = [await stack.enter_async_context(memory.sessions.joined(_call(n))) for n in range(sessions)]
        yield [_call_turn(seat, agent) for seat in seats]
        await memory.settle()


@asynccontextmanager
async def _memory(case: Case, agent: Agent, metrics: Metrics, folder: Path) -> AsyncIterator[Remembering]:
    keys = f"k1:{base64.b64encode(bytes(range(32))).decode()}" if case.is_sealed else ""
    settings = Settings(
        agents={"desk": AgentSettings(scope="caller")},
        store=StoreSettings(case.store, path=str(folder / "offhook.db"), journal=str(folder / "journal")),
        secrets=Secrets(encryption_keys=keys),
        webhooks=WebhookSettings(),
    )
    async with remembering(settings, {"desk": agent}, metrics, lambda: None) as memory:  # type: ignore[arg-type,return-value]  # no webhook is sent
        yield memory


def _call(number: int) -> CallInfo:
    caller = f"+1212555{number:04d}"
    return CallInfo("twilio", f"CA{number}", f"MZ{number}", MULAW_8K, "desk", caller, "+15550100000", attestation="A")


def _call_turn(seat: CallSession, agent: Agent) -> Turn:
    async def turn(number: int) -> None:
        seat.caller_said(_words(CALLER, number))
        seat.context(agent)
        await trio.lowlevel.checkpoint()
        text = _words(AGENT, number)
        seat.model_answered(agent, text, status="ok", took_s=0.5)
        seat.agent_was_heard(text, response_ms=600)

    return turn


def _text_turn(memory: Remembering, session: int) -> Turn:
    async def turn(number: int) -> None:
        await memory.sessions.turn(_words(CALLER, number), stream_id=f"text{session}")

    return turn


# --- measuring ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of one turn, in milliseconds of CPU."""

    least: float
    median: float
    p99: float
    mean: float
    elsewhere: float
    """Mean of the other threads."""


async def cost_of(turns: Sequence[Turn], count: int, pause_s: float, profile: cProfile.Profile | None = None) -> Cost:
    main, elsewhere = [], []
    for number in range(WARM_UP + count):
        if number == WARM_UP and profile is not None:
            profile.enable()
        main_s, process_s = time.thread_time(), time.process_time()
        async with trio.open_nursery() as nursery:
            for turn in turns:
                nursery.start_soon(turn, number)
        await trio.sleep(pause_s)
        main_s, process_s = time.thread_time() - main_s, time.process_time() - process_s
        if number >= WARM_UP:
            main.append(1000 * main_s / len(turns))
            elsewhere.append(1000 * (process_s - main_s) / len(turns))
    if profile is not None:
        profile.disable()
    ordered = sorted(main)
    p99 = ordered[int(len(ordered) * 0.99)]
    return Cost(ordered[0], statistics.median(main), p99, statistics.mean(main), statistics.mean(elsewhere))


async def fill(turns: Sequence[Turn]) -> None:
    """Their sessions, and let all of it reach the store."""
    for number in range(WARM_UP):
        for turn in turns:
            await turn(number)
        await trio.sleep(SETTLE_S * len(turns))
    await trio.sleep(PAUSE_S)


async def lateness_of(turns: Sequence[Turn], within_s: float) -> list[float]:
    """How late the beat of 20 ms is by which audio leaves, in milliseconds, ordered, while each session takes a turn
    every ``TURN_EVERY_S``. Everything that holds the loop up is in it, also a thread that keeps the interpreter."""
    late: list[float] = []
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for place, turn in enumerate(turns):
            nursery.start_soon(_keep_talking, turn, began_s + TURN_EVERY_S * place / len(turns))
        for beat in range(1, int(within_s / FRAME_S)):
            await trio.sleep_until(began_s + beat * FRAME_S)
            late.append(1000 * (trio.current_time() - began_s - beat * FRAME_S))
        nursery.cancel_scope.cancel()
    return sorted(late)


async def _keep_talking(turn: Turn, from_s: float) -> None:
    for number in range(1000):
        await trio.sleep_until(from_s + number * TURN_EVERY_S)
        await turn(WARM_UP + number)


@contextmanager
def _timed_collections() -> Iterator[list[list[float]]]:
    """Of each generation, how long each collection of garbage took, in milliseconds."""
    took: list[list[float]] = [[], [], []]
    began_s = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal began_s
        if phase == "start":
            began_s = time.perf_counter()
        else:
            took[info["generation"]].append(1000 * (time.perf_counter() - began_s))

    gc.callbacks.append(note)
    try:
        yield took
    finally:
        gc.callbacks.remove(note)


async def show_lateness(options: argparse.Namespace, names: Sequence[str]) -> None:
    """One line for each case and round, to be compared with the lines around it."""
    collections = FullCollections()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collections.run, lambda: False)
        await trio.lowlevel.checkpoint()
        if options.collections == "serve":
            collections.start()
        else:
            gc.collect()
            gc.freeze()
        for _ in range(options.rounds):
            await _show_round(options, names)
        nursery.cancel_scope.cancel()


async def _show_round(options: argparse.Namespace, names: Sequence[str]) -> None:
    await _show_lateness("nobody", [], options.seconds)
    for case in CASES:
        if case.name in names:
            with TemporaryDirectory() as folder:
                async with turns_of(case, options.live, Path(folder)) as turns:
                    await _show_lateness(case.name, turns, options.seconds)


async def _show_lateness(name: str, turns: Sequence[Turn], within_s: float) -> None:
    await fill(turns)
    with _timed_collections() as collections:
        late = await lateness_of(turns, within_s)
    p50, p99 = (late[int(len(late) * share)] for share in (0.5, 0.99))
    beyond = sum(ms > 1000 * FRAME_S for ms in late) / len(late)
    print(
        f"{name:<12} beats late by ms: p50 {p50:.2f}  p99 {p99:.2f}  max {late[-1]:.1f}  by a frame {beyond:.2%}"
        f"  collections: {', '.join(_of_collections(took) for took in collections)}"
    )


def _of_collections(took: Sequence[float]) -> str:
    return f"{len(took)} to {max(took):.1f} ms" if took else "0"


def _wanted(options: argparse.Namespace) -> list[str]:
    return options.only.split(",") if options.only else [case.name for case in CASES]


async def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    wanted = _wanted(options)
    pause_s = PAUSE_S if options.at_once == 1 else PAUSE_S + SETTLE_S * options.at_once
    empty = await cost_of([_nothing] * options.at_once, options.turns, pause_s)
    figures: dict[str, dict[str, float]] = {}
    for case in CASES:
        if case.name not in wanted:
            continue
        profile = cProfile.Profile() if options.profile else None
        with TemporaryDirectory() as folder:
            async with turns_of(case, options.at_once, Path(folder)) as turns:
                cost = await cost_of(turns, options.turns, pause_s, profile)
        if profile is not None:
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        figures[case.name] = {
            "least": round(cost.least - empty.least, 3),
            "median": round(cost.median - empty.median, 3),
            "p99": round(cost.p99 - empty.median, 3),
            "mean": round(cost.mean - empty.mean, 3),
            "other threads": round(cost.elsewhere - empty.elsewhere, 3),
        }
    return figures


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--turns", type=int, default=200, help="that count")
    parser.add_argument("--at-once", type=int, default=1, help="sessions that take a turn at the same moment")
    parser.add_argument("--profile", action="store_true", help="where the time of the main thread goes")
    parser.add_argument("--live", type=int, default=0, help="sessions that talk while the beat of audio is watched")
    parser.add_argument("--seconds", type=float, default=15.0, help="for which they do")
    parser.add_argument("--rounds", type=int, default=2, help="over all cases, with --live")
    parser.add_argument("--collections", choices=("serve", "python"), default="serve", help="of garbage, with --live")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if options.live:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        trio.run(show_lateness, options, _wanted(options))
        return
    figures = trio.run(run, options)
    if options.json:
        print(json.dumps(figures))
        return
    print("milliseconds of CPU per turn")
    for name, row in figures.items():
        print(f"{name:<12} " + "  ".join(f"{what} {value:.3f}" for what, value in row.items()))


if __name__ == "__main__":
    main()
