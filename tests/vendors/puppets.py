"""Vendors that a test moves: what they open, say, answer and break."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from engine.errors import ModelFailed, SpeechFailed, VendorError, Why
from engine.events import (
    MULAW_8K,
    CallInfo,
    Context,
    Heard,
    Message,
    Modality,
    ModelPart,
    RealtimeEvent,
    Role,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
    ToolResult,
    TranscriberEvent,
)
from engine.observe.metrics import Metrics
from engine.ports import Owner
from engine.runtime.ledger import How, Ledger
from engine.vendors.around import Vendoring
from engine.vendors.breaker import Breakers
from engine.vendors.policy import Policy
from tests.fakes.plain_speech import speak
from tests.fakes.samples import sample

LINE = MULAW_8K
CALL = CallInfo("twilio", "CA1", "MZ1", LINE, "desk")
SESSION = SessionInfo("s1", "desk", Modality.VOICE, call_id="CA1")
VOICE = b"\x10" * LINE.frame_bytes
"""A frame that is not silent."""
QUIET = LINE.silence(0.02)


def context(*texts: str, **more: Any) -> Context:
    roles = (Role.AGENT, Role.CALLER)
    last = len(texts) - 1
    return Context(tuple(Message(roles[(last - i + 1) % 2], text) for i, text in enumerate(texts)), **more)


@dataclass
class Book:
    """What a ledger reports."""

    open: list[tuple[str, str]] = field(default_factory=list)
    ever: list[tuple[str, str]] = field(default_factory=list)
    hows: list[How] = field(default_factory=list)
    leaks: int = 0

    def opened(self, kind: str, vendor: str) -> None:
        self.open.append((str(kind), vendor))
        self.ever.append((str(kind), vendor))

    def closed(self, kind: str, vendor: str, how: How, took_s: float) -> None:
        self.open.remove((str(kind), vendor))
        self.hows.append(how)

    def leaked(self, kind: str, vendor: str) -> None:
        self.leaks += 1


class House:
    """What a test needs around: figures, breakers, a ledger."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.metrics = Metrics(("twilio",), ("custom",), ("memory",), ("one", "two"), actors=(), routes=())
        self.around = Vendoring(self.metrics, Breakers(self.metrics), policy or Policy())
        self.book = Book()
        self.ledger = Ledger("CA1", self.book)

    def value(self, name: str, **labels: str) -> float:
        return sample(self.metrics.registry, name, **labels)

    def requests(self, vendor: str, kind: str) -> dict[str, int]:
        """By status, those that there were."""
        statuses = ("ok", "error", "timeout", "cancelled")
        counted = {s: self.value("vendor_requests_total", vendor=vendor, kind=kind, status=s) for s in statuses}
        return {status: int(count) for status, count in counted.items() if count}


@dataclass
class Opening:
    """How a puppet's connections come about: each entry is one of them, in order; then all of them work. An exception
    is raised, a number waited for, infinity for ever."""

    script: list[Exception | float] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)

    async def go(self) -> None:
        self.at_s.append(trio.current_time())
        step = self.script.pop(0) if self.script else 0.0
        if isinstance(step, Exception):
            raise step
        await trio.sleep(step)


class Part:
    def __init__(self) -> None:
        self.is_closed = False


class PuppetVendor:
    """``parts``: every connection that there was, in order."""

    def __init__(self, name: str = "one", *, opens: Sequence[Exception | float] = (), close_s: float = 0.0) -> None:
        self.name = name
        self.opening = Opening(list(opens))
        self.parts: list[Any] = []
        self.open_now = 0
        self.close_s = close_s

    def make(self) -> Any:
        raise NotImplementedError

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Any]:
        await self.opening.go()
        part = self.make()
        self.parts.append(part)
        self.open_now += 1
        try:
            yield part
            await trio.sleep(self.close_s)
        finally:
            self.open_now -= 1
            part.is_closed = True

    @property
    def last(self) -> Any:
        return self.parts[-1]


# --- ears ----------------------------------------------------------------------------------------------------


class Ear(Part):
    """``heard`` is all audio that it was sent, with the time of it."""

    def __init__(self, *, decides_turns: bool) -> None:
        super().__init__()
        self.decides_turns = decides_turns
        self.heard: list[tuple[float, bytes]] = []
        self._send, self._receive = trio.open_memory_channel[TranscriberEvent | Exception](math.inf)

    @property
    def seconds(self) -> float:
        return sum(LINE.duration_s(audio) for _, audio in self.heard)

    def send(self, audio: bytes) -> None:
        self.heard.append((trio.current_time(), audio))

    async def receive(self) -> TranscriberEvent:
        event = await self._receive.receive()
        if isinstance(event, Exception):
            raise event
        return event

    @property
    def untaken(self) -> int:
        """Events that nobody has received."""
        return self._receive.statistics().current_buffer_used

    def tells(self, *events: TranscriberEvent) -> None:
        for event in events:
            self._send.send_nowait(event)

    def onset(self) -> None:
        self.tells(SpeechStarted(trio.current_time()))

    def interim(self, text: str) -> None:
        self.tells(Heard(text, is_final=False))

    def final(self, text: str) -> None:
        self.tells(SpeechStopped(trio.current_time()), Heard(text))

    def breaks(self, why: Why = Why.CUT) -> None:
        self._send.send_nowait(SpeechFailed("one", "gone", why=why))


