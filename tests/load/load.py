"""Places N simultaneous Twilio calls against an engine, and measures both ends.

    python -m tests.load.load --calls 50 --spawn         the engine of this checkout, with fake vendors
    python -m tests.load.load --calls 50 --spawn --store sqlite     every call goes on with its number's session
    python -m tests.load.load --calls 50 --bare          a bare trio-websocket server, to compare with
    python -m tests.load.load --calls 50 --spawn --vendors wires            vendors on their real wires; --bare likewise
    python -m tests.load.load --calls 50 --spawn --vendors wires --pairs 3  the engine and the bare program in turn
    python -m tests.load.load --calls 200 --spawn --store sqlite --pause-s 6 --pairs 2    with a store and without
    python -m tests.load.load --calls 50 --url http://host:port [--pid PID]

``--spawn`` and ``--bare`` start all processes on free ports and pin the server to one core. ``--url`` takes any engine
that answers ``POST /voice`` and understands plain speech (tests/fakes/plain_speech.py); give TWILIO_AUTH_TOKEN in the
environment if it checks signatures, and ``--pid`` if it runs on this machine.

Response: from the caller's last sound to the first sound of the answer at the ear; it contains the vendors' own delays
and the silence that ends a turn. CPU: seconds of the server per minute of call; the ratio is over the time that a fixed
piece of Python takes on the same core in the same window. Frames: of the callers' audio that the server read a frame or
more after its time, and of the agent's that it wrote so, by the server's own metrics; what the callers themselves sent
late is beside it. ``--pause-s`` makes callers who mostly listen, as most do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx
import trio
from prometheus_client.parser import text_string_to_metric_families

from engine.events import FRAME_S
from engine.observe.families import LAG_S
from engine.phone.phone import open_phone
from tests.load.callers import Plan, Results, run_callers
from tests.load.direct import open_direct
from tests.load.processes import Usage, usage_of
from tests.load.spawning import STORES, Target, Vendors, What, spawned

RELEASE_S = 15.0
"""How long after the last hang-up the server may take to let go of everything."""


@dataclass
class Server:
    """What was seen of the server's process."""

    cpu_s: float | None = None
    waited_s: float | None = None
    """For its core, which other processes were on: more than a few per cent of ``cpu_s``, and the run says little."""
    cpu_s_per_call_minute: float | None = None
    cpu_ratio: float | None = None
    core_s: float | None = None
    """The fixed piece of Python."""
    rss_bytes_per_call: float | None = None
    descriptors_left: int | None = None
    """With SQLite a few connections stay, that were made when they were first needed."""
    released_s: float | None = None
    """From the last hang-up until descriptors and calls were back at what they were."""
    received_late: int | None = None
    """Times that a caller's audio was read a frame or more after its time, the callers' own lateness included."""
    sent_late: int | None = None
    """Times that audio which was held back was written more than a frame after its time."""
    loop_lag_p99_ms: float | None = None
    """At most: the edge of a bucket."""
    store_writes: int | None = None
    store_lost: int | None = None
    calls_left: int | None = None
    vendor_sockets_left: int | None = None


async def measure(plan: Plan, target: Target) -> tuple[Results, Server]:
    """One run. The server is left running."""
    server = Server()
    before = usage_of(target.pid) if target.pid else None
    peak = 0

    async def watch_memory() -> None:
        nonlocal peak
        while target.pid:
            peak = max(peak, usage_of(target.pid).rss_bytes)
            await trio.sleep(1.0)

    # Made beforehand: it takes long enough to be seen. No connection of it may be among the server's descriptors.
    client = httpx.AsyncClient(trust_env=False, headers={"Connection": "close"})
    async with client, open_phone(open_direct) as phone, trio.open_nursery() as nursery:
        nursery.start_soon(watch_memory)
        results = await run_callers(plan, phone)
        if before is not None and target.pid is not None:
            _note_cpu(server, before, usage_of(target.pid), results, target.core_s or [])
            server.rss_bytes_per_call = max(0, peak - before.rss_bytes) / max(1, results.answered)
        await _note_leftovers(server, target, before, client)
        await _note_metrics(server, target.url, client)
        nursery.cancel_scope.cancel()
    return results, server


def _note_cpu(server: Server, before: Usage, after: Usage, results: Results, core_s: Sequence[float]) -> None:
    minutes = results.call_s / 60
    server.cpu_s = after.cpu_s - before.cpu_s
    server.waited_s = after.waited_s - before.waited_s
    server.cpu_s_per_call_minute = server.cpu_s / minutes if minutes else None
    if core_s:
        server.core_s = statistics.median(core_s)
        server.cpu_ratio = server.cpu_s_per_call_minute / server.core_s if server.cpu_s_per_call_minute else None


