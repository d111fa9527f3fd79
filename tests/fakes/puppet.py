"""An agent whose parts are moved by the test: it says when words are heard, what is answered, and what breaks.

The parts keep the rules of their ports. Speech is a run of bytes 0x10 (anything but silence), ``CHAR_S`` a character.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import trio

from engine.dialogue.recollection import recollect
from engine.errors import ModelFailed, SpeechFailed
from engine.events import (
    AudioFormat,
    CallInfo,
    Context,
    Heard,
    Message,
    Recollection,
    ReplyPart,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
    TranscriberEvent,
)
from engine.ports import CallControl, LanguageModel, Mode, Owner, Phrases, Synthesizer, Transcriber

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
