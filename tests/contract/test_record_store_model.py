"""Whatever is done to a record store, it answers as the one in memory does."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.ports import Append, AuditRow, MessageRow, RecordStore, Rekey, Remove, Replace, Write
from tests.contract.benches import DAY_S, T0, Bench, Rows, memory_bench, trace

SESSIONS = st.integers(0, 3)
SMALL = st.integers(0, 2)
BODIES = st.sampled_from([b"", b"\0", b"one", b"\xff two"])


@dataclass(frozen=True)
class Step:
    """One operation; its names begin with the run's, so that no run meets what another has left."""

    what: str
    do: Callable[[RecordStore, str], Awaitable[Any]]

    def __repr__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Tick:
    seconds: float


MESSAGES = st.builds(lambda n, body: MessageRow(f"m{n}", T0 + n, body), st.integers(0, 6), BODIES)


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    return Rows(
        f"s{draw(SESSIONS)}",
        f"k{draw(SESSIONS)}",
        draw(st.sampled_from(["", "anna", "ben"])),
        T0 + draw(SMALL),
        T0 + DAY_S + draw(st.sampled_from([10, 20, 30, 1000])),
    )


@st.composite
def writes(draw: st.DrawFn) -> Write:
    who = draw(rows())
    match draw(st.sampled_from(["append"] * 6 + ["replace", "replace", "rekey", "remove"])):
        case "append":
            messages, traces = draw(st.lists(MESSAGES, max_size=4)), draw(st.lists(SMALL, max_size=2))
            head = who.head(draw(st.sampled_from([0, 0, 1, 1, 2, 3, 4])), draw(BODIES))
            return Append(head, tuple(messages), tuple(map(trace, traces)), 1 + draw(st.integers(0, 4)), 2)
        case "replace":
            return Replace(who.session_id, draw(MESSAGES), draw(BODIES))
        case "rekey":
            return Rekey(who.session_id, who.key)
        case _:
            return Remove(who.session_id)


def named(write: Write, run: str) -> Write:
    match write:
        case Append():
            head = write.head
            subject = head.subject and run + head.subject
            head = replace(head, session_id=run + head.session_id, key=run + head.key, subject=subject)
            return replace(write, head=head)
        case Rekey():
            return Rekey(run + write.session_id, run + write.key)
        case Replace() | Remove():
            return replace(write, session_id=run + write.session_id)


def reads(who: Rows, subject: str, last: int) -> list[Step]:
    return [
        Step(f"find {who.key} {last}", lambda store, run: store.find(run + who.key, last=last)),
        Step(f"get {who.session_id} {last}", lambda store, run: store.get(run + who.session_id, last=last)),
        Step(f"traces {who.session_id}", lambda store, run: store.traces(run + who.session_id)),
        Step(f"of {subject}", lambda store, run: store.of_subject(run + subject)),
        Step(f"scan {last}", lambda store, run: store.scan(run, limit=last + 1)),
    ]


def rarer(who: Rows, subject: str) -> list[Step | Tick]:
    return [
        Step(f"erase {subject} {who.started_at}", lambda store, run: store.erase(run + subject, who.started_at)),
        Step("purge", purge),
        Step(f"meta {who.key}", lambda store, run: exchange(store, run, who.key.encode())),
        Step("audit", lambda store, run: audit(store, AuditRow(T0, who.key.encode()))),
        Tick(1.0),
        Tick(20.0),
    ]


@st.composite
def steps(draw: st.DrawFn) -> Step | Tick:
    who, last = draw(rows()), draw(st.sampled_from([0, 1, 3, 100]))
    subject = who.subject or "anna"
    match draw(st.sampled_from(["write", "write", "read", "read", "rarer"])):
        case "write":
            batch = draw(st.lists(writes(), min_size=1, max_size=4))
            return Step(f"write {batch}", lambda store, run: store.write([named(write, run) for write in batch]))
        case "read":
            return draw(st.sampled_from(reads(who, subject, last)))
        case _:
            return draw(st.sampled_from(rarer(who, subject)))


async def purge(store: RecordStore, run: str) -> None:
    """How many there were depends on when a store lets go of what nobody can see any more."""
    await store.purge(T0 + DAY_S + 10)


async def exchange(store: RecordStore, run: str, value: bytes) -> list[object]:
    name = f"{run}name"
    return [await store.set_meta(name, value, was=b"k1"), await store.meta(name, value)]


async def audit(store: RecordStore, row: AuditRow) -> list[AuditRow]:
    await store.add_audit(row)
    return await store.audit(limit=1)


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runs() -> Iterator[int]:
    return itertools.count()


@settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(todo=st.lists(steps(), min_size=10, max_size=30))
async def test_a_store_answers_as_the_one_in_memory_does(
    bench: Bench, runs: Iterator[int], todo: list[Step | Tick]
) -> None:
    run = f"{next(runs):09} "
    reference = memory_bench()
    bench.clock.at = T0 + DAY_S
    reference.clock.at = T0 + DAY_S
    async with bench.open() as store, reference.open() as model:
        for step in todo:
            if isinstance(step, Tick):
                bench.clock.at += step.seconds
                reference.clock.at += step.seconds
                continue
            answer = await step.do(store, run)
            expected = await step.do(model, run)
            assert answer == expected, step
        for number in range(4):
            name = f"{run}s{number}"
            assert await store.get(name, last=100) == await model.get(name, last=100)
            assert await store.traces(name) == await model.traces(name)