async def _note_leftovers(server: Server, target: Target, before: Usage | None, client: httpx.AsyncClient) -> None:
    ended_s = trio.current_time()
    while True:
        server.calls_left = await _calls_left(target.url, client)
        server.vendor_sockets_left = await _vendor_sockets(target, client)
        if before is not None and target.pid is not None:
            server.descriptors_left = usage_of(target.pid).descriptors - before.descriptors
        server.released_s = round(trio.current_time() - ended_s, 3)
        if not (server.calls_left or server.vendor_sockets_left or (server.descriptors_left or 0) > 0):
            return
        if server.released_s > RELEASE_S:
            server.released_s = None
            return
        await trio.sleep(0.02)


async def _note_metrics(server: Server, url: str, client: httpx.AsyncClient) -> None:
    """Of a server that has them."""
    try:
        answer = await client.get(f"{url}/metrics")
    except httpx.HTTPError:
        return
    if answer.status_code != 200 or not answer.headers.get("content-type", "").startswith("text/plain"):
        return
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name] += sample.value
            if "le" in sample.labels:
                found[f"{sample.name} {float(sample.labels['le'])}"] += sample.value
            if "op" in sample.labels and sample.name.endswith("_count"):
                found[f"{sample.name} {sample.labels['op']}"] += sample.value
    lag = "offhook_event_loop_lag_seconds"
    enough = 0.99 * found[f"{lag}_count"]
    edges = [edge for edge in LAG_S if found[f"{lag}_bucket {float(edge)}"] >= enough]
    server.loop_lag_p99_ms = 1000 * edges[0] if edges else None
    server.received_late = int(found["offhook_audio_receive_gap_seconds_count"])
    sent = "offhook_audio_send_lag_seconds"
    server.sent_late = int(found[f"{sent}_count"] - found[f"{sent}_bucket {FRAME_S}"])
    server.store_writes = int(found["offhook_store_operation_duration_seconds_count write"])
    server.store_lost = int(found["offhook_store_lost_total"])


