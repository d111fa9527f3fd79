"""What the web side asks of the calls behind it."""

from __future__ import annotations

from typing import Protocol

from engine.ports import CallStatus, IncomingCall, Provider, Relay
from engine.runtime.sockets import Socket


class Refusal(Protocol):
    """Why a call was not admitted."""

    @property
    def reason(self) -> str:
        """``capacity``, ``rate_limit``, ``draining``, ``not_ready``; or ``over``, of a call that has ended."""
        ...

    @property
    def sentence(self) -> str:
        """What the caller hears; empty: nothing."""
        ...


class Switchboard(Protocol):
    @property
    def capacity(self) -> int: ...

    @property
    def draining(self) -> bool: ...

    @property
    def ready(self) -> tuple[bool, str]:
        """Whether calls are taken, and if not why: ``draining``, ``full``, ``starting``, ``loop_lag`` or
        ``store_keys``."""
        ...

    @property
    def lacks(self) -> list[str]:
        """What calls go on without at the moment: ``store_down``, ``stt:deepgram`` for a vendor in its role."""
        ...

    def live_calls(self) -> list[str]:
        """The providers' ids of the live calls."""
        ...

    async def admit(self, provider: str, call: IncomingCall, replay_key: str) -> str | Refusal:
        """A media token, or why not. Equal keys get equal answers."""
        ...

    async def serve(self, provider: Provider, socket: Socket) -> None:
        """The whole life of one media socket."""
        ...

    async def serve_relay(self, provider: Provider, relay: Relay, socket: Socket) -> None:
        """The same of a socket over which the provider sends what it has heard, and says what we send."""
        ...

    def preface(self, call: IncomingCall) -> str:
        """What the provider is to say before it connects the call; empty: nothing."""
        ...

    def wants_relay(self, call: IncomingCall) -> bool:
        """Who answers leaves it to the provider to hear and to speak."""
        ...

    def recognise(self, provider: str, call: IncomingCall, token: str) -> IncomingCall | None:
        """The call that we made under this token, with its place; None if there is none, or none any more."""
        ...

    def whisper(self, provider: str, call_id: str) -> str:
        """What somebody is told who is about to be joined with this call's caller; empty: nothing."""
        ...

    def call_has_news(self, provider: str, status: CallStatus, token: str) -> None:
        """A status webhook said so; unknown ids are fine. ``token``: of a call that we make, or empty."""
        ...
