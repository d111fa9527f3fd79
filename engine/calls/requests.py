"""What people ask of a live call from outside: to say something, to connect the caller to somebody else."""

from __future__ import annotations

import trio

from engine.calls.rest import CallRest
from engine.calls.slots import Slot, Transferring
from engine.calls.talks.conversing import Conversing
from engine.calls.talks.errands import leave
from engine.calls.talks.watch import watch
from engine.errors import CallEnd, Cause
from engine.events import Transfer


class Requests:
    """Of one call; they come through its slot. ``beside`` runs beside the talk, in its nursery: what is asked of the
    call is done in the call."""

    def __init__(self, slot: Slot, rest: CallRest) -> None:
        self._rest = rest
        self._talk: Conversing | None = None
        self._early: tuple[str, CallEnd | None] | None = None
        """To be said as soon as there is a talk."""
        self._nursery: trio.Nursery | None = None
        self._is_transferring = False
        slot.on_say, slot.on_transfer = self._say, self._transfer

    async def beside(self, talk: Conversing) -> None:
        """Watches the talk that has the line now, and does what is asked, until cancelled."""
        self._talk = talk
        if self._early is not None:
            (text, then), self._early = self._early, None
            talk.say(text, then=then)
        try:
            async with trio.open_nursery() as self._nursery:
                await watch(talk)
        finally:
            self._nursery = None

    def _say(self, text: str, then: CallEnd | None) -> None:
        if self._talk is None:
            self._early = (text, then)
        else:
            self._talk.say(text, then=then)

    def _transfer(self, wanted: Transferring) -> bool:
        """One at a time."""
        if self._nursery is None or self._talk is None or self._is_transferring:
            return False
        self._is_transferring = True
        self._nursery.start_soon(self._connect, self._talk, wanted)
        return True

    async def _connect(self, talk: Conversing, wanted: Transferring) -> None:
        pulse = talk.ground.pulse
        try:
            wanted.is_connected = await leave(Transfer(wanted.to, wanted.summary), pulse, self._rest.transfer)
            wanted.failure = None if wanted.is_connected else self._rest.failure
        finally:
            # The provider may have taken the media away before it answered: the talk has ended by that.
            if pulse.verdict is not None and pulse.verdict.cause is Cause.TRANSFERRED:
                wanted.is_connected = True
            self._is_transferring = False
            wanted.done.set()