async def _calls_left(url: str, client: httpx.AsyncClient) -> int | None:
    """None for a server that does not tell."""
    try:
        health = (await client.get(f"{url}/api/health")).json()
        return int(health["sessions"]["active_count"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


async def _vendor_sockets(target: Target, client: httpx.AsyncClient) -> int | None:
    if not target.vendors_url:
        return None
    counts = (await client.get(f"{target.vendors_url}/counts")).json()
    return int(counts["open"]["connection"]) - 1  # the one that asks


# --- the report ---------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else None


def summary(plan: Plan, results: Results, server: Server, floor_s: float | None = None) -> dict[str, object]:
    """Everything, as JSON can hold it."""
    return {
        "calls": plan.calls,
        "duration_s": plan.duration_s,
        "answered": results.answered,
        "greeted": results.greeted,
        "refused": results.refused,
        "failed": dict(results.failed),
        "violations": dict(results.violations),
        "turns": results.turns,
        "unanswered": results.unanswered,
        "response_p50_ms": _ms(percentile(results.response_s, 50)),
        "response_p95_ms": _ms(percentile(results.response_s, 95)),
        "response_floor_ms": _ms(floor_s),
        "barge_ins": len(results.barge_in_stop_s),
        "barge_in_stop_p50_ms": _ms(percentile(results.barge_in_stop_s, 50)),
        "barge_in_stop_p95_ms": _ms(percentile(results.barge_in_stop_s, 95)),
        "gaps": len(results.gaps_s),
        "gap_ms": _ms(sum(results.gaps_s)),
        "gap_share": round(sum(results.gaps_s) / results.agent_audio_s, 5) if results.agent_audio_s else None,
        "late_share_of_callers": round(results.frames_late / results.frames, 5) if results.frames else None,
        "remembered": results.remembered,
        "foreign_words": results.foreign_words,
        "call_minutes": round(results.call_s / 60, 2),
        "server": {
            key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(server).items()
        },
    }


def table(figures: dict[str, object]) -> str:
    rows = []
    for key, value in figures.items():
        if isinstance(value, dict) and key == "server":
            rows += [(f"server {inner.replace('_', ' ')}", shown) for inner, shown in value.items()]
        else:
            rows.append((key.replace("_", " "), value))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in rows)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{count} x {what}" for what, count in value.items()) or "none"
    return str(value)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


async def run(options: argparse.Namespace) -> dict[str, object]:
    """One run. Raises SpawnFailed."""
    plan = Plan(
        options.url or "",
        options.calls,
        options.duration_s,
        stagger_s=options.stagger_s,
        seed=options.seed,
        pause_s=options.pause_s,
    )
    async with AsyncExitStack() as stack:
        if options.url:
            target = Target(options.url.rstrip("/"), os.environ.get("TWILIO_AUTH_TOKEN", ""), options.pid)
        else:
            what = What(plan.calls, options.bare, Vendors(options.vendors), options.store)
            target = await stack.enter_async_context(spawned(what))
        plan = replace(plan, url=target.url, auth_token=target.token)
        results, server = await measure(plan, target)
        return summary(plan, results, server, target.floor_s)


async def run_pairs(options: argparse.Namespace) -> dict[str, object]:
    """The engine and what it is compared with in turn, so that both have the same neighbours: itself without a store if
    it has one, else the bare server."""
    name, other = ("no store", {"store": ""}) if options.store else ("bare", {"bare": True})
    runs: dict[str, list[dict[str, Any]]] = {name: [], "engine": []}
    for _ in range(options.pairs):
        for who, changed in ((name, other), ("engine", {})):
            figures = await run(argparse.Namespace(**{**vars(options), **changed}))
            runs[who].append(figures)
            print(json.dumps({"who": who, **figures}) if options.json else short(figures, who), flush=True)
    return comparison(runs, name)


def comparison(runs: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> dict[str, object]:
    """The engine over the other, by pairs; and how late their audio was."""
    ratios = [_cpu(ours) / _cpu(theirs) for ours, theirs in zip(runs["engine"], runs[name], strict=True)]
    figures: dict[str, object] = {
        "cpu": round(statistics.median(map(_cpu, runs["engine"])), 3),
        f"{name} cpu": round(statistics.median(map(_cpu, runs[name])), 3),
        f"cpu over {name}": round(statistics.median(ratios), 3),
        f"cpu over {name} each": " ".join(f"{ratio:.2f}" for ratio in ratios),
    }
    for what in ("received_late", "sent_late", "loop_lag_p99_ms"):
        for who, found in runs.items():
            seen = [figures_of["server"][what] for figures_of in found]
            if None not in seen:
                figures[f"{who} {what}"] = " ".join(map(str, seen))
    return figures


def short(figures: Mapping[str, Any], who: str) -> str:
    """A run on one line."""
    server = figures["server"]
    above = [
        None
        if figures[f"response_{p}_ms"] is None
        else round(figures[f"response_{p}_ms"] - figures["response_floor_ms"], 1)
        for p in ("p50", "p95")
    ]
    seen = {
        "cpu": server["cpu_ratio"],
        "above floor ms": " / ".join(map(str, above)),
        "barge-in p95 ms": figures["barge_in_stop_p95_ms"],
        "gaps": f"{figures['gaps']} ({figures['gap_share']})",
        "unanswered": figures["unanswered"],
        "core s": server["core_s"],
        "waited": f"{server['waited_s']:.1f} of {server['cpu_s']:.1f} s",
        "late callers": figures["late_share_of_callers"],
        "received late": server["received_late"],
        "sent late": server["sent_late"],
        "lag p99 ms": server["loop_lag_p99_ms"],
    }
    return f"{who:<8} {figures['calls']} calls  " + "  ".join(
        f"{what} {value}" for what, value in seen.items() if value is not None
    )


def _cpu(figures: Mapping[str, Any]) -> float:
    return float(figures["server"]["cpu_ratio"])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="of a running engine")
    where.add_argument("--spawn", action="store_true", help="start the engine of this checkout, and fake vendors")
    where.add_argument("--bare", action="store_true", help="start the bare server")
    parser.add_argument(
        "--store", default="", choices=("", *STORES), help="of the spawned engine, for its callers' sessions"
    )
    parser.add_argument(
        "--vendors",
        default=Vendors.CHEAP,
        choices=list(Vendors),
        help="of the spawned server: wires of ours, or theirs",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=0,
        help="so many runs, each in turn with one of the bare server, or with --store one of the engine without",
    )
    parser.add_argument("--calls", type=int, default=10, help="at once")
    parser.add_argument("--duration-s", type=float, default=30.0, help="of each call")
    parser.add_argument("--stagger-s", type=float, default=0.057, help="between the starts of two calls")
    parser.add_argument("--pause-s", type=float, default=0.6, help="between an answer and the next words, on average")
    parser.add_argument("--pid", type=int, help="of the server behind --url, to measure it")
    parser.add_argument("--seed", type=int, default=1, help="for the callers' pauses")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    figures = trio.run(run_pairs if options.pairs else run, options)
    print(json.dumps(figures) if options.json else table(figures))


if __name__ == "__main__":
    main()
