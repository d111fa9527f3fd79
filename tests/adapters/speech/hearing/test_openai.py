"""Transcription over HTTP: the official client judges the cloud, and the cloud our adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.speech.hearing.energy import EnergyActivity, EnergyLane
from adapters.speech.hearing.openai import OpenAITranscriberConfig, OpenAITranscriberVendor, wav
from adapters.speech.hearing.segmented import EmbeddedTranscriber
from engine.audio.g711 import pcm16_to_mulaw
from engine.errors import SpeechFailed, Why
from engine.events import MULAW_8K, PCM16_8K, Heard
from engine.runtime.ledger import Ledger
from engine.vendors.hearing import open_transcriber
from tests.adapters.speech.conftest import Say
from tests.adapters.speech.sounds import hiss
from tests.contract.ears import NoBook, call_over, check, finals, hear
from tests.fakes.clouds.loopback import dialled, serving
from tests.fakes.clouds.openai_transcription import TranscriptionCloud
from tests.fakes.plain_speech import speak
from tests.vendors.puppets import House

LINE = MULAW_8K


@asynccontextmanager
async def opened(
    cloud: TranscriptionCloud, nursery: trio.Nursery, *, activity: Any = None, key: str = "k", **options: Any
) -> AsyncIterator[EmbeddedTranscriber]:
    config = OpenAITranscriberConfig(key, url="http://cloud/v1", **options)
    vendor = OpenAITranscriberVendor(config, dialled(cloud, nursery), activity)
    async with vendor.open(call_over(LINE), Ledger("c1", NoBook())) as ear:
        yield ear


def utterance(text: str) -> bytes:
    return LINE.silence(0.5) + speak(text, LINE) + LINE.silence(0.8)


@pytest.mark.proves("official client", adapter="openai_transcription")
async def test_the_official_client_is_understood() -> None:
    openai = pytest.importorskip("openai")
    cloud = TranscriptionCloud()
    file = wav(LINE.silence(0.3) + speak("a table for two", LINE), LINE)
    async with (
        serving(cloud) as served,
        openai.AsyncOpenAI(api_key="k", base_url=f"{served.http}/v1", max_retries=0, timeout=5.0) as client,
    ):
        heard = await client.audio.transcriptions.create(model="gpt-transcribe", file=("a.wav", file, "audio/wav"))
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").audio.transcriptions.create(
                model="gpt-transcribe", file=("a.wav", file, "audio/wav")
            )
    assert heard.text == "a table for two"
    assert cloud.faults == ["key"]


async def test_our_requests_are_the_official_ones_in_what_counts(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = TranscriptionCloud()
    async with opened(cloud, nursery, language="en", fields={"prompt": "numbers"}) as ear:
        said = await hear(ear, utterance("one two three"), for_s=0.5)
    check(said, decides_turns=False)
    assert finals(said) == cloud.heard == ["one two three"]
    request = cloud.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/audio/transcriptions")
    for part in (b'name="language"\r\n\r\nen', b'name="prompt"\r\n\r\nnumbers', b'name="model"', b"audio/wav"):
        assert part in request.body


async def test_each_segment_is_one_request(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A guess at each pause would cost as much as the words."""
    cloud = TranscriptionCloud()
    audio = LINE.silence(0.3) + b"".join(speak(word, LINE) + LINE.silence(0.16) for word in ("one two", "three four"))
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, audio + LINE.silence(0.8), for_s=0.5)
    assert finals(said) == ["one two three four"]
    assert len(cloud.requests) == 1


