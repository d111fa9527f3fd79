"""A whole engine on loopback, fake vendors behind it and a phone in front, in one process, on whichever clock the test
has: with ``autojump_clock`` a call of ten seconds costs a few hundredths of one, on real sockets."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from engine.assembly import Engine
from engine.observe.timeline import Moment, What
from engine.phone.call import PhoneCall
from engine.phone.phone import SIDES, Phone, open_phone
from engine.phone.side import Callee
from engine.phone.texts import Inbox, send_text
from engine.settings import AgentSettings, Limits, Secrets, Server, SessionSettings, Settings, StoreSettings
from tests.fakes.plain_speech import speak, words
from tests.fakes.samples import sample, total
from tests.fakes.vendors import Behaviour, Vendors

SECRET = "a-secret-of-more-than-thirty-two-bytes"


@dataclass(eq=False)
class Rig:
    engine: Engine
    vendors: Vendors
    phone: Phone
    moments: list[Moment] = field(default_factory=list)

    @asynccontextmanager
    async def call(
        self, provider: str = "twilio", *, caller: str = "+15005550006", **more: Any
    ) -> AsyncIterator[PhoneCall]:
        callee = Callee(self.engine.url, caller=caller, secret=SECRET, **more)
        async with self.phone.call(SIDES[provider](callee)) as call:
            yield call

    async def say(self, call: PhoneCall, text: str) -> str:
        """One turn: the answer in words, as the caller's ear has it."""
        await call.say(speak(text, call.format))
        return words(await call.wait_for_reply(within_s=15), call.format)

    async def text(
        self, text: str, provider: str = "twilio", *, caller: str = "+15005550006", inbox: Inbox | None = None
    ) -> str:
        """An SMS, and the answer to it."""
        return await send_text(provider, Callee(self.engine.url, caller=caller, secret=SECRET), text, inbox=inbox)

    async def quiet(self) -> None:
        """Until the engine holds nothing of any call, and the vendors see nobody. Fails after two seconds."""
        with trio.fail_after(2.0):
            while self.engine.registry.live_slots() or sum(self.vendors.open.values()):  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.01)

    def value(self, name: str, **labels: str) -> float:
        return sample(self.engine.metrics.registry, name, **labels)

    def total(self, name: str) -> float:
        """Over all labels."""
        return total(self.engine.metrics.registry, name)

    def balance(self) -> dict[str, float]:
        """What must be zero at rest, whatever happened before."""
        return {
            "resources_open": self.total("resources_open"),
            "opened - closed": self.total("resources_opened_total") - self.total("resources_closed_total"),
            "leaked": self.total("resources_leaked_total"),
            "orphaned": self.total("resources_orphaned"),
            "active": self.total("calls_active"),
            "started - ended": self.total("calls_started_total") - self.total("calls_ended_total"),
            "silent": self.total("silent_calls_total"),
            "greeting repeats": self.total("greeting_repeats_total"),
            "label overflow": self.total("label_overflow_total"),
        }

    def count(self, what: What) -> int:
        return sum(moment.what is what for moment in self.moments)


@asynccontextmanager
async def running_engine(
    *,
    max_calls: int = 10,
    behaviour: Behaviour | None = None,
    greeting: str = "Hello.",
    configure: Callable[[Settings], Settings] = lambda settings: settings,
    **limits: Any,
) -> AsyncIterator[Rig]:
    """``configure`` changes the settings that the engine is made of."""
    vendors = Vendors(behaviour or Behaviour())
    moments: list[Moment] = []
    async with trio.open_nursery() as nursery:
        port = await nursery.start(vendors.listen)
        options = {"url": f"http://127.0.0.1:{port}", "greeting": greeting}
        settings = Settings(
            server=Server(port=0),
            limits=replace(Limits(), max_calls=max_calls, calls_per_minute_per_caller=100_000, **limits),
            store=StoreSettings(kind="memory"),
            # The vendors' model counts the turns it is shown: it is shown all of them.
            sessions=replace(SessionSettings(), window=1000, retention=1000, max_chars=10_000),
            agents={"desk": AgentSettings(factory="tests.fakes.agents:make_agent", options=options)},
            secrets=Secrets(twilio_auth_token=SECRET, vonage_signature_secret=SECRET),
        )
        engine = Engine(configure(settings), watchers=[moments.append])
        ended = trio.Event()

        async def run(task_status: trio.TaskStatus[str]) -> None:
            await engine.run(task_status=task_status)
            ended.set()

        await nursery.start(run)
        while not engine.supervisor.ready[0]:  # noqa: ASYNC110 - as a load balancer would ask
            await trio.sleep(0.01)
        async with open_phone() as phone:
            yield Rig(engine, vendors, phone, moments)
        engine.stop()
        await ended.wait()  # no deadline: the engine's thread ends by the real clock, on which a virtual one has no say
        nursery.cancel_scope.cancel()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
