"""The registry actor: who lives, who may come, and never one more than the capacity."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import integers
from trio.testing import MockClock

from engine.calls.registry import Claim, Registry, Release, Reserve
from engine.calls.slots import NotAdmitted, Over, Refusal, Slot
from engine.errors import CallEnd, Cause
from engine.observe.metrics import Metrics
from engine.ports import IncomingCall
from engine.runtime.mailbox import Answer
from tests.fakes.samples import sample, total


def incoming(call_id: str) -> IncomingCall:
    return IncomingCall(call_id, "+15550100001", "+15550100000")


@asynccontextmanager
async def running(capacity: int = 3, metrics: Metrics | None = None) -> AsyncIterator[Registry]:
    registry = Registry(capacity=capacity, metrics=metrics or Metrics(), token_s=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        yield registry
        nursery.cancel_scope.cancel()


async def reserve(registry: Registry, call_id: str, replay_key: str = "") -> str:
    token = await registry.reserve("twilio", incoming(call_id), replay_key)
    assert isinstance(token, str)
    return token


async def test_a_promised_call_is_admitted_once() -> None:
    async with running() as registry:
        token = await reserve(registry, "CA1")
        async with registry.admitted("twilio", "CA1", token) as slot:
            assert registry.live_calls() == ["CA1"]
            assert slot.incoming.caller == "+15550100001"
            with pytest.raises(NotAdmitted):
                async with registry.admitted("twilio", "CA1", token):
                    pytest.fail("used twice")
            assert registry.live_calls() == ["CA1"]
        await registry.wait_empty()
        assert registry.live_calls() == []


@pytest.mark.parametrize(
    ("provider", "call_id", "token"),
    [("twilio", "CA2", ""), ("vonage", "CA1", ""), ("twilio", "CA1", "guess"), ("twilio", "CA1", "none")],
)
async def test_a_token_is_bound_to_its_call_and_provider(provider: str, call_id: str, token: str) -> None:
    async with running() as registry:
        real = await reserve(registry, "CA1")
        with pytest.raises(NotAdmitted):
            async with registry.admitted(provider, call_id, token or real):
                pytest.fail("admitted")
        assert registry.live_calls() == []


async def test_a_token_is_void_after_its_time_and_its_slot_is_free_again(autojump_clock: MockClock) -> None:
    async with running(capacity=1) as registry:
        token = await reserve(registry, "CA1")
        assert await registry.reserve("twilio", incoming("CA2")) == Refusal("capacity")
        await trio.sleep(60.1)
        with pytest.raises(NotAdmitted):
            async with registry.admitted("twilio", "CA1", token):
                pytest.fail("admitted")
        await reserve(registry, "CA2")


async def test_ten_times_the_capacity_at_once_never_exceeds_it() -> None:
    most = 0
    async with running(capacity=20) as registry:

        async def arrive(number: int) -> None:
            nonlocal most
            token = await registry.reserve("twilio", incoming(f"CA{number}"))
            if isinstance(token, Refusal):
                refused.append(token.reason)
                return
            assert isinstance(token, str)
            async with registry.admitted("twilio", f"CA{number}", token):
                most = max(most, len(registry.live_calls()))
                admitted.append(number)
                await done.wait()

        refused: list[str] = []
        admitted: list[int] = []
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(arrive, number)
            await trio.testing.wait_all_tasks_blocked()
            assert (len(admitted), len(refused), most) == (20, 180, 20)
            done.set()
        await registry.wait_empty()


async def test_a_replayed_webhook_gets_the_same_token_and_no_second_slot(autojump_clock: MockClock) -> None:
    async with running(capacity=1) as registry:
        first = await reserve(registry, "CA1", "signature")
        assert await reserve(registry, "CA1", "signature") == first
        async with registry.admitted("twilio", "CA1", first):
            assert await reserve(registry, "CA1", "signature") == first
            with pytest.raises(NotAdmitted):
                async with registry.admitted("twilio", "CA1", first):
                    pytest.fail("a replay must not open a second stream")


async def test_several_may_wait_for_the_last_call(autojump_clock: MockClock) -> None:
    async with running() as registry:
        token = await reserve(registry, "CA1")
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery, registry.admitted("twilio", "CA1", token):
                nursery.start_soon(registry.wait_empty)
                nursery.start_soon(registry.wait_empty)
                await trio.testing.wait_all_tasks_blocked()


async def test_a_newer_webhook_of_a_live_call_makes_a_successor_of_it() -> None:
    async with running(capacity=1) as registry:
        first_token = await reserve(registry, "CA1", "a")
        async with registry.admitted("twilio", "CA1", first_token) as first:
            second_token = await reserve(registry, "CA1", "b")
            async with registry.admitted("twilio", "CA1", second_token) as second:
                assert second.predecessor is first
                assert registry.live_calls() == ["CA1"]
                assert registry.find("twilio", "CA1") is second


async def test_the_older_call_of_an_id_does_not_evict_the_newer() -> None:
    async with running() as registry:
        first_token = await reserve(registry, "CA1", "a")
        async with registry.admitted("twilio", "CA1", first_token):
            second_token = await reserve(registry, "CA1", "b")
            second = registry.admitted("twilio", "CA1", second_token)
            await second.__aenter__()
        await trio.testing.wait_all_tasks_blocked()
        assert registry.live_calls() == ["CA1"]
        await second.__aexit__(None, None, None)


async def test_a_caller_cancelled_at_any_moment_of_admission_leaves_no_ghost() -> None:
    for steps in range(8):
        async with running() as registry:
            token = await reserve(registry, "CA1")
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def hold(token: str = token, registry: Registry = registry) -> None:
                        async with registry.admitted("twilio", "CA1", token):
                            await trio.sleep_forever()

                    nursery.start_soon(hold)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert registry.live_calls() == []


async def test_draining_refuses_new_calls_and_keeps_promises() -> None:
    async with running() as registry:
        token = await reserve(registry, "CA1")
        registry.refusing = "draining"
        assert await registry.reserve("twilio", incoming("CA2")) == Refusal("draining")
        async with registry.admitted("twilio", "CA1", token):
            assert registry.live_calls() == ["CA1"]


async def test_started_again_after_a_crash_it_still_knows_the_live_calls() -> None:
    metrics = Metrics()
    registry = Registry(capacity=2, metrics=metrics)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        token = await reserve(registry, "CA1")
        async with registry.admitted("twilio", "CA1", token):
            nursery.cancel_scope.cancel()  # the first life of the actor
    registry._live.clear()
    slot = Slot("twilio", "CA9")
    registry._slots.add(slot)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        await trio.testing.wait_all_tasks_blocked()
        assert registry.live_calls() == ["CA9"]
        nursery.cancel_scope.cancel()


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: never above the capacity, started minus ended is what is live."""

    CAPACITY = 3

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry | None = None
        self.tokens: dict[str, str] = {}
        self.slots: list[Slot] = []

    def handle(self, message: Reserve | Claim | Release) -> None:
        async def main() -> None:
            if self.registry is None:
                self.metrics = Metrics()
                self.registry = Registry(capacity=self.CAPACITY, metrics=self.metrics)
            self.registry._handle(message)

        trio.run(main, clock=MockClock())

    @rule(number=integers(0, 6))
    def webhook(self, number: int) -> None:
        answer: Answer[str | Refusal | Over] = Answer()
        self.handle(Reserve("twilio", incoming(f"CA{number}"), "", answer))
        given = trio.run(answer.wait)
        if isinstance(given, str):
            self.tokens[f"CA{number}"] = given

    @rule(number=integers(0, 6))
    def socket(self, number: int) -> None:
        slot = Slot("twilio", f"CA{number}")
        try:
            self.handle(Claim(slot, self.tokens.get(slot.call_id, ""), Answer()))
        except NotAdmitted:
            return
        if slot.predecessor is not None:
            self.slots.remove(slot.predecessor)
            self.handle(Release(slot.predecessor))
        self.slots.append(slot)

    @rule(which=integers(0, 10))
    def hang_up(self, which: int) -> None:
        if self.slots:
            slot = self.slots.pop(which % len(self.slots))
            slot.end = CallEnd(Cause.CALLER_HANGUP)
            self.handle(Release(slot))
            self.handle(Release(slot))

    @invariant()
    def the_books_balance(self) -> None:
        if self.registry is None:
            return
        live = self.registry.live_calls()
        assert sorted(live) == sorted(slot.call_id for slot in self.slots)
        assert len(live) <= self.CAPACITY
        value = partial(sample, self.metrics.registry, provider="twilio", direction="inbound")
        active, started = value("calls_active"), value("calls_started_total")
        ended = total(self.metrics.registry, "calls_ended_total")
        assert active == len(live) == started - ended


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=8, stateful_step_count=25, deadline=None)
