"""Name in the settings to adapter: the one place that knows every adapter there is."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, cast

import trio

from adapters.models.script import Script, load_script
from adapters.models.scripted import open_model
from engine.dialogue.recollection import recollect
from engine.errors import SettingsError
from engine.events import AudioFormat, CallInfo, Message, Recollection, SessionInfo
from engine.ports import Agent, CallControl, LanguageModel, Mode, Owner, Phrases, Synthesizer, Transcriber

if TYPE_CHECKING:
    # Loading it takes numpy and onnxruntime, which are an extra.
    from adapters.speech.embedded import EmbeddedSpeech


class EmbeddedAgent:
    """A scripted agent on the embedded speech: no account, no key, nothing over the network."""

    pipeline = "embedded"
    mode = Mode.PIPELINE
    transcriber_vendor = "moonshine"
    synthesizer_vendor = "hibari"
    model_vendor = "script"

    def __init__(self, name: str, script: Script, speech: EmbeddedSpeech) -> None:
        self.name = name
        self.phrases: Phrases = script.phrases
        self._script = script
        self._speech = speech

    async def prepare(self, lines: Iterable[AudioFormat]) -> None:
        """Make the audio of what is said without the model, in every format a line may have; and what is made of the
        script's own words, which would hold up the first caller."""
        await trio.to_thread.run_sync(lambda: self._script.matcher)
        for line in lines:
            await self._speech.prepare((text for text in self.phrases.all() if text), line)

    async def prepare_answers(self, lines: Iterable[AudioFormat]) -> None:
        """And of the answers that are the same for every caller: no call need wait for these."""
        for line in lines:
            await self._speech.prepare(self._script.fixed_phrases(), line)

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        return self._speech.open_transcriber(call)

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        return self._speech.open_synthesizer(call)

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        return open_model(self._script, call_id=session.call_id)

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        # Some milliseconds of computing for a long conversation: not on the event loop.
        return await trio.to_thread.run_sync(recollect, messages, before)

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the field's word
        return self._speech.clip(text, format)


def agent_script(script: str) -> Script:
    """A script that ships with Offhook, by name, or a TOML file's. Raises SettingsError naming its key at fault."""
    return load_script(script)


def agent_from_factory(name: str, factory: str, options: Mapping[str, Any]) -> Agent:
    """An agent of somebody else's: ``package.module:function``, called with the agent's name and its options.

    Raises SettingsError.
    """
    module_name, _, function_name = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise SettingsError(f"agents.{name}.factory: {factory!r} cannot be imported ({exc})") from None
    return cast(Agent, make(name, options))
