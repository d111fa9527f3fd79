"""Sessions on a real vault and writer over the memory store, with agents that a test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from adapters.stores.memory import MemoryStore
from engine.dialogue.context import ContextLimits
from engine.events import MULAW_8K, CallInfo
from engine.observe.labels import WebhookEvent
from engine.observe.metrics import Metrics
from engine.ports import Agent, IncomingText, RecordStore
from engine.sessions.around import Around
from engine.sessions.house import Sessions
from engine.sessions.showing import Showing
from engine.settings import AgentSettings, SessionSettings, Settings
from engine.storage.keyring import KeyRing
from engine.storage.vault import Vault
from engine.storage.writer import Writer
from tests.fakes.puppet import PuppetAgent
from tests.fakes.samples import sample

ADA = "+15550100001"
BOB = "+15550100002"
LINE = "+15550100000"


class Clock:
    """Unix seconds that follow trio's clock."""

    def __call__(self) -> float:
        return 1_800_000_000.0 + trio.current_time()


@dataclass(eq=False)
class Rig:
    sessions: Sessions
    vault: Vault
    writer: Writer
    store: RecordStore
    metrics: Metrics
    agents: dict[str, Agent]
    aside: trio.CapacityLimiter
    """Of the thread that sessions work in besides."""
    told: list[tuple[WebhookEvent, str, str, Mapping[str, object]]] = field(default_factory=list)
    restart: Callable[[], None] = lambda: None

    def call(self, number: str = ADA, stream_id: str = "MZ1", *, agent: str = "desk", attestation: str = "A") -> Any:
        info = CallInfo("twilio", f"CA{stream_id}", stream_id, MULAW_8K, agent, number, LINE, attestation=attestation)
        return self.sessions.joined(info)

    async def sms(self, text: str, number: str = ADA) -> str:
        incoming = IncomingText(f"SM{len(text)}{text[:8]}", number, LINE, text)
        return (await self.sessions.text("twilio", incoming)).text

    def events(self) -> list[str]:
        return [str(event) for event, *_ in self.told]

    def value(self, name: str, **labels: str) -> float:
        return sample(self.metrics.registry, name, **labels)

    async def stored(self, key: str) -> list[str]:
        """Every message of the session with this key, as the store has it."""
        await self.sessions.settle()
        await self.writer.flush()
        found = await self.vault.load(key, last=1000)
        return [entry.text for entry in found.entries] if found else []


@asynccontextmanager
async def house(
    *agents: Agent,
    scope: str = "caller",
    store: RecordStore | None = None,
    keys: str = "",
    load_s: float = 0.3,
    lines: Mapping[str, str] | None = None,
    clock: Callable[[], float] | None = None,
    **sessions: Any,
) -> AsyncIterator[Rig]:
    named: dict[str, Agent] = {agent.name: agent for agent in agents or (PuppetAgent(),)}
    settings = Settings(
        sessions=replace(SessionSettings(), **sessions),
        agents={name: AgentSettings(scope=scope) for name in named},
        lines=lines or {},
    )
    settings = replace(settings, store=replace(settings.store, kind="memory", load_s=load_s))
    clock, metrics, store = clock or Clock(), Metrics(), store or MemoryStore(now=Clock())
    ttl_s, retention = settings.sessions.ttl_days * 86_400.0, settings.sessions.retention
    vault = Vault(store, KeyRing.parse(keys), metrics, ttl_s=ttl_s, retention=retention, now=clock)
    writer = Writer(vault, None, metrics)
    told: list[tuple[WebhookEvent, str, str, Mapping[str, object]]] = []
    showing = Showing(metrics, ContextLimits(settings.sessions.window, settings.sessions.max_chars))
    around = Around(
        settings.sessions, named, vault, writer, showing, metrics, lambda *event: told.append(event), clock, load_s
    )
    rooms = Sessions(around, settings, named)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        nursery.start_soon(rooms.run)
        await trio.testing.wait_all_tasks_blocked()
        yield Rig(rooms, vault, writer, store, metrics, named, around.aside, told)
        nursery.cancel_scope.cancel()
