"""Deepgram Aura, text to speech over a WebSocket (version 1).

Audio comes without any id: after a ``Clear``, everything up to ``Cleared`` belongs to what nobody wants any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from urllib.parse import urlencode

import trio

from adapters.speech.speaking.socket_voice import Over, SocketVoice, open_synthesizer
from adapters.speech.speaking.spoken import closed_error, given
from engine.errors import SpeechFailed, Why
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner, Synthesizer
from engine.runtime.feed import Message
from engine.runtime.network import Network
from engine.runtime.vendor_json import object_of, packed, word_of

MAX_FLUSHES = 20
"""In a minute, on one socket; the vendor ignores more of them."""
FLUSH_WINDOW_S = 60.0

_FLUSHES = packed({"type": "Flush"})
_CLEARS = packed({"type": "Clear"})


@dataclass(frozen=True, slots=True)
class AuraConfig:
    key: str = field(repr=False)
    model: str = "aura-2-thalia-en"
    """Model, voice and language in one."""
    name: str = "aura"
    """Metric label."""
    url: str = "wss://api.deepgram.com/v1/speak"
    speed: float | None = None
    """0.7 to 1.5; empty: as the voice is."""
    max_chars: int = 1800
    """Longest text at once; the vendor takes 2,000."""
    query: Mapping[str, str] = field(default_factory=dict)
    """More of the vendor's query parameters, as they are sent."""


class AuraSynthesizerVendor:
    """Implements ``engine.ports.SynthesizerVendor``. Takes every format of a line as it is."""

    def __init__(self, config: AuraConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """Raises SpeechFailed."""
        config = self._config
        voice = SocketVoice(
            vendor=config.name,
            url=f"{config.url}?{urlencode(_query(config, call.format))}",
            headers={"authorization": f"Token {config.key}"},
            wire=lambda: AuraWire(config.name, trio.current_time),
            source=call.format,
            max_chars=config.max_chars,
        )
        return open_synthesizer(voice, self._network, call)


class AuraWire:
    """Implements ``adapters.speech.speaking.socket_voice.SpeechWire``. ``clock``: monotonic seconds."""

    def __init__(self, vendor: str, clock: Callable[[], float]) -> None:
        self._vendor = vendor
        self._clock = clock
        self._flushed_at_s: deque[float] = deque(maxlen=MAX_FLUSHES)
        self._is_wanted = False
        self._has_sounded = False
        self._clears = 0
        """Asked for and not yet answered."""
        self._stale_flushes = 0
        """Of cancelled texts, of which it is open whether they will still be answered."""
        self._is_stuck = False

    @property
    def is_spent(self) -> bool:
        """No further flush is allowed yet, or a clear was not answered."""
        flushes = self._flushed_at_s
        is_limited = len(flushes) == MAX_FLUSHES and self._clock() - flushes[0] < FLUSH_WINDOW_S
        return self._is_stuck or is_limited

    def greet(self) -> Sequence[Message]:
        return []

    def speak(self, text: str) -> Sequence[Message]:
        self._is_wanted = True
        self._has_sounded = False
        self._flushed_at_s.append(self._clock())
        return [packed({"type": "Speak", "text": text}), _FLUSHES]

    def cancel(self) -> Sequence[Message]:
        if not self._is_wanted:
            return []
        self._is_wanted = False
        self._is_stuck = self._clears > 0
        self._clears += 1
        self._stale_flushes += 1
        return [_CLEARS]

    def keep_alive(self) -> None:
        """There is none: a socket that was closed in a long silence is opened anew."""

    def decode(self, message: Message) -> Sequence[bytes | Over]:
        if isinstance(message, bytes):
            if not self._is_wanted or self._clears or not message:
                return ()
            self._has_sounded = True
            return (message,)
        fields = object_of(message)
        match fields.get("type"):
            case "Cleared":
                self._clears = max(0, self._clears - 1)
            case "Flushed":
                return self._flushed()
            case "Warning":
                return self._warned(fields)
            case "Error":
                word = word_of(fields.get("code") or fields.get("err_code"))
                raise SpeechFailed(self._vendor, f"says {word}")
        return ()

    def ended(self, code: int) -> SpeechFailed | None:
        return closed_error(self._vendor, code)

    def _flushed(self) -> Sequence[Over]:
        if self._stale_flushes and (self._clears or not self._has_sounded):
            self._stale_flushes -= 1  # of a text that was cleared
            return ()
        if not self._is_wanted:
            return ()
        self._is_wanted = False
        self._stale_flushes = 0
        return (Over(),)

    def _warned(self, fields: Mapping[str, object]) -> Sequence[Over]:
        """Only of a flush that is not done does anything follow: the text's audio would never come."""
        said = f"{fields.get('code', '')} {fields.get('description', '')}".lower()
        if not self._is_wanted or "flush" not in said:
            return ()
        self._is_wanted = False
        self._is_stuck = True
        return (Over(SpeechFailed(self._vendor, "takes no more flushes for now", why=Why.RATE_LIMITED)),)


def _query(config: AuraConfig, line: AudioFormat) -> dict[str, object]:
    encoding = "mulaw" if line.encoding is Encoding.MULAW else "linear16"
    return given(
        {
            "model": config.model,
            "encoding": encoding,
            "sample_rate": line.rate_hz,
            "speed": config.speed,
            **config.query,
        }
    )
