"""Phrases made ready: by the agent's own voice, by another one where that fails, and later where all do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio
from trio.testing import MockClock

from engine.assembly.phrasebook import Phrasebook
from engine.errors import SpeechFailed
from engine.events import MULAW_8K, PCM16_16K, AudioFormat, CallInfo
from engine.observe.metrics import Metrics
from engine.observe.timeline import Timeline
from engine.ports import Owner, Synthesizer
from engine.runtime.book import Book
from engine.runtime.phrases import Phrase, PhraseCache
from engine.settings import AgentSettings, Settings
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.loopback import serving
from tests.fakes.plain_speech import words
from tests.fakes.puppet import PuppetSynthesizer, speech_of
from tests.system.rig import running_engine


class Voice:
    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.opened = 0

    @asynccontextmanager
    async def open(self, call: CallInfo, owner: Owner) -> AsyncIterator[Synthesizer]:
        self.opened += 1
        if self.fails:
            raise SpeechFailed(self.name, "down")
        yield PuppetSynthesizer(call.format)

    def phrase(self, text: str, line: AudioFormat) -> Phrase:
        return Phrase(self.name, "", line, text)


def book_of(*voices: Voice, cache: PhraseCache | None = None) -> Phrasebook:
    return Phrasebook("desk", voices, PhraseCache() if cache is None else cache, Book(Metrics(), Timeline("phrases")))


async def test_phrases_are_made_in_every_format_and_once() -> None:
    voice = Voice("one")
    book = book_of(voice)
    assert await book.prepare(["Hello.", "", "Goodbye.", "Hello."], [MULAW_8K, PCM16_16K]) == []
    assert book.clip("Hello.", MULAW_8K) == speech_of("Hello.", MULAW_8K)
    assert book.clip("Goodbye.", PCM16_16K) == speech_of("Goodbye.", PCM16_16K)
    assert book.clip("Something else.", MULAW_8K) is None
    assert await book.prepare(["Hello."], [MULAW_8K]) == []
    assert voice.opened == 2


async def test_what_two_agents_of_one_voice_say_is_made_and_held_once_and_is_bounded() -> None:
    voice, cache = Voice("one"), PhraseCache(limit_bytes=len(speech_of("Hello.", MULAW_8K)))
    cache.put(voice.phrase("Said by the way.", MULAW_8K), b"x")
    desk = book_of(voice, cache=cache)
    assert await desk.prepare(["Hello."], [MULAW_8K]) == []
    sales = book_of(voice, cache=cache)
    assert await sales.prepare(["Hello."], [MULAW_8K]) == []
    assert voice.opened == 1
    assert desk.clip("Hello.", MULAW_8K) is sales.clip("Hello.", MULAW_8K)
    assert await sales.prepare(["There is no room for this."], [MULAW_8K]) == []  # and so it is not tried for ever
    assert sales.clip("There is no room for this.", MULAW_8K) is None
    assert (len(cache), cache.size_bytes) == (1, len(speech_of("Hello.", MULAW_8K)))


async def test_another_voice_speaks_where_the_agents_own_fails_and_what_nobody_says_is_told() -> None:
    down, up = Voice("down", fails=True), Voice("up")
    assert await book_of(down, up).prepare(["Hello."], [MULAW_8K]) == []
    book = book_of(down)
    assert await book.prepare(["Hello."], [MULAW_8K]) == ["Hello."]
    down.fails = False
    assert await book.prepare(["Hello."], [MULAW_8K]) == []


async def test_an_engine_whose_voice_is_down_at_the_start_has_its_phrases_later(autojump_clock: MockClock) -> None:
    cloud = ElevenLabsSpeech()
    cloud.voicebox.refuses = 503
    async with serving(cloud) as served:
        agent = AgentSettings(
            transcriber=("deepgram",), model=("openai",), synthesizer=("elevenlabs",), phrases={"greeting": "Hello."}
        )

        def configure(settings: Settings) -> Settings:
            keys = {"DEEPGRAM_API_KEY": "k", "OPENAI_API_KEY": "k", "ELEVENLABS_API_KEY": cloud.voicebox.key}
            vendors = {
                "elevenlabs": {"voice": "v", "url": served.http},
                "deepgram": {"url": served.ws},
                "openai": {"model": "m", "url": served.http},
            }
            secrets = replace(settings.secrets, vendor_keys=keys)
            return replace(settings, agents={"desk": agent}, vendors=vendors, secrets=secrets)

        async with running_engine(configure=configure) as rig:
            desk = rig.engine.agents["desk"]
            assert desk.clip("Hello.", MULAW_8K) is None
            cloud.voicebox.refuses = None
            await trio.sleep(12)
            clip = desk.clip("Hello.", MULAW_8K)
            assert clip is not None
            assert words(clip, MULAW_8K) == "Hello."
