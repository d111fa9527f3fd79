"""The vendors' own clients understand the fake recognisers: what our adapters are tested against is the real wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from engine.events import MULAW_8K, PCM16_16K, AudioFormat
from tests.fakes.clouds.assemblyai import AssemblyAICloud
from tests.fakes.clouds.deepgram_listen import DeepgramCloud
from tests.fakes.clouds.flux import FluxCloud
from tests.fakes.clouds.loopback import Served, serving
from tests.fakes.clouds.scribe import ScribeCloud
from tests.fakes.clouds.speechmatics import SpeechmaticsCloud
from tests.fakes.plain_speech import speak

WORDS = "one two three four"
BOUND_S = 8.0
"""Of each client, in real time; it takes a tenth of a second."""


def pieces(line: AudioFormat, piece_s: float = 0.1) -> Iterator[bytes]:
    """The words, and silence that ends them."""
    audio = speak(WORDS, line) + line.silence(1.0)
    size = int(piece_s / 0.02) * line.frame_bytes
    return (audio[at : at + size] for at in range(0, len(audio) // size * size, size))


async def run(cloud: Any, client: Callable[[Served], list[Any]]) -> list[Any]:
    async with serving(cloud) as served:
        heard = await trio.to_thread.run_sync(client, served)
    assert cloud.faults == []
    return heard


@pytest.mark.proves("official client", adapter="speechmatics")
async def test_the_official_speechmatics_client_is_understood() -> None:
    rt = pytest.importorskip("speechmatics.rt")

    def client(served: Served) -> list[Any]:
        async def use() -> list[Any]:
            heard: list[Any] = []
            async with rt.AsyncClient(api_key="k", url=f"{served.ws}/v2") as client:
                for kind in (rt.ServerMessageType.ADD_TRANSCRIPT, rt.ServerMessageType.END_OF_UTTERANCE):
                    client.on(kind, heard.append)
                await client.start_session(
                    transcription_config=rt.TranscriptionConfig(
                        language="en",
                        enable_partials=True,
                        max_delay=1.0,
                        conversation_config=rt.ConversationConfig(end_of_utterance_silence_trigger=0.5),
                    ),
                    audio_format=rt.AudioFormat(encoding=rt.AudioEncoding.MULAW, sample_rate=8000),
                )
                for piece in pieces(MULAW_8K):
                    await client.send_audio(piece)
                await client.stop_session()
            return heard

        return asyncio.run(asyncio.wait_for(use(), BOUND_S))

    heard = await run(SpeechmaticsCloud(), client)
    assert [message["message"] for message in heard] == ["AddTranscript", "AddTranscript", "EndOfUtterance"]
    assert heard[0]["metadata"]["transcript"].strip() == WORDS


# Clients use what their WebSocket library has deprecated, in names and in calls.
OLD_WEBSOCKETS = pytest.mark.filterwarnings("ignore:websockets:DeprecationWarning", "ignore:connect:DeprecationWarning")


def deepgram(served: Served) -> Any:
    sdk = pytest.importorskip("deepgram")
    environment = pytest.importorskip("deepgram.environment").DeepgramClientEnvironment(
        base=served.http, production=served.ws, agent=served.ws, agent_rest=served.http
    )
    return sdk.DeepgramClient(api_key="k", environment=environment)


@OLD_WEBSOCKETS
@pytest.mark.proves("official client", adapter="deepgram")
async def test_the_official_deepgram_client_is_understood() -> None:
    def client(served: Served) -> list[Any]:
        options = {
            "model": "nova-3",
            "encoding": "linear16",
            "sample_rate": "16000",
            "interim_results": "true",
            "vad_events": "true",
            "utterance_end_ms": "1000",
        }
        with deepgram(served).listen.v1.connect(**options) as socket:
            for piece in pieces(PCM16_16K):
                socket.send_media(piece)
            socket.send_keep_alive()
            socket.send_close_stream()
            return list(socket)

    heard = await run(DeepgramCloud(), client)
    kinds = [type(message).__name__.removeprefix("ListenV1") for message in heard]
    assert kinds[0] == "SpeechStarted"
    assert kinds[-2:] == ["UtteranceEnd", "Metadata"]
    finals = [message for message in heard if message.type == "Results" and message.is_final]
    assert " ".join(final.channel.alternatives[0].transcript for final in finals).strip() == WORDS
    assert finals[-1].speech_final


@OLD_WEBSOCKETS
@pytest.mark.proves("official client", adapter="deepgram_flux")
async def test_the_official_flux_client_is_understood() -> None:
    def client(served: Served) -> list[Any]:
        options = {"model": "flux-general-en", "encoding": "mulaw", "sample_rate": "8000", "eager_eot_threshold": "0.4"}
        with deepgram(served).listen.v2.connect(**options) as socket:
            for piece in pieces(MULAW_8K):
                socket.send_media(piece)
            socket.send_close_stream()
            return list(socket)

    heard = await run(FluxCloud(), client)
    assert [type(message).__name__ for message in heard[:2]] == ["ListenV2Connected", "ListenV2TurnInfo"]
    assert [message.event for message in heard[-2:]] == ["EagerEndOfTurn", "EndOfTurn"]
    assert heard[1].event == "StartOfTurn"
    assert heard[-1].transcript == WORDS


@pytest.mark.proves("official client", adapter="scribe")
async def test_the_official_scribe_client_is_understood() -> None:
    scribe = pytest.importorskip("elevenlabs.realtime.scribe")

    def client(served: Served) -> list[Any]:
        async def use() -> list[Any]:
            heard: list[Any] = []
            done = asyncio.Event()
            connection = await scribe.ScribeRealtime(api_key="k", base_url=served.ws).connect(
                {
                    "model_id": "scribe_v2_realtime",
                    "audio_format": scribe.AudioFormat.ULAW_8000,
                    "sample_rate": 8000,
                    "commit_strategy": scribe.CommitStrategy.VAD,
                    "include_timestamps": True,
                }
            )
            connection.on("session_started", heard.append)
            connection.on("committed_transcript", heard.append)
            connection.on("committed_transcript_with_timestamps", heard.append)
            connection.on("committed_transcript_with_timestamps", lambda _: done.set())
            connection.on("error", heard.append)
            for piece in pieces(MULAW_8K):
                await connection.send({"audio_base_64": scribe.base64.b64encode(piece).decode()})
            await done.wait()
            await connection.close()
            return heard

        return asyncio.run(asyncio.wait_for(use(), BOUND_S))

    heard = await run(ScribeCloud(), client)
    assert [message["message_type"] for message in heard] == [
        "session_started",
        "committed_transcript",
        "committed_transcript_with_timestamps",
    ]
    assert heard[1]["text"] == WORDS


@OLD_WEBSOCKETS
@pytest.mark.proves("official client", adapter="assemblyai")
async def test_the_official_assemblyai_client_is_understood() -> None:
    v3 = pytest.importorskip("assemblyai.streaming.v3")

    def client(served: Served) -> list[Any]:
        heard: list[Any] = []
        over = threading.Event()
        client = v3.StreamingClient(v3.StreamingClientOptions(api_key="k", api_host=served.ws))
        client.on(v3.StreamingEvents.Begin, lambda _, event: heard.append(event))
        client.on(v3.StreamingEvents.SpeechStarted, lambda _, event: heard.append(event))
        client.on(v3.StreamingEvents.Error, lambda _, event: heard.append(event))

        def on_turn(_: Any, event: Any) -> None:
            if event.end_of_turn:
                heard.append(event)
                if event.turn_is_formatted:
                    over.set()

        client.on(v3.StreamingEvents.Turn, on_turn)
        client.connect(v3.StreamingParameters(sample_rate=8000, encoding=v3.Encoding.pcm_mulaw, format_turns=True))
        client.stream(pieces(MULAW_8K))
        over.wait(BOUND_S)
        client.disconnect(terminate=True)
        return heard

    heard = await run(AssemblyAICloud(), client)
    assert [event.type for event in heard] == ["Begin", "SpeechStarted", "Turn", "Turn"]
    assert [event.turn_is_formatted for event in heard[2:]] == [False, True]
    assert heard[-1].transcript == WORDS
