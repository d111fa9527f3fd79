"""The language models under the layer that holds a call's mind together: what one began another ends, in whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from engine.observe.metrics import Metrics
from engine.ports import ModelVendor
from engine.vendors.around import Vendoring
from engine.vendors.breaker import Breakers
from engine.vendors.thinking import open_model
from tests.contract.model_benches import BENCHES, SESSION, Bench, Book, asked, text_of
from tests.fakes.clouds.loopback import Response, dialled
from tests.fakes.clouds.thinking import KEY, Manner, ModelCloud
from tests.fakes.vendors import STORY

PAIRS = [(first, second) for first in BENCHES for second in BENCHES if first is not second]


def named(bench: Bench, cloud: ModelCloud, nursery: trio.Nursery) -> ModelVendor:
    vendor = bench.make_vendor(dialled(cloud, nursery), KEY)
    vendor.name = bench.name
    return vendor


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda bench: bench.name)
async def test_an_answer_that_one_began_is_ended_by_another(
    first: Bench, second: Bench, repeats: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    metrics = Metrics()
    clouds = [first.make_cloud(), second.make_cloud()]
    clouds[0].manner = Manner(cut_at=30)
    clouds[1].manner.repeats = repeats
    vendors = [named(bench, cloud, nursery) for bench, cloud in zip((first, second), clouds, strict=True)]
    book = Book()

    async def closes_the_account() -> None:
        await trio.sleep(0.2)  # in the middle of its answer
        clouds[0].manner.refusal = Response(401)

    nursery.start_soon(closes_the_account)
    context = replace(asked("and a story please"), instructions="Be brief.")
    around = Vendoring(metrics, Breakers(metrics))
    async with open_model(vendors, SESSION, book, around) as model, model.open_reply(context) as parts:
        heard = text_of([part async for part in parts])
    assert " ".join(heard.split()) == f"Turn 1. You said and a story please. {STORY}"
    assert [cloud.faults for cloud in clouds] == [[], []]
    assert [len(cloud.bodies) for cloud in clouds] == [1, 1]
    assert (book.open, book.leaks) == (0, 0)
