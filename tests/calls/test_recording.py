"""The recorder beside the call: it hears what was queued and nothing else, and never holds the call up."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.calls.recording import FINISH_S, PIECE_S, QUEUE, RecordedLink, Recorder, Recordings
from engine.errors import StoreDown
from engine.events import PCM16_8K, CallInfo, ProviderEvent
from engine.observe.metrics import Metrics
from engine.ports.recordings import RecordingFailed, RecordingSink
from engine.settings import RecordingSettings
from tests.fakes.samples import sample

TONE = array("h", [1000] * 160).tobytes()
CALL = CallInfo("twilio", "CA1/../x", "MZ1", PCM16_8K, "desk", "+15005550006")


class Line:
    """A ``ProviderLink`` that takes half a second of audio at once, and drops what waits when it is cleared."""

    format = PCM16_8K

    def __init__(self) -> None:
        self.played_bytes = 0
        self._cleared = trio.Event()
        self._until_s = trio.current_time()

    async def receive(self) -> ProviderEvent:
        await trio.sleep(0.02)
        return bytes(320)

    async def deliver(self, take: Callable[[ProviderEvent], None]) -> None:
        while True:
            take(await self.receive())

    async def play(self, audio: bytes) -> None:
        seconds = PCM16_8K.duration_s(audio)
        cleared = self._cleared
        with trio.move_on_after(max(0.0, self._until_s + seconds - trio.current_time() - 0.5)):
            await cleared.wait()
        if not cleared.is_set():
            self.played_bytes += len(audio)
            self._until_s = max(self._until_s, trio.current_time()) + seconds

    def mark(self, name: str) -> None: ...

    def clear(self) -> None:
        self._cleared.set()
        self._cleared = trio.Event()
        self._until_s = trio.current_time()

    def heard_s(self) -> float:
        return 0.0

    def remaining_s(self) -> float:
        return 0.0

    def pace(self, every_s: float) -> None: ...

    async def ping(self) -> None: ...


class Shelf:
    """A store whose writing takes as long as it is told to."""

    name = "directory"

    def __init__(self, *, takes_s: float = 0.0, fails: str = "") -> None:
        self.takes_s = takes_s
        self.fails = fails
        self.kept: dict[str, bytes] = {}

    @asynccontextmanager
    async def open(self, folder: str, name: str, rate_hz: int) -> AsyncIterator[RecordingSink]:
        key = f"{folder}/{name}"
        self.kept[key] = b""
        shelf = self

        class Sink:
            async def write(self, pcm: bytes) -> None:
                await trio.sleep(shelf.takes_s)
                if shelf.fails:
                    raise RecordingFailed(shelf.fails)
                shelf.kept[key] += pcm

        yield Sink()

    async def erase(self, folder: str) -> int:
        await trio.lowlevel.checkpoint()
        found = [key for key in self.kept if key.startswith(f"{folder}/")]
        for key in found:
            del self.kept[key]
        return len(found)


@asynccontextmanager
async def recordings(shelf: Shelf, metrics: Metrics | None = None, **settings: object) -> AsyncIterator[Recordings]:
    def fingerprint(number: str) -> str:
        if not number.endswith("6"):
            raise StoreDown("refused")
        return "f1"

    made = Recordings(
        RecordingSettings(True, **settings),  # type: ignore[arg-type]  # of the test
        shelf,
        metrics or Metrics(),
        fingerprint=fingerprint,
        number=lambda number: number,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


def loud_s(pcm: bytes, side: int) -> float:
    return sum(abs(one) > 500 for one in array("h", pcm)[side::2]) / 8000


async def test_what_a_clear_kept_from_the_line_is_not_in_the_recording(autojump_clock: MockClock) -> None:
    shelf = Shelf()
    async with recordings(shelf) as made:
        async with made.open(CALL) as recorder, trio.open_nursery() as nursery:
            line = Line()
            link = RecordedLink(line, recorder)
            nursery.start_soon(link.play, TONE * 200)
            await trio.sleep(1.0)
            link.clear()
            await trio.sleep(1.0)
        await made.wait_written()
        assert PCM16_8K.duration_s(bytes(line.played_bytes)) == pytest.approx(1.4, abs=0.21)
        (pcm,) = shelf.kept.values()
        assert loud_s(pcm, 1) == pytest.approx(1.0, abs=0.01)
        assert len(pcm) / 4 / 8000 == pytest.approx(2.0, abs=0.01)


async def test_a_store_that_is_too_slow_costs_sound_and_not_time(autojump_clock: MockClock) -> None:
    shelf, metrics = Shelf(takes_s=1.0), Metrics()
    total_s = (QUEUE + 40) * PIECE_S * 2
    async with recordings(shelf, metrics) as made:
        async with made.open(CALL) as recorder:
            for _ in range(round(total_s * 50)):
                await trio.sleep(0.02)
                recorder.heard(TONE)
            ended_at_s = trio.current_time()
        assert trio.current_time() == ended_at_s, "a call does not wait for its recording"
        shelf.takes_s = 0.0
        await made.wait_written()
        dropped_s = sample(metrics.registry, "recording_dropped_seconds_total")
        assert 0 < dropped_s < total_s
        (pcm,) = shelf.kept.values()
        assert len(pcm) / 4 / 8000 == pytest.approx(total_s, abs=1.0), "what is missing is silence: all else is in time"


@pytest.mark.parametrize("why", ["full", "refused"])
async def test_a_store_that_fails_ends_the_recording_alone(why: str, autojump_clock: MockClock) -> None:
    shelf, metrics = Shelf(fails=why), Metrics()
    async with recordings(shelf, metrics) as made:
        async with made.open(CALL) as recorder:
            for _ in range(200):
                await trio.sleep(0.02)
                recorder.heard(TONE)
        assert recorder.is_closed
        await made.wait_written()
        assert sample(metrics.registry, "recordings_total", outcome="failed") == 1


async def test_what_is_left_is_written_after_the_call_but_not_for_ever(autojump_clock: MockClock) -> None:
    shelf, metrics = Shelf(takes_s=10_000.0), Metrics()
    async with recordings(shelf, metrics) as made:
        async with made.open(CALL) as recorder:
            await trio.sleep(1.0)
            recorder.heard(TONE)
        ended_at_s = trio.current_time()
        await made.wait_written()
        assert trio.current_time() - ended_at_s == pytest.approx(FINISH_S)
        assert sample(metrics.registry, "recordings_total", outcome="cut") == 1


async def test_a_recording_that_could_not_be_erased_is_not_made(autojump_clock: MockClock) -> None:
    metrics = Metrics()
    async with recordings(Shelf(), metrics, agents=("desk",)) as made:
        assert made.wants(CALL)
        assert not made.wants(CallInfo("twilio", "CA2", "MZ2", PCM16_8K, "desk", "+15005550007"))
        assert not made.wants(CallInfo("twilio", "CA2", "MZ2", PCM16_8K, "other", "+15005550006"))
        assert sample(metrics.registry, "recordings_total", outcome="skipped") == 1


async def test_a_name_is_made_of_the_calls_id_alone(autojump_clock: MockClock) -> None:
    shelf = Shelf()
    async with recordings(shelf) as made:
        async with made.open(CALL):
            await trio.sleep(0.1)
        await made.wait_written()
        assert list(shelf.kept) == ["f1/CA1____x"]


async def test_nothing_is_queued_for_a_recorder_that_is_closed(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[tuple[int, bytes]](QUEUE)
    recorder = Recorder(PCM16_8K, send)
    recorder.close()
    recorder.close()
    await trio.sleep(1.0)
    recorder.heard(TONE)
    with pytest.raises(trio.EndOfChannel):
        receive.receive_nowait()
