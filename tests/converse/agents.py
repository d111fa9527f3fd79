"""Scripted agents on plain speech: what ships, without the embedded speech."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from adapters.scripted.model import open_model
from adapters.scripted.script import load_script
from engine.events import AudioFormat, SessionInfo
from engine.phone.conversation import Voice
from engine.ports import CallControl, LanguageModel, Owner
from tests.fakes.agents import MemoryAgent
from tests.fakes.plain_speech import speak, words
from tests.fakes.vendors import Behaviour

CHARS_PER_S = 300.0
"""A sentence takes a third of a second, in real time."""
FAST = Behaviour(onset_s=0.06, endpoint_s=0.08, final_s=0.02, first_token_s=0, first_audio_s=0, chars_per_s=CHARS_PER_S)


def make_agent(name: str, options: Mapping[str, object]) -> ScriptedAgent:
    return ScriptedAgent(name, str(options["script"]))


class ScriptedAgent(MemoryAgent):
    def __init__(self, name: str, script: str) -> None:
        super().__init__(name, behaviour=FAST)
        self._script = load_script(script)
        self.phrases = self._script.phrases

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        return open_model(self._script, call_id=session.call_id)


class FastVoice:
    async def render(self, text: str, line: AudioFormat, /) -> bytes:
        return speak(text, line, chars_per_s=CHARS_PER_S)

    async def recognise(self, audio: bytes, line: AudioFormat, /) -> str:
        return words(audio, line)


@asynccontextmanager
async def fast_voice() -> AsyncIterator[Voice]:
    yield FastVoice()
