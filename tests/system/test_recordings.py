"""Recordings of whole calls, as a directory holds them."""

from __future__ import annotations

import math
import stat
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.audio.g711 import pcm16_to_mulaw
from engine.events import MULAW_8K, PCM16_8K
from engine.ports import IncomingCall, Mode
from engine.settings import RecordingSettings, Settings, StoreSettings
from tests.fakes.agents import VendorAgent
from tests.fakes.plain_speech import MAGIC, words
from tests.system.rig import Rig, running_engine

KEY = "a-key-of-many-characters"


@asynccontextmanager
async def recording(
    directory: Path, *, enabled: bool = True, store: StoreSettings | None = None, **settings: Any
) -> AsyncIterator[Rig]:
    def configure(was: Settings) -> Settings:
        return replace(
            was,
            store=store or was.store,
            recording=RecordingSettings(enabled, directory=str(directory), **settings),
            secrets=replace(was.secrets, api_keys=f"boss:privacy:{KEY}"),
        )

    async with running_engine(configure=configure) as rig:
        yield rig


async def written(rig: Rig) -> None:
    await rig.quiet()
    assert rig.engine.recordings is not None
    await rig.engine.recordings.wait_written()


def files(directory: Path) -> list[Path]:
    return list(directory.rglob("*.wav"))


def said(channel: bytes) -> str:
    """The plain speech in it, which was mu-law on the line. Its frames lie anywhere."""
    mulaw, frames, at = pcm16_to_mulaw(channel), b"", 0
    while (at := mulaw.find(MAGIC, at)) >= 0:
        frames += mulaw[at : at + 160]
        at += 160
    return words(frames, MULAW_8K)


def sides(path: Path) -> tuple[bytes, bytes]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        samples = memoryview(file.readframes(file.getnframes())).cast("h")
    return samples[0::2].tobytes(), samples[1::2].tobytes()


async def test_a_call_is_recorded_with_either_side_on_its_channel(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with recording(tmp_path / "kept") as rig:
        async with rig.call() as phone:
            await phone.wait_for_reply()
            answer = await rig.say(phone, "good morning")
            heard_s = len(phone.heard_audio) / 8000
        await written(rig)
        (path,) = files(tmp_path)
        caller, agent = sides(path)
        assert said(caller) == "good morning"
        assert said(agent) == f"Hello. {answer}"
        assert len(caller) / PCM16_8K.bytes_per_s == pytest.approx(heard_s, abs=1.5)
        assert path.stem == phone.side.call_id
        assert "5550006" not in str(path.relative_to(tmp_path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert rig.value("recordings_total", outcome="kept") == 1
        assert rig.value("resources_opened_total", kind="recorder", vendor="directory") == 1
        assert set(rig.balance().values()) == {0.0}


async def test_a_call_can_be_heard_while_it_goes_on_and_after_a_kill(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with recording(tmp_path) as rig, rig.call() as phone:
        await phone.wait_for_reply()
        await trio.sleep(2)
        await wait_all_tasks_blocked()
        (path,) = files(tmp_path)
        assert said(sides(path)[1]) == "Hello."


async def test_nothing_is_recorded_unless_the_settings_say_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with recording(tmp_path / "kept", agents=("other",)) as rig:
        async with rig.call() as phone:
            await phone.wait_for_reply()
        await written(rig)
    async with recording(tmp_path / "kept", announce="this call is recorded") as rig:
        async with rig.call() as phone:
            await phone.wait_for_reply()
        await written(rig)
        assert rig.value("recordings_total", outcome="skipped") == 1, "there is no audio of the announcement"
    assert not files(tmp_path)


async def test_where_an_agent_has_no_voice_for_fixed_words_the_provider_announces_it(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = IncomingCall("CA1", "+15550100009", "+15550100001")
    for agents, mode, said_first in (
        (("desk",), Mode.REALTIME, "this call is recorded"),
        (("other",), Mode.REALTIME, ""),
        (("desk",), Mode.PIPELINE, ""),
    ):
        monkeypatch.setattr(VendorAgent, "mode", mode)
        async with recording(tmp_path, announce="this call is recorded", agents=agents) as rig:
            assert rig.engine.supervisor.preface(call) == said_first


async def test_a_directory_that_cannot_be_written_costs_the_recording_and_not_the_call(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with recording(tmp_path / "kept") as rig:
        (tmp_path / "kept").write_text("a file, no directory")
        async with rig.call() as phone:
            await phone.wait_for_reply()
            assert await rig.say(phone, "still there")
        await written(rig)
        assert rig.value("recordings_total", outcome="failed") == 1
        assert set(rig.balance().values()) == {0.0}


async def test_whoever_is_erased_is_erased_from_the_recordings(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with recording(tmp_path / "kept") as rig:
        for caller in ("+15005550006", "+15005550007"):
            async with rig.call(caller=caller) as phone:
                await phone.wait_for_reply()
        await written(rig)
        assert len(files(tmp_path)) == 2
        async with rig.call() as phone, httpx.AsyncClient(trust_env=False, timeout=10) as client:
            await phone.wait_for_reply()
            url = f"{rig.engine.url}/privacy/delete/+15005550006"
            reply = await client.delete(url, headers={"authorization": f"Bearer {KEY}"})
            assert reply.status_code == 200
            assert len(files(tmp_path)) == 1, "not that of the live call either"
            assert await rig.say(phone, "still there")
        await rig.quiet()
        assert len(files(tmp_path)) == 1


async def test_whoever_is_erased_is_erased_by_an_engine_that_records_no_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = tmp_path / "kept"
    store = StoreSettings(kind="sqlite", path=str(tmp_path / "offhook.db"), journal=str(tmp_path / "offhook.journal"))
    _in_real_time(autojump_clock)
    async with recording(kept, store=store) as rig:
        async with rig.call(caller="+15005550006") as phone:
            await phone.wait_for_reply()
        await written(rig)
        assert len(files(kept)) == 1
    async with recording(kept, enabled=False, store=store) as rig:
        async with rig.call(caller="+15005550007") as phone:
            await phone.wait_for_reply()
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            url = f"{rig.engine.url}/privacy/delete/+15005550006"
            reply = await client.delete(url, headers={"authorization": f"Bearer {KEY}"})
            assert reply.status_code == 200
        assert files(kept) == []


def _in_real_time(clock: MockClock) -> None:
    """For a store that works in threads."""
    clock.rate, clock.autojump_threshold = 1.0, math.inf
