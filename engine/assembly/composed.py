"""An agent of the settings: its vendors, each with those that take over from it, its tools and its phrases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import cast

import trio

from engine.assembly.phrasebook import Phrasebook
from engine.events import AudioFormat, CallInfo, Context, Message, ModelPart, Recollection, SessionInfo
from engine.ports import (
    CallControl,
    CallTools,
    LanguageModel,
    Mode,
    ModelVendor,
    Owner,
    Phrases,
    RawModel,
    RealtimeModel,
    RealtimeVendor,
    Synthesizer,
    SynthesizerVendor,
    Transcriber,
    TranscriberVendor,
    patience_of,
    vendor_of,
)
from engine.tools.toolbox import Toolbox
from engine.tools.using import tool_using
from engine.vendors.around import Vendoring
from engine.vendors.hearing import open_transcriber
from engine.vendors.realtime import open_realtime
from engine.vendors.speaking import open_synthesizer
from engine.vendors.thinking import open_model

Recollect = Callable[[Sequence[Message], Recollection, SessionInfo], Awaitable[Recollection]]


@dataclass(frozen=True, slots=True)
class Crew:
    """The vendors of one agent, each role's first one first."""

    transcribers: Sequence[TranscriberVendor]
    synthesizers: Sequence[SynthesizerVendor]
    models: Sequence[ModelVendor]
    realtimes: Sequence[RealtimeVendor] = ()
    is_embedded: bool = False
    """Nothing of it goes over the network: there is nothing to connect anew, and nobody to take over."""


class ComposedAgent:
    """Implements ``engine.ports.Agent`` with all that it may be besides."""

    def __init__(
        self,
        name: str,
        crew: Crew,
        phrases: Phrases,
        *,
        phrasebook: Phrasebook,
        around: Vendoring,
        toolbox: Toolbox,
        pipeline: str,
        mode: Mode = Mode.PIPELINE,
        instructions: str = "",
        recollect: Recollect,
    ) -> None:
        self.name = name
        self.pipeline = pipeline
        self.mode = mode
        self.phrases = phrases
        self.counts_vendors = not crew.is_embedded
        self.transcriber_vendor = crew.transcribers[0].name if crew.transcribers else "none"
        self.synthesizer_vendor = crew.synthesizers[0].name if crew.synthesizers else "none"
        self.model_vendor = crew.realtimes[0].name if crew.realtimes else crew.models[0].name
        self.patience_s = patience_of(crew.models, 0.0)
        self._crew = crew
        self._phrasebook = phrasebook
        self._around = around
        self._toolbox = toolbox
        self._instructions = instructions
        self._recollect = recollect

    async def prepare(self, lines: Iterable[AudioFormat], texts: Iterable[str] = ()) -> list[str]:
        """Make the audio of what is said without the model, and of ``texts``. Returns what could not be made."""
        return await self._phrasebook.prepare((*self.phrases.all(), *texts), lines)

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the field's word
        return self._phrasebook.clip(text, format)

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        if self._crew.is_embedded:
            return self._crew.transcribers[0].open(call, owner)
        return open_transcriber(self._crew.transcribers, call, owner, self._around)

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        if self._crew.is_embedded:
            return self._crew.synthesizers[0].open(call, owner)
        return open_synthesizer(self._crew.synthesizers, call, owner, self._around)

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        if self._crew.is_embedded:
            return cast("AbstractAsyncContextManager[LanguageModel]", self._crew.models[0].open(session, owner))
        opening = open_model(self._crew.models, session, owner, self._around)
        return tool_using(_instructed(opening, self._instructions), self._toolbox, session, control)

    def open_realtime(
        self,
        call: CallInfo,
        session: SessionInfo,
        context: Callable[[], Context],
        owner: Owner,
        control: CallControl,
    ) -> AbstractAsyncContextManager[RealtimeModel]:
        def shown() -> Context:
            return replace(context(), instructions=self._instructions, tools=self._toolbox.offered(control))

        return open_realtime(self._crew.realtimes, call, session, shown, owner, self._around)

    def use_tools(self, session: SessionInfo, control: CallControl) -> CallTools:
        return self._toolbox.use(session, control)

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        return await self._recollect(messages, before, session)


@asynccontextmanager
async def _instructed(opening: AbstractAsyncContextManager[RawModel], instructions: str) -> AsyncIterator[RawModel]:
    async with opening as model:
        yield _Instructed(model, instructions)


class _Instructed:
    """Shows a model who it is."""

    def __init__(self, inner: RawModel, instructions: str) -> None:
        self._inner = inner
        self._instructions = instructions

    @property
    def is_closed(self) -> bool:
        return self._inner.is_closed

    @property
    def vendor(self) -> str:
        """See ``engine.ports.Backed``."""
        return vendor_of(self._inner, "")

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ModelPart]]:
        return self._inner.open_reply(replace(context, instructions=self._instructions))
