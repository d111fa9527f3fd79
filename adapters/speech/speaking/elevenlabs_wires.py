"""The two WebSocket wires of ElevenLabs' text to speech. Pure.

In ``stream-input`` a socket speaks one text: the empty text ends it, and nothing but closing it stops what is being
spoken. In ``multi-stream-input`` a socket has contexts, at most five at once; a context that was closed behind its
text is spoken to its end and then says so, and what comes of it after a barge-in is told by its id.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.speech.speaking.socket_voice import Over
from adapters.speech.speaking.spoken import audio_of, closed_error, given
from engine.errors import BadMessage, SpeechFailed, Why
from engine.runtime.feed import Message
from engine.runtime.vendor_json import object_of, packed, word_of

MAX_CONTEXTS = 5
"""Of one socket at once; the vendor closes it over a sixth."""

_WHY = {
    "invalid_api_key": Why.AUTH,
    "missing_api_key": Why.AUTH,
    "unauthorized": Why.AUTH,
    "missing_permissions": Why.AUTH,
    "detected_unusual_activity": Why.AUTH,
    "quota_exceeded": Why.AUTH,
    "rate_limit_exceeded": Why.RATE_LIMITED,
    "too_many_concurrent_requests": Why.RATE_LIMITED,
    "max_active_conversations": Why.RATE_LIMITED,
    "system_busy": Why.UNREACHABLE,
    "input_timeout_exceeded": Why.CUT,
    "voice_not_found": Why.BAD_REQUEST,
    "voice_id_does_not_exist": Why.BAD_REQUEST,
    "model_not_found": Why.BAD_REQUEST,
    "invalid_model": Why.BAD_REQUEST,
    "unsupported_output_format": Why.BAD_REQUEST,
    "invalid_uid": Why.BAD_REQUEST,
}


class OneTextWire:
    """``stream-input``. Implements ``adapters.speech.speaking.socket_voice.SpeechWire``."""

    def __init__(self, vendor: str, voice_settings: Mapping[str, Any]) -> None:
        self.is_spent = False
        self._vendor = vendor
        self._settings = voice_settings
        self._is_wanted = False
        self._has_sounded = False

    def greet(self) -> Sequence[Message]:
        return [packed(given({"text": " ", "voice_settings": self._settings}))]

    def speak(self, text: str) -> Sequence[Message]:
        self.is_spent = self._is_wanted = True
        return [packed({"text": f"{text} ", "flush": True}), packed({"text": ""})]

    def cancel(self) -> Sequence[Message]:
        self._is_wanted = False
        return []

    def keep_alive(self) -> Message | None:
        return None if self.is_spent else packed({"text": " "})

    def decode(self, message: Message) -> Sequence[bytes | Over]:
        fields = object_of(message)
        _raise_error(self._vendor, fields)
        if not self._is_wanted:
            return ()
        parts: list[bytes | Over] = []
        if fields.get("audio"):
            parts.append(audio_of(fields["audio"]))
            self._has_sounded = True
        if fields.get("isFinal") is True:
            parts.append(Over())
            self._is_wanted = False
        return parts

    def ended(self, code: int) -> SpeechFailed | None:
        return None if code == 1000 and self._has_sounded else closed_error(self._vendor, code)


class ContextsWire:
    """``multi-stream-input``. Implements ``adapters.speech.speaking.socket_voice.SpeechWire``.

    The next text's context is opened beforehand: it is what is kept alive between two texts.
    """

    def __init__(self, vendor: str, voice_settings: Mapping[str, Any]) -> None:
        self._vendor = vendor
        self._settings = voice_settings
        self._prefix = uuid.uuid4().hex[:8]
        self._numbers = itertools.count(1)
        self._open: set[str] = set()
        """Contexts of which the vendor has not said that they are over."""
        self._next = ""
        self._wanted = ""

    @property
    def is_spent(self) -> bool:
        """Too many contexts are still being spoken, to nobody."""
        return len(self._open) >= MAX_CONTEXTS

    def greet(self) -> Sequence[Message]:
        return [self._new_context()]

    def speak(self, text: str) -> Sequence[Message]:
        messages = [] if self._next in self._open else [self._new_context()]
        context_id = self._wanted = self._next
        return [
            *messages,
            packed({"text": f"{text} ", "context_id": context_id}),
            packed({"context_id": context_id, "flush": True}),
            packed({"context_id": context_id, "close_context": True}),
            self._new_context(),
        ]

    def cancel(self) -> Sequence[Message]:
        """Its context was closed when it was asked for. There is no more that could be said of it."""
        self._wanted = ""
        return []

    def keep_alive(self) -> Message:
        if self._next not in self._open:
            return self._new_context()
        return packed({"text": "", "context_id": self._next})

    def decode(self, message: Message) -> Sequence[bytes | Over]:
        fields = object_of(message)
        _raise_error(self._vendor, fields)
        context_id = fields.get("contextId")
        if not isinstance(context_id, str):
            if fields.get("audio"):
                raise BadMessage("shape")
            return ()
        is_over = fields.get("isFinal") is True
        if is_over:
            self._open.discard(context_id)
        if context_id != self._wanted:
            return ()
        parts: list[bytes | Over] = []
        if fields.get("audio"):
            parts.append(audio_of(fields["audio"]))
        if is_over:
            parts.append(Over())
            self._wanted = ""
        return parts

    def ended(self, code: int) -> SpeechFailed | None:
        return closed_error(self._vendor, code)

    def _new_context(self) -> Message:
        self._next = f"{self._prefix}-{next(self._numbers)}"
        self._open.add(self._next)
        return packed(given({"text": " ", "voice_settings": self._settings, "context_id": self._next}))


def _raise_error(vendor: str, fields: Mapping[str, Any]) -> None:
    error = fields.get("error")
    if error is None:
        return
    word = word_of(error)
    raise SpeechFailed(vendor, f"says {word}", why=_WHY.get(word, Why.FAILED))
