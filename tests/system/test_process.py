"""The program as its users run it: a process, real time, real signals. Few tests, because each costs seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from engine.calls.slots import Refusal
from engine.phone.errors import CallRefused
from engine.phone.phone import SIDES, open_phone
from engine.phone.side import Callee
from tests.fakes.forks import Offhook
from tests.fakes.plain_speech import speak, words
from tests.fakes.vendors import Vendors

SECRET = "a-secret-of-more-than-thirty-two-bytes"
OFFHOOK = [sys.executable, "-m", "engine"]
ENDS_S = 20.0
"""For a process that has nothing left to wait for, on a machine that is busy."""
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("OFFHOOK_", "TWILIO_", "VONAGE_"))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_ready(url: str, within_s: float = 60.0) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with trio.fail_after(within_s):
            while True:
                try:
                    if (await client.get(f"{url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await trio.sleep(0.05)


@asynccontextmanager
async def serving(
    tmp_path: Path, settings: str, *args: str, from_scratch: bool = False, **environ: str
) -> AsyncIterator[tuple[Offhook, str]]:
    """``offhook serve`` in a process, ready for calls. Killed at the end if it still runs."""
    config = tmp_path / "offhook.toml"
    config.write_text(settings, encoding="utf-8")
    port = free_port()
    process = Offhook(
        ["serve", "--config", str(config), "--port", str(port), *args],
        folder=tmp_path,
        environ=CLEAN | {"TWILIO_AUTH_TOKEN": SECRET} | environ,
        log=tmp_path / "log",
        out=tmp_path / "out",
        from_scratch=from_scratch,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await until_ready(url)
        yield process, url
    finally:
        process.kill()


@asynccontextmanager
async def vendors() -> AsyncIterator[str]:
    """Fake vendors, and the settings of an engine that uses them."""
    async with trio.open_nursery() as nursery:
        port = await nursery.start(Vendors().listen)
        yield f'[agents.desk]\nfactory = "tests.fakes.agents:make_agent"\noptions.url = "http://127.0.0.1:{port}"\n'
        nursery.cancel_scope.cancel()


async def test_sigterm_lets_live_calls_finish_and_refuses_new_ones_aloud(tmp_path: Path) -> None:
    async with (
        vendors() as settings,
        serving(tmp_path, settings, from_scratch=True) as (process, url),
        open_phone() as phone,
    ):
        side = partial(SIDES["twilio"], Callee(url, secret=SECRET))
        async with httpx.AsyncClient(trust_env=False, base_url=url) as client:
            async with phone.call(side()) as call:
                await call.wait_for_reply()
                process.send_signal(signal.SIGTERM)
                await trio.sleep(0.1)
                answer = await client.get("/readyz")
                assert (answer.status_code, "draining" in answer.text) == (503, True)
                with pytest.raises(CallRefused) as refused:
                    async with phone.call(side()):
                        pytest.fail("a new call was taken")
                assert refused.value.sentence == Refusal("draining").sentence
                await call.say(speak("Are you still there?", call.format))
                assert "Are you still there" in words(await call.wait_for_reply(), call.format)
                assert process.returncode is None
            with trio.fail_after(ENDS_S):
                assert await process.wait() == 0


async def test_at_the_end_of_the_drain_callers_hear_a_goodbye(tmp_path: Path) -> None:
    async with vendors() as settings:
        impatient = settings + "[limits]\ndrain_s = 0.5\n"
        async with serving(tmp_path, impatient) as (process, url), open_phone() as phone:
            async with phone.call(SIDES["twilio"](Callee(url, secret=SECRET))) as call:
                await call.wait_for_reply()
                process.send_signal(signal.SIGTERM)
                assert await call.wait_until_over(within_s=8) == "engine 1001"
                assert "we have to end this call" in words(call.heard_audio, call.format)
            with trio.fail_after(ENDS_S):
                assert await process.wait() == 0


async def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    async with (
        vendors() as settings,
        serving(tmp_path, settings) as (process, url),
        open_phone() as phone,
        phone.call(SIDES["twilio"](Callee(url, secret=SECRET))) as call,
    ):
        await call.wait_for_reply()
        process.send_signal(signal.SIGTERM)
        await trio.sleep(0.3)
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(ENDS_S):
            assert await process.wait() == 0
        await call.wait_until_over(within_s=2)
    log = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    (ended,) = [event for event in log if event["event"] == "call_ended"]
    assert ended["end_reason"] == "drain"
    assert ended["seconds"] > 0, "it lasted until it was cut"


async def test_each_log_line_is_json_and_tells_of_every_resource_and_no_number(tmp_path: Path) -> None:
    async with vendors() as settings, serving(tmp_path, settings) as (process, url), open_phone() as phone:
        callee = Callee(url, secret=SECRET, caller="+15005550123")
        async with phone.call(SIDES["twilio"](callee)) as call:
            await call.wait_for_reply()
        process.send_signal(signal.SIGTERM)
        await process.wait()
    text = (tmp_path / "log").read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.splitlines()]
    of_call = [event for event in events if event.get("call_id") == call.call_id]
    closed = [event["kind"] for event in of_call if event["event"] == "resource_closed"]
    assert sorted(closed) == [
        "http_client",
        "llm_connection",
        "provider_socket",
        "speech_client",
        "store_session",
        "tts_client",
    ]
    assert [event["event"] for event in of_call][-2:] == ["call_released", "call_ended"]
    assert of_call[-2]["left"] == 0
    assert of_call[-1]["end_reason"] == "caller_hangup"
    assert "5005550123" not in text
    assert "***0123" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (["serve"], "[server]\nport = 'x'", "server.port"),
        (["serve", "--port", "0"], "[agents.desk]\nscript = 'nowhere'", "agents.desk.script: script 'nowhere'"),
        (["serve", "--port", "0"], "[agents.desk]\nfactory = 'no.such:thing'", "agents.desk.factory"),
        (["serve", "--insecure-dev", "--host", "0.0.0.0"], "", "--insecure-dev needs a loopback address"),
        (["serve", "--host", "198.51.100.7"], "", "server.host: cannot listen on 198.51.100.7"),
        (["serve", "--prt", "1"], "", "--prt"),
        (["doctor"], "[limits]\nmax_calls = -1", "limits.max_calls"),
    ],
)
async def test_bad_settings_are_named_in_a_line_and_the_exit_code_says_so(
    tmp_path: Path, arguments: list[str], settings: str, says: str
) -> None:
    config, log = tmp_path / "x.toml", tmp_path / "log"
    config.write_text(settings, encoding="utf-8")
    done = Offhook([*arguments, "--config", str(config)], folder=tmp_path, environ=CLEAN, log=log)
    with trio.fail_after(30):
        code = await done.wait()
    assert says in log.read_text("utf-8")
    assert "Traceback" not in log.read_text("utf-8")
    assert code in (1, 2)


async def test_without_keys_a_providers_routes_are_closed_and_say_so(tmp_path: Path) -> None:
    async with (
        vendors() as settings,
        serving(tmp_path, settings, TWILIO_AUTH_TOKEN="") as (_, url),
        httpx.AsyncClient(trust_env=False, base_url=url) as client,
    ):
        for path, variable in (("/voice", "TWILIO_AUTH_TOKEN"), ("/vonage/answer", "VONAGE_SIGNATURE_SECRET")):
            answer = await client.post(path)
            assert answer.status_code == 503
            assert variable in answer.json()["error"]["message"]
        health = (await client.get("/api/health")).json()
        assert health["sessions"] == {"active_count": 0, "uuids": []}


async def test_killed_and_started_again_it_listens_at_once_with_an_empty_registry(tmp_path: Path) -> None:
    async with vendors() as settings, open_phone() as phone:
        async with (
            serving(tmp_path, settings) as (process, url),
            phone.call(SIDES["twilio"](Callee(url, secret=SECRET))) as call,
        ):
            await call.wait_for_reply()
            process.kill()
            await call.wait_until_over(within_s=2)
        async with (
            serving(tmp_path, settings, from_scratch=True) as (process, url),
            httpx.AsyncClient(trust_env=False) as client,
        ):
            assert process.computed_s() < 5
            assert (await client.get(f"{url}/api/health")).json()["sessions"]["active_count"] == 0
