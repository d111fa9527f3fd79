"""An agent whose parts are moved by the test: it says when words are heard, what is answered, and what breaks.

The parts keep the rules of their ports. Speech is a run of bytes 0x10 (anything but silence), ``CHAR_S`` a character.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from engine.dialogue.recollection import recollect
from engine.errors import ModelFailed, SpeechFailed
from engine.events import (
    MULAW_8K,
    AudioFormat,
    CallInfo,
    Context,
    Heard,
    Message,
    RealtimeEvent,
    Recollection,
    ReplyAudio,
    ReplyOver,
    ReplyPart,
    ReplyStarted,
    ReplyText,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
    ToolCall,
    ToolResult,
    TranscriberEvent,
)
from engine.ports import (
    Action,
    CallControl,
    LanguageModel,
    Mode,
    Owner,
    Phrases,
    RealtimeModel,
    Synthesizer,
    Transcriber,
)

CHAR_S = 0.06
"""About how long a character takes to say."""

T = TypeVar("T", bound="Part")
Answers = Callable[[Context], Sequence[ReplyPart | float | Exception]]
"""The model: what it is shown to the parts of its answer; a number is a pause in seconds."""


def speech_of(text: str, form: AudioFormat) -> bytes:
    frames = math.ceil(len(text) * CHAR_S / 0.02)
    return b"\x10" * (frames * form.frame_bytes)


class Part:
    """What all three have: they know whether they were closed."""

    is_closed = False


class PuppetTranscriber(Part):
    """Hears what the test says it hears."""

    decides_turns = False

    def __init__(self) -> None:
        self.frames = 0
        self._events, self._receive = trio.open_memory_channel[TranscriberEvent | Exception](100)

    def send(self, audio: bytes) -> None:
        self.frames += 1

    async def receive(self) -> TranscriberEvent:
        event = await self._receive.receive()
        if isinstance(event, Exception):
            raise event
        return event

    def tells(self, event: TranscriberEvent) -> None:
        self._events.send_nowait(event)

    def interim(self, text: str) -> None:
        self.tells(Heard(text, is_final=False))

    def onset(self) -> None:
        self._events.send_nowait(SpeechStarted(trio.current_time()))

    def words(self, text: str) -> None:
        self._events.send_nowait(SpeechStopped(trio.current_time()))
        self._events.send_nowait(Heard(text))

    def hears(self, text: str) -> None:
        """A whole say: onset, end and words at once."""
        self.onset()
        self.words(text)

    def breaks(self) -> None:
        self._events.send_nowait(SpeechFailed("puppet", "gone"))


class PuppetSynthesizer(Part):
    def __init__(self, form: AudioFormat, *, fails: bool = False, stalls: bool = False) -> None:
        self._form = form
        self._fails = fails
        self._stalls = stalls

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        send, receive = trio.open_memory_channel[bytes](100)
        if self._fails:
            raise SpeechFailed("puppet", "no voice")
        if self._stalls:
            await trio.sleep_forever()
        audio = speech_of(text, self._form)
        piece = 10 * self._form.frame_bytes
        for start in range(0, len(audio), piece):
            send.send_nowait(audio[start : start + piece])
        send.close()
        yield receive


class PuppetModel(Part):
    def __init__(self, answers: Answers) -> None:
        self.contexts: list[Context] = []
        self._answers = answers

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        self.contexts.append(context)
        send, receive = trio.open_memory_channel[ReplyPart](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak, send, self._answers(context))
            yield receive
            nursery.cancel_scope.cancel()

    async def _speak(
        self, send: trio.MemorySendChannel[ReplyPart], parts: Sequence[ReplyPart | float | Exception]
    ) -> None:
        with send:  # not `async with`: its checkpoint, cancelled, would replace the failure
            for part in parts:
                if isinstance(part, float):
                    await trio.sleep(part)
                elif isinstance(part, Exception):
                    raise part
                else:
                    try:
                        await send.send(part)
                    except trio.BrokenResourceError:
                        return


def echo(context: Context) -> Sequence[ReplyPart]:
    return [f"You said {context[-1].text}."]


class PuppetAgent:
    """Implements ``engine.ports.Agent``. The last opened parts are at ``transcriber`` and ``model``."""

    pipeline = "custom"
    mode = Mode.PIPELINE
    transcriber_vendor = synthesizer_vendor = model_vendor = "custom"

    def __init__(
        self,
        answers: Answers = echo,
        *,
        name: str = "desk",
        greeting: str = "Hello, this is the desk.",
        open_s: float = 0.0,
        close_s: float = 0.0,
        open_fails: bool = False,
        voice_fails: bool = False,
        voice_stalls: bool = False,
        has_clips: bool = True,
        leaks: bool = False,
        dies_after_s: float = math.inf,
    ) -> None:
        self.name = name
        self.decides_turns = False
        """Of its transcribers."""
        self.phrases = Phrases(greeting)
        self.transcriber = PuppetTranscriber()
        self.model = PuppetModel(answers)
        self.control: CallControl | None = None
        self.open_parts = 0
        self._answers = answers
        self._open_s = open_s
        self._close_s = close_s
        self._open_fails = open_fails
        self._voice_fails = voice_fails
        self._voice_stalls = voice_stalls
        self._has_clips = has_clips
        self._leaks = leaks
        self._dies_after_s = dies_after_s

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        def make() -> PuppetTranscriber:
            self.transcriber = PuppetTranscriber()
            self.transcriber.decides_turns = self.decides_turns
            return self.transcriber

        return self._part(make)

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        return self._part(lambda: PuppetSynthesizer(call.format, fails=self._voice_fails, stalls=self._voice_stalls))

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        self.control = control

        def make() -> PuppetModel:
            self.model = PuppetModel(self._answers)
            return self.model

        return self._part(make)

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        return recollect(messages, before)

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the port's word
        is_fixed = self._has_clips and text in self.phrases.all()
        return speech_of(text, format) if is_fixed else None

    @asynccontextmanager
    async def _part(self, make: Callable[[], T]) -> AsyncIterator[T]:
        await trio.sleep(self._open_s)
        if self._open_fails:
            raise ModelFailed("puppet", "refused")
        self.open_parts += 1
        part = make()
        try:
            with trio.move_on_after(self._dies_after_s):  # a part that ends its own block without an error
                yield part
                await trio.sleep(self._close_s)
        finally:
            part.is_closed = not self._leaks
            self.open_parts -= 1


class PuppetRealtime(Part):
    """Hears, thinks and speaks what the test says; keeps what it was told."""

    def __init__(self, form: AudioFormat, context: Callable[[], Context], *, is_obedient: bool = True) -> None:
        self.frames = 0
        self.context = context
        self.asked_to_say: list[str] = []
        self.was_told: list[str] = []
        self.interrupts: list[float] = []
        """Seconds that were heard, of each."""
        self.results: list[ToolResult] = []
        self.heard_after_all: list[str] = []
        self._form = form
        self._is_obedient = is_obedient
        self._numbers = itertools.count(1)
        self._events, self._receive = trio.open_memory_channel[RealtimeEvent | Exception](10_000)

    # --- the port -------------------------------------------------------------------------------------------

    def send(self, audio: bytes) -> None:
        self.frames += 1

    async def receive(self) -> RealtimeEvent:
        event = await self._receive.receive()
        if isinstance(event, Exception):
            raise event
        return event

    def say(self, text: str) -> None:
        self.asked_to_say.append(text)
        if self._is_obedient:
            self.replies(text)

    def told(self, text: str) -> None:
        self.was_told.append(text)

    def interrupt(self, heard_s: float) -> None:
        self.interrupts.append(heard_s)

    def heard_on(self, text: str) -> None:
        self.heard_after_all.append(text)

    def tool_results(self, results: Sequence[ToolResult]) -> None:
        self.results += results

    # --- the puppet's strings -------------------------------------------------------------------------------

    def tells(self, *events: RealtimeEvent | Exception) -> None:
        for event in events:
            self._events.send_nowait(event)

    def onset(self) -> None:
        self.tells(SpeechStarted(trio.current_time()))

    def falls_silent(self) -> None:
        self.tells(SpeechStopped(trio.current_time()))

    def hears(self, text: str) -> None:
        """A whole say: onset, end and words at once."""
        self.onset()
        self.falls_silent()
        self.tells(Heard(text))

    def begins(self, text: str, *, seconds: float | None = None) -> str:
        """A reply whose end does not come yet: its words, and its sound or the first ``seconds`` of it."""
        reply_id = f"r{next(self._numbers)}"
        audio = speech_of(text, self._form)
        if seconds is not None:
            audio = audio[: round(seconds / 0.02) * self._form.frame_bytes]
        self.tells(ReplyStarted(reply_id), ReplyText(reply_id, text))
        piece = 10 * self._form.frame_bytes
        self.tells(*(ReplyAudio(reply_id, audio[start : start + piece]) for start in range(0, len(audio), piece)))
        return reply_id

    def replies(self, text: str) -> str:
        """A whole reply, at once: faster than it is heard."""
        reply_id = self.begins(text)
        self.tells(ReplyOver(reply_id))
        return reply_id


@dataclass(frozen=True, slots=True)
class PuppetRound:
    results: tuple[ToolResult, ...]
    actions: tuple[Action, ...] = ()


class PuppetTools:
    """What a call comes to, by the tool's name: text, an action, or seconds to wait."""

    def __init__(self, outcomes: Mapping[str, Sequence[str | float | Action]]) -> None:
        self.outcomes = outcomes
        self.called: list[ToolCall] = []
        self.turns = 0

    def begin_turn(self) -> None:
        self.turns += 1

    async def run(self, calls: Sequence[ToolCall], context: Context) -> PuppetRound:
        texts: list[str] = []
        actions: list[Action] = []
        for call in calls:
            self.called.append(call)
            for outcome in self.outcomes[call.name]:
                if isinstance(outcome, float):
                    await trio.sleep(outcome)
                elif isinstance(outcome, str):
                    texts.append(outcome)
                else:
                    actions.append(outcome)
        return PuppetRound((ToolResult(calls[0].call_id, " ".join(texts)),), tuple(actions))


class PuppetRealtimeAgent(PuppetAgent):
    """Implements ``engine.ports.RealtimeAgent``. The last opened model is at ``realtime``."""

    mode = Mode.REALTIME

    def __init__(
        self,
        *,
        is_obedient: bool = True,
        outcomes: Mapping[str, Sequence[str | float | Action]] | None = None,
        **knobs: Any,
    ) -> None:
        super().__init__(**knobs)
        self.tools = PuppetTools(outcomes or {})
        self._is_obedient = is_obedient
        self.realtime = self._new(MULAW_8K, lambda: Context(()))

    def open_realtime(
        self,
        call: CallInfo,
        session: SessionInfo,
        context: Callable[[], Context],
        owner: Owner,
        control: CallControl,
    ) -> AbstractAsyncContextManager[RealtimeModel]:
        def make() -> PuppetRealtime:
            self.realtime = self._new(call.format, context)
            return self.realtime

        return self._part(make)

    def use_tools(self, session: SessionInfo, control: CallControl) -> PuppetTools:
        return self.tools

    def _new(self, form: AudioFormat, context: Callable[[], Context]) -> PuppetRealtime:
        return PuppetRealtime(form, context, is_obedient=self._is_obedient)
