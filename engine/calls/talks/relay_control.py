"""What tools may do to a call whose provider takes text: keys are pressed over its socket."""

from __future__ import annotations

import trio

from engine.calls.text_link import TextLink
from engine.ports import Ability, CallControl


class RelayControl:
    """Implements ``engine.ports.CallControl``."""

    def __init__(self, inner: CallControl, link: TextLink) -> None:
        self._inner = inner
        self._link = link

    @property
    def abilities(self) -> frozenset[Ability]:
        return self._inner.abilities | {Ability.PRESS_DIGITS}

    async def send_text(self, text: str) -> None:
        await self._inner.send_text(text)

    async def press(self, digits: str) -> None:
        await trio.lowlevel.checkpoint()
        self._link.press(digits)

    async def certain(self) -> None:
        await self._inner.certain()
