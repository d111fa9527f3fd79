"""The vendors' own clients against the fake synthesizers: what they accept is what ours are tested with."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import pytest
import trio

from engine.events import MULAW_8K, PCM16_16K, PCM16_24K
from tests.fakes.clouds.aura import Aura
from tests.fakes.clouds.cartesia import Cartesia
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.loopback import Served, serving
from tests.fakes.clouds.openai_speech import OpenAISpeech
from tests.fakes.clouds.speechmatics_speech import SpeechmaticsSpeech
from tests.fakes.clouds.voicebox import SpeechCloud, Voicebox
from tests.fakes.plain_speech import words

T = TypeVar("T")
DEADLINE_S = 20.0
"""Importing a client takes longer than talking to it."""


pytestmark = [
    # What the clients themselves use of the websockets package.
    pytest.mark.filterwarnings("ignore:websockets:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
]


async def in_a_thread(cloud: SpeechCloud, use: Callable[[Served], T]) -> T:
    cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0)
    with trio.fail_after(DEADLINE_S):
        async with serving(cloud) as served:
            said = await trio.to_thread.run_sync(use, served, abandon_on_cancel=True)
            with trio.fail_after(2):
                while cloud.sockets_open or cloud.requests_open:  # noqa: ASYNC110 - the cloud counts, it tells nobody
                    await trio.sleep(0.01)
    assert cloud.faults == []
    return said


@pytest.mark.proves("official client", adapter="elevenlabs HTTP")
async def test_elevenlabs_over_http() -> None:
    def use(served: Served) -> bytes:
        from elevenlabs import ElevenLabs

        with httpx.Client() as http:
            client = ElevenLabs(api_key="k", base_url=served.http, httpx_client=http)
            return b"".join(
                client.text_to_speech.stream("voice-1", text="Hello there.", model_id="m", output_format="ulaw_8000")
            )

    assert words(await in_a_thread(ElevenLabsSpeech(), use), MULAW_8K) == "Hello there."


@pytest.mark.proves("official client", adapter="elevenlabs stream-input")
async def test_elevenlabs_over_stream_input() -> None:
    def use(served: Served) -> bytes:
        from elevenlabs import ElevenLabs

        with httpx.Client() as http:
            client = ElevenLabs(api_key="k", base_url=served.http, httpx_client=http)
            client.text_to_speech._ws_base_url = served.ws  # the constructor insists on wss
            said = client.text_to_speech.convert_realtime(
                "voice-1", text=iter(["Hello there. ", "How are you?"]), model_id="m", output_format="ulaw_8000"
            )
            return b"".join(said)

    audio = await in_a_thread(ElevenLabsSpeech(), use)
    assert words(audio, MULAW_8K) == "Hello there. How are you?"


@pytest.mark.proves("official client", adapter="cartesia")
async def test_cartesia() -> None:
    def use(served: Served) -> bytes:
        from cartesia import Cartesia as Client

        audio = b""
        voice: Any = {"mode": "id", "id": "v"}
        output: Any = {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": 8000}
        with (
            Client(api_key="k", base_url=served.http, websocket_base_url=served.ws) as client,
            client.tts.websocket_connect() as connection,
        ):
            context = connection.context(model_id="m", voice=voice, output_format=output)
            context.push("Hello ")
            context.push("there.")
            context.no_more_inputs()
            for event in context.receive():
                if event.type == "chunk":
                    audio += event.audio or b""
        return audio

    assert words(await in_a_thread(Cartesia(), use), MULAW_8K) == "Hello there."


@pytest.mark.proves("official client", adapter="deepgram_aura")
async def test_aura() -> None:
    def use(served: Served) -> bytes:
        from deepgram import DeepgramClient
        from deepgram.environment import DeepgramClientEnvironment
        from deepgram.speak.v1.types import SpeakV1Text

        places = DeepgramClientEnvironment(
            base=served.http, production=served.ws, agent=served.ws, agent_rest=served.http
        )
        client = DeepgramClient(api_key="k", environment=places)
        audio = b""
        with client.speak.v1.connect(model="aura-2-thalia-en", encoding="mulaw", sample_rate="8000") as connection:
            connection.send_text(SpeakV1Text(text="Not this."))
            connection.send_clear()
            while getattr(connection.recv(), "type", "") != "Cleared":
                pass
            connection.send_text(SpeakV1Text(text="Hello there."))
            connection.send_flush()
            while True:
                message = connection.recv()
                if isinstance(message, bytes):
                    audio += message
                elif message.type == "Flushed":
                    break
            connection.send_close()
        return audio

    assert words(await in_a_thread(Aura(), use), MULAW_8K) == "Hello there."


@pytest.mark.proves("official client", adapter="speechmatics_speech")
async def test_speechmatics() -> None:
    def use(served: Served) -> bytes:
        from speechmatics.tts import (  # type: ignore[import-untyped] # has no types
            AsyncClient,
            OutputFormat,
            Voice,
        )

        async def speak() -> bytes:
            async with AsyncClient(api_key="k", url=served.http) as client:
                response = await client.generate(
                    text="Hello there.", voice=Voice.SARAH, output_format=OutputFormat.RAW_PCM_16000
                )
                async with response:
                    return bytes(await response.read())

        return asyncio.run(speak())

    assert words(await in_a_thread(SpeechmaticsSpeech(), use), PCM16_16K) == "Hello there."


@pytest.mark.proves("official client", adapter="openai_speech")
async def test_openai() -> None:
    def use(served: Served) -> bytes:
        from openai import OpenAI

        with OpenAI(api_key="k", base_url=f"{served.http}/v1", max_retries=0) as client:
            speaking = client.audio.speech.with_streaming_response.create(
                model="m", voice="marin", input="Hello there.", response_format="pcm"
            )
            with speaking as response:
                return b"".join(response.iter_bytes())

    assert words(await in_a_thread(OpenAISpeech(), use), PCM16_24K) == "Hello there."
