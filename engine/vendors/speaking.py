"""The voice of a call that outlives its synthesizers: a sentence in which one of them fails is finished by another try,
or in another vendor's voice, and nothing of it is heard twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import trio

from engine.errors import SpeechFailed, VendorError, Why
from engine.events import CallInfo
from engine.observe.labels import Reconnect, SpeechKind, VendorKind
from engine.ports import Owner, ResourceKind, Synthesizer, SynthesizerVendor
from engine.runtime.background import beside, ungrouped
from engine.runtime.outlet import Outlet, filled
from engine.vendors.around import Vendoring, reconnect_why
from engine.vendors.held import Held, Opener
from engine.vendors.patience import Patience
from engine.vendors.tries import Roster, Tries

ROOM = 1
"""Pieces of audio made and not taken; then the vendor waits."""


@asynccontextmanager
async def open_synthesizer(
    vendors: Sequence[SynthesizerVendor], call: CallInfo, owner: Owner, around: Vendoring
) -> AsyncIterator[Speaking]:
    """A synthesizer of the first of these vendors that can be had. Each is in the owner's ledger under its vendor.
    Raises SpeechFailed. Leaving the block closes politely."""
    async with beside() as nursery:
        speaking = Speaking(vendors, call, owner, around, nursery)
        await speaking.connect()
        yield speaking
        await speaking.close()


class Speaking:
    """Implements ``engine.ports.Synthesizer``. One speech at a time."""

    def __init__(
        self,
        vendors: Sequence[SynthesizerVendor],
        call: CallInfo,
        owner: Owner,
        around: Vendoring,
        nursery: trio.Nursery,
    ) -> None:
        self._line = call.format
        self._around = around
        self._policy = around.policy
        self._roster = Roster(vendors, VendorKind.TTS, around, SpeechFailed, call_id=call.call_id)
        self._opener: Opener[SynthesizerVendor, Synthesizer] = Opener(
            self._roster, nursery, lambda vendor: _owned(vendor, call, owner)
        )
        self._held: Held[SynthesizerVendor, Synthesizer] | None = None
        self._lost: tuple[SynthesizerVendor, Reconnect] | None = None
        """Whose connection failed last."""

    @property
    def is_closed(self) -> bool:
        return self._opener.is_closed

    @property
    def vendor(self) -> str:
        """See ``engine.ports.Backed``."""
        return self._roster.current.name

    async def connect(self) -> None:
        """Raises SpeechFailed."""
        self._held = await self._opener.open(within_s=self._policy.open_s)

    async def close(self) -> None:
        await self._opener.close()

    def open_speech(self, text: str) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        """See ``engine.ports.Synthesizer.open_speech``."""
        return filled(ROOM, partial(self._speak, text))

    async def _speak(self, text: str, outlet: Outlet[bytes]) -> None:
        """Raises SpeechFailed when nobody can say it, or the rest of it."""
        policy = self._policy
        tries = self._roster.tries(within_s=policy.answer_s, most=policy.speech_tries, is_live=True)
        speech = _Speech(text, self._line.bytes_per_s, outlet)
        while True:
            vendor = await tries.next()
            said = speech.said_bytes
            try:
                held = await self._voice_of(vendor, tries)
                await self._say(held, speech, tries.left_s)
            except VendorError as exc:
                self._is_lost(exc)
                if speech.said_bytes > said:
                    tries.progressed()
                tries.failed(exc)
            else:
                return

    async def _voice_of(
        self, vendor: SynthesizerVendor, tries: Tries[SynthesizerVendor]
    ) -> Held[SynthesizerVendor, Synthesizer]:
        held = self._held
        if held is not None and held.vendor is vendor and not held.gone.is_set():
            return held
        if held is not None:
            held.let_go()
            self._held = None
        self._held = held = await self._opener.try_once(vendor, min(self._policy.try_s, tries.left_s))
        if self._lost is not None and self._lost[0] is vendor:
            self._around.reconnected(vendor.name, VendorKind.TTS, self._lost[1])
        self._lost = None
        return held

    def _is_lost(self, failure: VendorError) -> None:
        """What failed once is not spoken with again: its connection may be dead."""
        if self._held is not None and failure.why is not Why.RATE_LIMITED:
            self._lost = (self._held.vendor, reconnect_why(failure.why))
            self._held.cut()
            self._held = None

    async def _say(self, held: Held[SynthesizerVendor, Synthesizer], speech: _Speech, within_s: float) -> None:
        """One try. Raises SpeechFailed."""
        vendor, metrics = held.vendor.name, self._around.metrics
        metrics.tts_characters_total.labels(vendor=vendor).inc(len(speech.text))
        speech.made = metrics.speech_audio_seconds_total.labels(vendor=vendor, kind=SpeechKind.TTS).inc
        with self._around.asked(vendor, VendorKind.TTS):
            patience = Patience(min(self._policy.first_sound_s, within_s), self._policy.sound_gap_s)
            with patience.scope, ungrouped():
                await speech.take(held.part, patience)
            if patience.is_over:
                what = "stopped in the middle of a sentence" if speech.has_begun else "made no sound"
                raise SpeechFailed(vendor, what, why=Why.TIMEOUT)
            if not speech.said_bytes and any(map(str.isalnum, speech.text)):
                raise SpeechFailed(vendor, "no audio for a sentence")


class _Speech:
    """One sentence over several tries. A further one begins with the first word, and what of it was passed on before
    is left out, counted in time: a voice takes as long for the same words, and another one about as long."""

    def __init__(self, text: str, bytes_per_s: int, outlet: Outlet[bytes]) -> None:
        self.text = text
        self.said_bytes = 0
        self.has_begun = False
        """In this try."""
        self.made: Callable[[float], None] = _nowhere
        """Is told the seconds that were made."""
        self._bytes_per_s = bytes_per_s
        self._outlet = outlet

    async def take(self, synthesizer: Synthesizer, patience: Patience) -> None:
        """One try to its end. Raises SpeechFailed."""
        self.has_begun = False
        left_out, waited_s, made_s = self.said_bytes, 0.0, 0.0
        patience.await_first()
        async with synthesizer.open_speech(self.text) as pieces:
            while True:
                began_at_s = trio.current_time()
                try:
                    piece = await pieces.receive()
                except trio.EndOfChannel:
                    return
                if self.has_begun:
                    waited_s += trio.current_time() - began_at_s
                self.has_begun = True
                seconds = len(piece) / self._bytes_per_s
                made_s += seconds
                self.made(seconds)
                rest = piece[left_out:]
                left_out -= len(piece) - len(rest)
                if rest:
                    patience.await_listener()
                    await self._outlet.put(rest)
                    self.said_bytes += len(rest)
                patience.await_more(max(0.0, waited_s - made_s))


def _nowhere(_: float) -> None: ...


def _owned(vendor: SynthesizerVendor, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
    opening = vendor.open(call, owner)
    return owner.own(ResourceKind.TTS_CLIENT, vendor.name, opening, is_closed=lambda voice: voice.is_closed)
