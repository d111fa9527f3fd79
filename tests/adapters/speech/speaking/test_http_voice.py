"""Synthesizers over HTTP: connections, and answers that are none."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine.errors import SpeechFailed, Why
from engine.runtime.network import Network
from tests.contract.synthesizers import KINDS, Kind, bench_of, heard, kind_named
from tests.fakes.clouds.loopback import Cloud, StreamPair, dialled
from tests.fakes.clouds.voicebox import Voicebox
from tests.fakes.plain_speech import words

Clock = trio.testing.MockClock
HTTP = [kind for kind in KINDS if not kind.is_socket]
every_http = pytest.mark.parametrize("kind", HTTP, ids=str)
OPENAI = kind_named("openai")


class Dials:
    """Counts connections."""

    def __init__(self) -> None:
        self.count = 0

    def network(self, cloud: Cloud, nursery: trio.Nursery) -> Network:
        def pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
            self.count += 1
            return trio.testing.memory_stream_pair()

        counted: StreamPair = pair
        return dialled(cloud, nursery, counted)


@every_http
async def test_a_connection_is_used_again_unless_the_caller_interrupted(kind: Kind, autojump_clock: Clock) -> None:
    dials = Dials()
    async with bench_of(kind, network=dials.network) as bench:
        async with bench.synthesizer() as synthesizer:
            assert dials.count == 0
            for _ in range(3):
                await heard(synthesizer, "Good day.")
            assert dials.count == 1
            async with synthesizer.open_speech("Good day to you, and how are you?") as speech:
                await speech.receive()
            await trio.sleep(0.5)
            assert bench.cloud.requests_open == 0
            await heard(synthesizer, "Good day.")
            assert dials.count == 2
        await bench.all_closed()


@every_http
async def test_an_account_without_credit_is_not_asked_again(kind: Kind, autojump_clock: Clock) -> None:
    """Whatever status says so: 429 would mean that it may work a little later."""
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(error="insufficient_quota")
        with pytest.raises(SpeechFailed, match="429 insufficient_quota") as failure:
            await heard(synthesizer, "Good day.")
        assert failure.value.why is Why.AUTH
        assert not failure.value.why.may_pass


@every_http
async def test_of_a_long_error_only_the_beginning_is_read(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(refuses=500, page=b"<html>" + b"x" * 3_000_000)
        for _ in range(2):
            with pytest.raises(SpeechFailed, match=r"HTTP 500$"):
                await heard(synthesizer, "Good day.")
        bench.cloud.voicebox = Voicebox()
        assert words(await heard(synthesizer, "Good day."), bench.line) == "Good day."
        assert bench.cloud.requests_open == 0


async def test_a_sentence_of_the_vendors_is_never_repeated(autojump_clock: Clock) -> None:
    """It may hold what was to be said."""
    async with bench_of(OPENAI) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(error="Cannot say: your balance is 12 pounds")
        with pytest.raises(SpeechFailed) as failure:
            await heard(synthesizer, "Your balance is 12 pounds.")
        assert "balance" not in str(failure.value)
