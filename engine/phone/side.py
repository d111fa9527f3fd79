"""What a provider's side of a call consists of, whichever provider it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from engine.events import AudioFormat

Wired = Sequence[str | bytes]


@dataclass(frozen=True, slots=True)
class Callee:
    """Where a call goes, and as whom."""

    base_url: str
    """``http://host:port`` of the engine: its webhooks are below it."""
    caller: str = "+15005550006"
    dialled: str = "+15005550001"
    secret: str = ""
    """Key that signs the webhooks; empty leaves them unsigned."""
    public_url: str = ""
    """The address that is signed, when the engine is reached under another one than it believes to have."""
    call_id: str = ""
    """The provider's id of the call; empty makes a new one."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further fields of the webhook."""
    attestation: str = ""
    """How far the caller's carrier vouches for the number, if the provider tells: ``A``, ``B``, ``C``, or empty for not
    at all."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The engine's answer document: connect the call to this socket."""

    url: str
    format: AudioFormat
    headers: Mapping[str, str]
    """HTTP headers of the socket's handshake."""
    then: str = ""
    """What is asked once the socket is gone and the caller is still there; empty: the call ends."""


@dataclass(frozen=True, slots=True)
class Play:
    audio: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """Wants an echo, under this key, once everything before it has been played."""

    key: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Drop what is queued."""


@dataclass(frozen=True, slots=True)
class Back:
    """A caller who is there when the media socket is not; ``url`` is asked, or what the last answer named for that."""

    url: str = ""
    news: Mapping[str, str] = field(default_factory=dict)
    """Further fields."""


Command = Play | Mark | Clear
Violation = Callable[[str], None]
"""Called with what the engine did wrong. Static words and field names, no audio."""


class ProviderSide(Protocol):
    """One call of one provider. Codec and webhooks; the socket is somebody else's."""

    name: str
    call_id: str
    stream_id: str
    format: AudioFormat
    buffer_s: float
    """How much audio it queues; what exceeds that is lost."""

    async def dial(self, client: httpx.AsyncClient) -> Answered:
        """Post the webhook of an incoming call. Raises CallRefused, CallFailed."""
        ...

    async def again(self, back: Back, client: httpx.AsyncClient) -> Answered:
        """Ask what is to become of the caller, now that the media socket is gone. Raises CallRefused, with nothing
        said, if the call ends; CallFailed."""
        ...

    async def completed(self, client: httpx.AsyncClient, duration_s: float) -> int:
        """Post that the call is over; the HTTP status of the answer."""
        ...

    def opening(self) -> Wired:
        """What is sent when the socket has opened."""
        ...

    def media(self, frame: bytes) -> str | bytes: ...

    def dtmf(self, digit: str) -> str | bytes: ...

    def stop(self) -> Wired:
        """What is sent before the socket is closed because the caller hangs up."""
        ...

    def read(self, message: str | bytes, violation: Violation) -> Command | None:
        """One message of the engine, checked to the letter. None for one that is ignored."""
        ...

    def mark_played(self, key: str) -> str | bytes: ...

    def cleared(self, pending: Sequence[str]) -> Wired:
        """What is sent after the buffer was dropped; ``pending`` are the marks that were in it."""
        ...
