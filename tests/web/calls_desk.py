"""A desk for calls of real parts, over a provider that takes every order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import trio

from engine.calls.outbound.dialing import Dialing
from engine.calls.registry import Registry
from engine.observe.metrics import Metrics
from engine.ports import Ability, Dial
from engine.settings import OutboundSettings, Settings
from engine.web.calls import CallDesk
from tests.web.support import FakeProvider

OURS = "+12025550100"


class Dials(FakeProvider):
    def __init__(self) -> None:
        super().__init__()
        self.abilities = frozenset({Ability.DIAL, Ability.DETECT_MACHINE, Ability.HANG_UP})
        self.orders: list[Dial] = []

    async def dial(self, call: Dial, client: httpx.AsyncClient) -> str:
        await trio.lowlevel.checkpoint()
        self.orders.append(call)
        return f"CA{len(self.orders):032d}"

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def call_desk(provider: Dials | None = None) -> AsyncIterator[CallDesk]:
    """It may call the United States as often as it likes."""
    provider, metrics = provider or Dials(), Metrics()
    outbound = OutboundSettings(True, {OURS: "twilio"}, ("+1",), calls_per_minute=100_000, max_calls=100_000)
    settings = replace(Settings(), outbound=outbound)
    registry = Registry(capacity=100_000, metrics=metrics)
    dialing = Dialing(
        registry,
        {"twilio": provider},
        settings,
        metrics,
        httpx.AsyncClient,
        base_url=lambda: "https://calls.example.com",
    )

    async def note(by: str, action: str, number: str, detail: str) -> None:
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        yield CallDesk(registry, dialing, settings, note)
        nursery.cancel_scope.cancel()