async def test_a_server_without_keys_is_asked_without(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = TranscriptionCloud(key="")
    async with opened(cloud, nursery, key="") as ear:
        assert finals(await hear(ear, utterance("hello"), for_s=0.5)) == ["hello"]
    assert "authorization" not in cloud.requests[0].headers


HTML = b"<html><body>Welcome</body></html>"


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (401, b'{"error": {"code": "invalid_api_key", "message": "Incorrect key: secret"}}', Why.AUTH),
        (429, b'{"error": {"code": "rate_limit_exceeded"}}', Why.RATE_LIMITED),
        (429, b'{"error": {"code": "insufficient_quota"}}', Why.AUTH),
        (500, HTML, Why.UNREACHABLE),
        (400, b'{"error": "text"}', Why.BAD_REQUEST),
        (200, HTML, Why.NONSENSE),
        (200, b'{"text": 5}', Why.NONSENSE),
        (200, b"\xff\xfe", Why.NONSENSE),
        (200, b'{"text": "' + b"x" * 1_100_000 + b'"}', Why.NONSENSE),
        (302, b"", Why.NONSENSE),
    ],
)
async def test_an_answer_that_is_none_says_why(
    status: int, body: bytes, why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = TranscriptionCloud()
    cloud.status, cloud.body = status, body
    cloud.headers["retry-after"] = "7"
    async with opened(cloud, nursery) as ear:
        with pytest.raises(SpeechFailed) as failure:
            await hear(ear, utterance("anybody"), for_s=5.0)
        with pytest.raises(SpeechFailed):
            await ear.receive()
    assert failure.value.why is why
    assert failure.value.vendor == "openai"
    assert "secret" not in str(failure.value)
    if why is Why.RATE_LIMITED:
        assert failure.value.retry_after_s == 7.0


async def test_a_vendor_that_never_answers_is_waited_for_no_longer_than_the_settings_say(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = TranscriptionCloud()
    cloud.stalls = True
    began_s = trio.current_time()
    with pytest.raises(SpeechFailed) as failure:
        async with opened(cloud, nursery, answer_s=3.0) as ear:
            await hear(ear, utterance("anybody"), for_s=60.0)
    assert failure.value.why is Why.TIMEOUT
    assert trio.current_time() - began_s < 0.5 + 0.4 + 0.4 + 3.2
    assert cloud.requests_open == 1  # it has not noticed yet; nobody waits for it


async def test_a_long_utterance_whose_request_fails_is_asked_for_again_whole(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """By the layer above, which keeps of the caller's audio all that has no words."""
    text = "I would like a table for two on the terrace at seven"  # two seconds
    cloud, house = TranscriptionCloud(), House()
    cloud.status, cloud.body = 500, b"{}"
    config = OpenAITranscriberConfig("k", name="one", url="http://cloud/v1")
    vendor = OpenAITranscriberVendor(config, dialled(cloud, nursery))
    async with open_transcriber([vendor], call_over(LINE), house.ledger, house.around) as ear:

        async def recover() -> None:
            while not cloud.requests:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.01)
            await trio.sleep(0.05)
            cloud.body = None

        nursery.start_soon(recover)
        audio = LINE.silence(0.5) + speak(text, LINE) + LINE.silence(0.8)
        said = await hear(ear, audio, for_s=3.0)
    check(said, decides_turns=False)
    assert finals(said) == [text]
    assert len(cloud.requests) == 2


# --- loudness -----------------------------------------------------------------------------------------------------


class Judged:
    def __init__(self) -> None:
        self.probabilities: list[float] = []

    def judged(self, probability: float, level: int) -> None:
        self.probabilities.append(probability)

    def skipped(self, samples: int) -> None: ...

    def failed(self) -> None: ...


def judge(pcm: bytes) -> list[float]:
    judged = Judged()
    with EnergyActivity().open_lane(judged) as lane:
        assert isinstance(lane, EnergyLane)
        for at in range(0, len(pcm), 320):
            lane.push(pcm[at : at + 320])
    return judged.probabilities


def test_a_steady_noise_is_no_speech_for_long_and_a_voice_above_it_is() -> None:
    probabilities = judge(hiss(10.0, 250) + hiss(1.0, 3000) + hiss(1.0, 250))
    frames = 1 / 0.032
    assert not any(p >= 0.35 for p in probabilities[int(6 * frames) : int(9.9 * frames)])
    assert all(p >= 0.5 for p in probabilities[int(10.1 * frames) : int(10.9 * frames)])
    assert not any(p >= 0.5 for p in probabilities[-int(0.5 * frames) :])


def test_silence_is_none() -> None:
    assert judge(PCM16_8K.silence(1.0)) == [0.0] * 31


async def test_words_of_a_voice_are_cut_out_by_the_embedded_voice_activity(say: Say, nursery: trio.Nursery) -> None:
    """Where the extra is installed: silence is what the model calls silence, a hiss too."""
    from adapters.speech.embedded.voice_activity import SpeechModel, VoiceActivity

    activity = VoiceActivity(SpeechModel())
    nursery.start_soon(activity.run)
    cloud = TranscriptionCloud()
    async with opened(cloud, nursery, activity=activity) as ear:
        noise = pcm16_to_mulaw(hiss(0.6, 300))
        ear.send(noise + say("I would like a table.", LINE) + noise + LINE.silence(0.5))
        heard: list[Any] = []
        with trio.fail_after(20):
            while not any(isinstance(event, Heard) for event in heard):
                heard.append(await ear.receive())
    assert [type(event).__name__ for event in heard] == ["SpeechStarted", "SpeechStopped", "Heard"]
    assert len(cloud.requests) == 1
