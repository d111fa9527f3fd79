"""The families of metrics that only dependable vendors feed are all fed."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from engine.errors import ModelFailed
from engine.events import Usage
from tests.fakes.samples import total
from tests.system.test_metrics import OF_DEPENDABLE_VENDORS
from tests.vendors.puppets import EarVendor, House, MindVendor, failed
from tests.vendors.test_hearing import listening
from tests.vendors.test_thinking import answer, thinking


async def test_each_family_that_is_counted_here_is_fed(autojump_clock: MockClock) -> None:
    house = House()
    ears = EarVendor(), EarVendor("two")
    async with listening(house, *ears):
        ears[0].last.breaks()
        await trio.sleep(0.5)
    minds = MindVendor("one", [failed(of=ModelFailed)] * 3), MindVendor("two", ["Yes.", Usage(3, 4)])
    minds[0].usual = [failed(of=ModelFailed)]
    async with thinking(house, *minds) as mind:
        await answer(mind)
    for family in OF_DEPENDABLE_VENDORS:
        assert total(house.metrics.registry, family) > 0, family
