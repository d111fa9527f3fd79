"""One engine, served as a process, with vendors, a provider's REST API and a bucket around it: called over three kinds
of talk, reached into from the command line, made to call somebody, and drained. The clock is the real one."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import trio

from adapters.recordings.sigv4 import Credentials
from engine.cli.calls import hangup, ls
from engine.cli.dial import dial
from engine.converse.api import ApiFailed
from engine.phone.call import PhoneCall
from engine.phone.phone import Phone, open_phone
from engine.phone.side import Callee
from engine.phone.twilio import TWILIO, TwilioSide
from tests.adapters.providers.rest_api import ApiRequest, RestApi, rest_api
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.deepgram_listen import DeepgramCloud
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.loopback import serving
from tests.fakes.clouds.openai_realtime import OpenAIRealtimeCloud
from tests.fakes.clouds.s3 import FakeS3
from tests.fakes.plain_speech import speak, words
from tests.fakes.relay_peer import relay_call
from tests.faults.store_bench import Process, processes
from tests.system.session_rig import SECRET
from tests.system.test_recordings import said

KEY = "a-key-of-many-characters"
OURS, THEIRS, STRANGER = "+12025550100", "+12025550143", "+12025550144"
FRONT, REALTIME, RELAY = "+15005550001", "+15005550002", "+15005550003"
ACCOUNT = "AC" + "0" * 32
WITHIN_S = 15.0
"""Far more than anything takes, for a machine that is busy."""


@dataclass(eq=False)
class Served:
    process: Process
    phone: Phone
    api: RestApi
    bucket: FakeS3

    def callee(self, dialled: str, **more: Any) -> Callee:
        return Callee(self.process.url, dialled=dialled, secret=SECRET, **more)

    @asynccontextmanager
    async def call(self, dialled: str) -> AsyncIterator[PhoneCall]:
        async with self.phone.call(TwilioSide(self.callee(dialled))) as call:
            yield call
        assert not call.violations, call.violations


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    ear, mind, voice, whole = DeepgramCloud(), AnthropicMessages(), ElevenLabsSpeech(), OpenAIRealtimeCloud()
    bucket = FakeS3(Credentials("id", "secret", "us-east-1"), "calls", lambda: 0.0)
    async with AsyncExitStack() as stack:
        at = [await stack.enter_async_context(serving(cloud)) for cloud in (ear, mind, voice, whole)]
        api = await stack.enter_async_context(rest_api(partial(_answer, bucket)))
        settings: dict[str, dict[str, object]] = {
            "agents.front": {"transcriber": ["deepgram"], "model": ["anthropic"], "synthesizer": ["elevenlabs"]},
            "agents.front.phrases": {"greeting": "Front.", "drain": "Over."},
            "agents.whole": {"realtime": ["openai_realtime"], "model": ["anthropic"]},
            "agents.whole.phrases": {"greeting": "Whole.", "drain": "Over."},
            "agents.relay": {"relay": True, "model": ["anthropic"]},
            "agents.relay.phrases": {"greeting": "Relay.", "drain": "Over."},
            "lines": {f'"{FRONT}"': "front", f'"{REALTIME}"': "whole", f'"{RELAY}"': "relay"},
            "vendors.deepgram": {"url": f"{at[0].ws}/v1/listen"},
            "vendors.anthropic": {"url": at[1].http, "model": "m"},
            "vendors.elevenlabs": {"url": at[2].http, "voice": "v"},
            "vendors.openai_realtime": {"url": f"{at[3].ws}/v1/realtime", "model": "m"},
            "recording": {
                "enabled": True,
                "agents": ["front", "whole"],
                "announce": "Recorded.",
                "bucket": "calls",
                "endpoint": api.base,
            },
            "outbound": {"enabled": True, "allow": ["+1202"], "voicemail": "Call us back."},
            "outbound.numbers": {f'"{OURS}"': "twilio"},
            "twilio": {"account_sid": ACCOUNT, "api_url": api.base},
            "limits": {"drain_s": 0.2},
        }
        environ = {
            "API_KEYS": f"boss:calls:{KEY}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "DEEPGRAM_API_KEY": ear.key,
            "ANTHROPIC_API_KEY": mind.key,
            "ELEVENLABS_API_KEY": voice.voicebox.key,
            "OPENAI_API_KEY": whole.key,
        }
        process = Process(folder, settings, environ)
        phone = await stack.enter_async_context(open_phone())
        async with processes(process):
            yield Served(process, phone, api, bucket)


def _answer(bucket: FakeS3, request: ApiRequest) -> tuple[int, bytes]:
    """The bucket's answer, or Twilio's."""
    if request.path.startswith("/calls/"):
        at = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        bucket.now = at.timestamp
        url = f"http://{request.headers['host']}{request.path}"
        asked = httpx.Request(request.method, url, headers=request.headers, content=request.body)
        reply = bucket.answer(asked, request.body)
        return reply.status_code, reply.content
    if not request.path.endswith("/Calls.json"):
        return 200, b'{"sid":"%s"}' % request.path.rpartition("/")[2].removesuffix(".json").encode()
    if parse_qs(request.body.decode())["To"] == [STRANGER]:
        return 401, b'{"code":20003}'
    return 201, json.dumps({"sid": "CA" + "5" * 32, "status": "queued"}).encode()


async def test_a_served_engine_is_called_reached_into_made_to_call_and_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", KEY)
    async with served(tmp_path / "engine") as on:
        await a_caller_is_recorded_and_reached_into(on, capsys)
        await a_machine_is_left_a_word(on, capsys)
        await calls_of_every_kind_are_drained(on)
    ended = [json.loads(line) for line in on.process.log.splitlines() if '"event": "call_released"' in line]
    assert [line["left"] for line in ended] == [0] * 5
    assert '"level": "error"' not in on.process.log


async def a_caller_is_recorded_and_reached_into(on: Served, capsys: pytest.CaptureFixture[str]) -> None:
    url = on.process.url
    async with on.call(FRONT) as call:
        assert await heard(call) == "Recorded. Front."
        await call.say(speak("Good day.", call.format))
        assert "You said Good day" in await heard(call)
        await on_thread(ls, url=url)
        assert f"{call.call_id}   twilio     front            ***0006" in capsys.readouterr().out
        await on_thread(hangup, call.call_id, say="Bye.", url=url)
        await call.wait_until_over(within_s=WITHIN_S)
        assert words(call.heard_audio, call.format).endswith("Bye.")
    with trio.fail_after(WITHIN_S):
        while not on.bucket.objects:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.02)
    assert not on.bucket.faults
    ((caller, agent),) = recorded(on)
    assert caller == "Good day."
    assert agent.startswith("Recorded. Front.")


async def a_machine_is_left_a_word(on: Served, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ApiFailed, match="twilio: dial answered 401"):
        await on_thread(dial, STRANGER, url=on.process.url)
    codes: list[int] = []

    async def dialled() -> None:
        codes.append(await on_thread(dial, THEIRS, agent="front", wait=True, detect_machine=True, url=on.process.url))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialled)
        async with on.phone.call(await picked_up(on)) as call:
            await call.wait_until_over(within_s=WITHIN_S)
        assert words(call.heard_audio, call.format).endswith("Call us back.")
    assert codes == [0]
    assert capsys.readouterr().out.splitlines()[-1].endswith("machine (outbound)")


async def picked_up(on: Served) -> TwilioSide:
    """The order to call somebody, and a machine that takes the call."""
    with trio.fail_after(WITHIN_S):
        while not (orders := [asked for asked in on.api.requests if THEIRS[1:].encode() in asked.body]):  # noqa: ASYNC110
            await trio.sleep(0.02)
    order = {name: values[0] for name, values in parse_qs(orders[0].body.decode()).items()}
    address = urlsplit(order["Url"])
    extra = {"Direction": "outbound-api", "CallStatus": "in-progress", "AnsweredBy": "machine_end_beep"}
    callee = on.callee(THEIRS, caller=OURS, call_id="CA" + "5" * 32, extra=extra)
    return TwilioSide(callee, replace(TWILIO, voice_path=f"{address.path}?{address.query}"))


async def calls_of_every_kind_are_drained(on: Served) -> None:
    async with (
        on.call(FRONT) as front,
        on.call(REALTIME) as whole,
        relay_call(on.callee(RELAY)) as relayed,
    ):
        assert [await heard(front), await heard(whole)] == ["Recorded. Front.", "Whole."]
        assert (await relayed.wait_for_reply(within_s=WITHIN_S)).strip() == "Relay."
        await whole.say(speak("Good day.", whole.format))
        assert "You said Good day" in await heard(whole)
        assert await on.process.stop() == 0
        for call in (front, whole):
            assert await call.wait_until_over(within_s=WITHIN_S) == "engine 1001"
            assert words(call.heard_audio, call.format).endswith("Over.")
        assert await relayed.wait_until_over(within_s=WITHIN_S) == "agent"
    spoken = [agent for _, agent in recorded(on)]
    assert any(agent.startswith("Whole.") for agent in spoken), "the provider has announced that it is recorded"


def recorded(on: Served) -> list[tuple[str, str]]:
    """Of each recording in the bucket, what the caller says and what the agent does."""
    sides = []
    for audio in on.bucket.objects.values():
        with wave.open(io.BytesIO(audio)) as file:
            samples = memoryview(file.readframes(file.getnframes())).cast("h")
        sides.append((said(samples[0::2].tobytes()), said(samples[1::2].tobytes())))
    return sides


async def heard(call: PhoneCall) -> str:
    return words(await call.wait_for_reply(within_s=WITHIN_S), call.format)


async def on_thread(command: Any, *args: Any, **options: Any) -> int:
    """A command, which starts an event loop of its own."""
    return int(await trio.to_thread.run_sync(lambda: command(*args, **options)))
