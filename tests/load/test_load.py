"""The load script runs, and its figures are those of the calls it made."""

from __future__ import annotations

import trio

from tests.load import bare
from tests.load.callers import Plan
from tests.load.load import measure, percentile, summary, table
from tests.load.spawning import Target


async def test_three_calls_against_the_bare_server() -> None:
    async with trio.open_nursery() as nursery:
        delays = bare.Delays(onset_s=0.1, endpoint_s=0.1, answer_s=0.05)
        port, _ = await nursery.start(bare.serve, 0, delays)
        plan = Plan(f"http://127.0.0.1:{port}", calls=3, duration_s=4.0, stagger_s=0.01)
        results, server = await measure(plan, Target(plan.url, "", None))
        nursery.cancel_scope.cancel()

    figures = summary(plan, results, server)
    assert results.greeted == results.answered == 3
    assert not results.failed
    assert not results.violations
    response_s = percentile(results.response_s, 50)
    assert response_s is not None
    assert 0.1 < response_s < 0.5
    assert figures["foreign_words"] == 0
    assert "response p95 ms" in table(figures)
