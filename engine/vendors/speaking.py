"""The voice of a call that outlives its synthesizers: a sentence in which one of them fails is finished by another try,
or in another vendor's voice, from the word at which it broke off or a few before (:mod:`engine.vendors.seam`)."""

from __future__ import annotations

import math
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
from engine.vendors.seam import Pace, rest_of
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
            try:
                held = await self._voice_of(vendor, tries)
                await self._say(held, speech, tries.left_s)
            except VendorError as exc:
                self._is_lost(exc)
                if speech.has_sounded:
                    tries.progressed(speech.said_at_s)
                    speech.go_on(self._around.pace(vendor.name))
                if not has_words(speech.text):
                    return
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
                what = "stopped in the middle of a sentence" if speech.has_sounded else "made no sound"
                raise SpeechFailed(vendor, what, why=Why.TIMEOUT)
            if not speech.has_sounded and has_words(speech.text):
                raise SpeechFailed(vendor, "no audio for a sentence")
        self._around.pace(vendor).measure(speech.text, speech.said_s)


class _Speech:
    """One sentence over several tries; of each, what is passed on as it comes."""

    def __init__(self, text: str, bytes_per_s: int, outlet: Outlet[bytes]) -> None:
        self.text = text
        """What this try is to say."""
        self.said_s = 0.0
        """Passed on of it; the last of that at:"""
        self.said_at_s = -math.inf
        self.made: Callable[[float], None] = _nowhere
        """Is told the seconds that were made."""
        self._bytes_per_s = bytes_per_s
        self._outlet = outlet

    @property
    def has_sounded(self) -> bool:
        return self.said_s > 0

    def go_on(self, pace: Pace) -> None:
        """This try, in a voice of this pace, has failed: the next one is to say the rest."""
        self.text, self.said_s = rest_of(self.text, self.said_s, pace), 0.0

    async def take(self, synthesizer: Synthesizer, patience: Patience) -> None:
        """One try to its end. Raises SpeechFailed."""
        waited_s = 0.0
        patience.await_first()
        async with synthesizer.open_speech(self.text) as pieces:
            while True:
                began_at_s = trio.current_time()
                try:
                    piece = await pieces.receive()
                except trio.EndOfChannel:
                    return
                if self.has_sounded:
                    waited_s += trio.current_time() - began_at_s
                seconds = len(piece) / self._bytes_per_s
                self.made(seconds)
                patience.await_listener()
                await self._outlet.put(piece)
                self.said_s += seconds
                self.said_at_s = trio.current_time()
                patience.await_more(max(0.0, waited_s - self.said_s))


def has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _nowhere(_: float) -> None: ...


def _owned(vendor: SynthesizerVendor, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
    opening = vendor.open(call, owner)
    return owner.own(ResourceKind.TTS_CLIENT, vendor.name, opening, is_closed=lambda voice: voice.is_closed)
