"""What an agent may do to its call besides speaking."""

from __future__ import annotations

from typing import Protocol

from engine.ports.telephony import Ability


class CallControl(Protocol):
    """One call, or one written turn, as its tools see it. The caller's number is the call's own: no tool and no model
    can name another one."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """What can be done here; tools for anything else are not offered."""
        ...

    async def send_text(self, text: str) -> None:
        """An SMS to the caller. Raises VendorError, trio.TooSlowError."""
        ...

    async def press(self, digits: str) -> None:
        """Key tones into the call (0-9, *, #, w). Raises VendorError, trio.TooSlowError."""
        ...

    async def certain(self) -> None:
        """Until it is certain that what is being thought of is to be said: before that, nothing is done that cannot be
        undone."""
        ...


class NoControl:
    """Where nothing can be done."""

    abilities: frozenset[Ability] = frozenset()

    async def send_text(self, text: str) -> None:
        raise NotImplementedError

    async def press(self, digits: str) -> None:
        raise NotImplementedError

    async def certain(self) -> None:
        pass


NO_CONTROL = NoControl()
