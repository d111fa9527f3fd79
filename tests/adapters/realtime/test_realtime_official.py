"""The vendors' own clients understand the fakes: what our adapters are tested against is the real wire."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio

from engine.events import MULAW_8K, PCM16_16K
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.elevenlabs_agents import Manner as AgentManner
from tests.fakes.clouds.loopback import Served, serving
from tests.fakes.clouds.openai_realtime import Manner, OpenAIRealtimeCloud
from tests.fakes.plain_speech import speak, words

BOUND_S = 8.0
"""Of each client, in real time; it takes some tenths of a second."""


async def run(cloud: Any, client: Callable[[Served], Any]) -> Any:
    async with serving(cloud) as served:
        heard = await trio.to_thread.run_sync(client, served)
    assert cloud.faults == []
    return heard


# --- OpenAI -----------------------------------------------------------------------------------------------------


async def _converse(served: Served) -> list[Any]:
    """A spoken question, its answer, a tool call and its result."""
    openai = pytest.importorskip("openai")
    events: list[Any] = []
    client = openai.AsyncOpenAI(api_key="k", websocket_base_url=f"{served.ws}/v1", max_retries=0)
    async with client, client.realtime.connect(model="m", max_retries=0) as connection:
        audio = {
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"model": "t"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
            },
            "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
        }
        tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
        await connection.session.update(session={"type": "realtime", "audio": audio, "tools": [tool]})
        question = speak("what day is it", MULAW_8K) + MULAW_8K.silence(0.6)
        for at in range(0, len(question), 480):
            piece = base64.b64encode(question[at : at + 480]).decode()
            await connection.input_audio_buffer.append(audio=piece)
        answers = 0
        async for event in connection:
            events.append(event)
            if event.type == "response.done":
                answers += 1
                if answers == 1:
                    content = [{"type": "input_text", "text": "call the tool weather"}]
                    await connection.conversation.item.create(
                        item={"type": "message", "role": "user", "content": content}
                    )
                    await connection.response.create()
                elif answers == 2:
                    call = event.response.output[-1]
                    await connection.conversation.item.create(
                        item={"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
                    )
                    await connection.response.create()
                else:
                    await connection.close()
                    break
    return events


@pytest.mark.proves("official client", adapter="openai_realtime")
async def test_the_official_openai_client_is_understood_and_its_types_hold() -> None:
    from openai.types.realtime import RealtimeServerEvent
    from pydantic import TypeAdapter

    cloud = OpenAIRealtimeCloud(manner=Manner(first_audio_s=0.0, speed=200.0))
    events = await run(cloud, lambda served: asyncio.run(asyncio.wait_for(_converse(served), BOUND_S)))
    texts = [event.transcript for event in events if event.type == "response.output_audio_transcript.done"]
    assert texts == ["Turn 1. You said what day is it.", "One moment.", "The tool said rain."]
    audio = b"".join(base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta")
    assert words(audio, MULAW_8K) == " ".join(texts)
    kinds = [event.type for event in events]
    heard = next(event for event in events if event.type.endswith("transcription.completed"))
    assert heard.transcript == "what day is it"
    assert kinds.index("input_audio_buffer.speech_started") < kinds.index("input_audio_buffer.committed")

    # The client takes anything; its types are checked here.
    known: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
    for event in events:
        known.validate_python(event.model_dump(exclude_unset=True))


# --- ElevenLabs -------------------------------------------------------------------------------------------------

# The client imports names that its WebSocket library has deprecated.
OLD_WEBSOCKETS = "ignore:websockets:DeprecationWarning"


def _talk(served: Served, requires_auth: bool) -> dict[str, Any]:
    sdk = pytest.importorskip("elevenlabs.client")
    convai = pytest.importorskip("elevenlabs.conversational_ai.conversation")
    told: dict[str, Any] = {"audio": b"", "texts": [], "heard": [], "corrected": [], "interrupted": 0, "tools": []}
    is_over = threading.Event()
    is_told = threading.Event()
    is_last = threading.Event()

    class Line(convai.AudioInterface):  # type: ignore[misc,name-defined]  # the client has no types
        """A caller who asks for a story, and cuts in."""

        def start(self, input_callback: Callable[[bytes], None]) -> None:
            self._say = input_callback
            self._thread = threading.Thread(target=self._call)
            self._thread.start()

        def _call(self) -> None:
            for text in ("tell me a story", "stop and call the tool weather"):
                audio = speak(text, PCM16_16K) + PCM16_16K.silence(0.7)
                for at in range(0, len(audio), 8000):
                    self._say(audio[at : at + 8000])
                is_told.wait(BOUND_S)
                is_told.clear()

        def stop(self) -> None:
            self._thread.join(BOUND_S)

        def output(self, audio: bytes) -> None:
            told["audio"] += audio
            if "story" in told["texts"][-1]:
                is_told.set()
            if is_last.is_set() and words(told["audio"], PCM16_16K).endswith("The tool said rain."):
                is_told.set()
                is_over.set()

        def interrupt(self) -> None:
            told["interrupted"] += 1

    def on_text(text: str) -> None:
        told["texts"].append(text)
        if "tool said" in text:
            is_last.set()

    def weather(parameters: dict[str, Any]) -> str:
        told["tools"].append(parameters)
        return "rain"

    tools = convai.ClientTools()
    tools.register("weather", weather)
    http = httpx.Client()
    conversation = convai.Conversation(
        sdk.ElevenLabs(base_url=served.http, api_key="k", httpx_client=http),
        "agent_1",
        requires_auth=requires_auth,
        audio_interface=Line(),
        client_tools=tools,
        callback_agent_response=on_text,
        callback_agent_response_correction=lambda _, text: told["corrected"].append(text),
        callback_user_transcript=told["heard"].append,
    )
    conversation.start_session()
    is_over.wait(BOUND_S)
    conversation.end_session()
    told["id"] = conversation.wait_for_session_end()
    http.close()
    return told


@pytest.mark.filterwarnings(OLD_WEBSOCKETS)
@pytest.mark.proves("official client", adapter=("elevenlabs_agents", "elevenlabs_agents in text"))
async def test_the_official_elevenlabs_client_is_understood() -> None:
    manner = AgentManner(first_message="Hello.", hears="pcm_16000", speaks="pcm_16000", first_audio_s=0.0, speed=20.0)
    cloud = ElevenLabsAgentsCloud(manner=manner)
    told = await run(cloud, lambda served: _talk(served, requires_auth=True))
    assert told["id"] == "conv_1"
    assert told["heard"] == ["tell me a story", "stop and call the tool weather"]
    assert told["texts"][0] == "Hello."
    assert told["texts"][-1] == "The tool said rain."
    assert told["interrupted"] >= 1
    assert len(told["corrected"]) == told["interrupted"]
    assert len(told["tools"]) == 1
    assert words(told["audio"], PCM16_16K).endswith("The tool said rain.")
    assert any(message["type"] == "pong" for message in cloud.sessions[0].told)


@pytest.mark.proves("official client", adapter="elevenlabs_agents_http")
async def test_the_official_elevenlabs_client_runs_the_fakes_tests() -> None:
    def client(served: Served) -> Any:
        sdk = pytest.importorskip("elevenlabs")
        tests = pytest.importorskip("elevenlabs.conversational_ai.tests")
        http = httpx.Client()
        convai = sdk.ElevenLabs(base_url=served.http, api_key="k", httpx_client=http).conversational_ai
        turns = [("agent", "Hello."), ("user", "my word is canary9")]
        history = [
            sdk.ConversationHistoryTranscriptCommonModelInput(role=role, message=text, time_in_call_secs=0)
            for role, text in turns
        ]
        test = tests.TestsCreateRequestBody_Llm(name="n", chat_history=history, success_condition="It answers.")
        test_id = convai.tests.create(request=test).id
        run = convai.agents.run_tests("agent_1", tests=[sdk.SingleTestRunRequestModel(test_id=test_id)])
        assert run.test_runs[0].status == "pending"
        done = convai.tests.invocations.get(run.id)
        convai.tests.delete(test_id)
        http.close()
        return done.test_runs[0]

    cloud = ElevenLabsAgentsCloud()
    run_ = await run(cloud, client)
    assert run_.status == "passed"
    assert [turn.message for turn in run_.agent_responses] == ["Turn 1. You said my word is canary9. I know canary9."]
    assert cloud.tests.kept == {}