class EarVendor(PuppetVendor):
    decides_turns = False

    def make(self) -> Ear:
        return Ear(decides_turns=self.decides_turns)

    def open(self, call: CallInfo, owner: Owner) -> Any:
        return self._open()


# --- voices --------------------------------------------------------------------------------------------------

Step = bytes | float | Exception


class Voice(Part):
    def __init__(self, vendor: VoiceVendor) -> None:
        super().__init__()
        self._vendor = vendor

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        vendor = self._vendor
        vendor.texts.append(text)
        script = vendor.scripts.pop(0) if vendor.scripts else vendor.usual
        steps = script(speak(text, LINE))
        send, receive = trio.open_memory_channel[bytes](0)
        failure: list[Exception] = []

        async def run() -> None:
            with send:
                for step in steps:
                    if isinstance(step, Exception):
                        failure.append(step)
                        return
                    if isinstance(step, bytes):
                        await send.send(step)
                    else:
                        await trio.sleep(step)

        class Channel(trio.abc.ReceiveChannel[bytes]):
            async def receive(self) -> bytes:
                try:
                    return await receive.receive()
                except trio.EndOfChannel:
                    if failure:
                        raise failure[0] from None
                    raise

            async def aclose(self) -> None:
                await receive.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield Channel()
            nursery.cancel_scope.cancel()


def pieces(audio: bytes, length_s: float = 0.2) -> list[bytes]:
    size = round(length_s * LINE.bytes_per_s)
    return [audio[at : at + size] for at in range(0, len(audio), size)]


class VoiceVendor(PuppetVendor):
    """``scripts``: for each speech, from its audio to what comes and when; then ``usual``."""

    def __init__(self, name: str = "one", **more: Any) -> None:
        super().__init__(name, **more)
        self.scripts: list[Callable[[bytes], Sequence[Step]]] = []
        self.usual: Callable[[bytes], Sequence[Step]] = lambda audio: [0.1, *pieces(audio)]
        self.texts: list[str] = []

    def make(self) -> Voice:
        return Voice(self)

    def open(self, call: CallInfo, owner: Owner) -> Any:
        return self._open()


# --- minds ---------------------------------------------------------------------------------------------------

Thought = Sequence[ModelPart | float | Exception]


class Mind(Part):
    def __init__(self, vendor: MindVendor) -> None:
        super().__init__()
        self._vendor = vendor

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ModelPart]]:
        vendor = self._vendor
        vendor.contexts.append(context)
        vendor.asked_at_s.append(trio.current_time())
        thought = vendor.thoughts.pop(0) if vendor.thoughts else vendor.usual
        vendor.replies_open += 1
        try:
            yield _Thinking(thought)
        finally:
            vendor.replies_open -= 1


class _Thinking(trio.abc.ReceiveChannel[ModelPart]):
    def __init__(self, thought: Thought) -> None:
        self._left = list(thought)

    async def receive(self) -> ModelPart:
        while self._left:
            part = self._left.pop(0)
            if isinstance(part, float):
                await trio.sleep(part)
            elif isinstance(part, Exception):
                raise part
            else:
                await trio.lowlevel.checkpoint()
                return part
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class MindVendor(PuppetVendor):
    def __init__(self, name: str = "one", *thoughts: Thought, **more: Any) -> None:
        super().__init__(name, **more)
        self.thoughts = list(thoughts)
        self.usual: Thought = ["All is well."]
        self.contexts: list[Context] = []
        self.asked_at_s: list[float] = []
        self.replies_open = 0

    def make(self) -> Mind:
        return Mind(self)

    def open(self, session: SessionInfo, owner: Owner) -> Any:
        return self._open()


# --- speech to speech -----------------------------------------------------------------------------------------


class Soul(Part):
    """``did`` is all that it was told to."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.did: list[tuple[str, object]] = []
        self._send, self._receive = trio.open_memory_channel[RealtimeEvent | Exception](math.inf)

    def send(self, audio: bytes) -> None:
        self.heard.append(audio)

    async def receive(self) -> RealtimeEvent:
        event = await self._receive.receive()
        if isinstance(event, Exception):
            raise event
        return event

    def say(self, text: str) -> None:
        self.did.append(("say", text))

    def told(self, text: str) -> None:
        self.did.append(("told", text))

    def interrupt(self, heard_s: float) -> None:
        self.did.append(("interrupt", heard_s))

    def heard_on(self, text: str) -> None:
        self.did.append(("heard on", text))

    def tool_results(self, results: Sequence[ToolResult]) -> None:
        self.did.append(("results", tuple(results)))

    def tells(self, *events: RealtimeEvent) -> None:
        for event in events:
            self._send.send_nowait(event)

    def breaks(self, why: Why = Why.CUT) -> None:
        self._send.send_nowait(ModelFailed("one", "gone", why=why))


class SoulVendor(PuppetVendor):
    renew_after_s = math.inf

    def __init__(self, name: str = "one", **more: Any) -> None:
        super().__init__(name, **more)
        self.contexts: list[Context] = []
        self.on_open: Callable[[], None] = lambda: None

    def make(self) -> Soul:
        self.on_open()
        return Soul()

    def open(self, call: CallInfo, session: SessionInfo, context: Context, owner: Owner) -> Any:
        self.contexts.append(context)
        return self._open()


def failed(
    why: Why = Why.UNREACHABLE, *, of: type[VendorError] = SpeechFailed, after_s: float | None = None
) -> Exception:
    return of("one", "refused", why=why, retry_after_s=after_s)
