"""Twilio's ConversationRelay: Twilio hears and speaks, and text comes and goes over a socket."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree as ET

import orjson
import structlog

from adapters.providers.documents import ask_again, beside, xml_answer
from adapters.providers.fields import is_id, printable, read_object, read_parameters
from adapters.providers.media_fields import read_dtmf, read_message
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, CutOff, Prompt, RelayEvent, Speaking, StreamStarted, TextPlayed
from engine.ports import Answer, IncomingCall

log = structlog.get_logger()

_END: Final = '{"type":"end","handoffData":"{}"}'
_EVENTS: Final = "speaker-events tokens-played"
"""That tell how far an utterance has come, which is else an estimate."""
_SPEAKERS: Final = {"agentSpeaking": True, "clientSpeaking": False}
_MAX_TEXT_CHARS: Final = 16_000
"""Of what one message says that somebody has said."""
_MAX_COMPLAINTS: Final = 3
"""Logged of one socket."""
_MAX_COMPLAINT_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """The attributes of ``<ConversationRelay>``; an empty one is left to Twilio."""

    language: str = ""
    """Of both hearing and speaking, such as ``en-US``."""
    voice: str = ""
    tts_provider: str = ""
    transcription_provider: str = ""
    speech_model: str = ""
    interruptible: str = ""
    """What cuts speech off: ``none``, ``dtmf``, ``speech`` or ``any``."""
    interrupt_sensitivity: str = ""
    """``low``, ``medium`` or ``high``."""
    hints: str = ""
    """Words to expect, separated by commas."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further attributes under Twilio's own names."""


class TwilioRelay:
    """The ``Relay`` of Twilio. What is said first comes from us as text, as all else, so that it is in the history."""

    media_path: str = "/media/twilio-relay"

    def __init__(self, config: RelayConfig | None = None, voice_path: str = "/voice") -> None:
        """``voice_path``: the webhook for calls."""
        self._voice_path = voice_path
        config = config or RelayConfig()
        named = {
            "language": config.language,
            "voice": config.voice,
            "ttsProvider": config.tts_provider,
            "transcriptionProvider": config.transcription_provider,
            "speechModel": config.speech_model,
            "interruptible": config.interruptible,
            "interruptSensitivity": config.interrupt_sensitivity,
            "hints": config.hints,
            "dtmfDetection": "true",
            "events": _EVENTS,
        }
        self._attributes = {name: printable(value) for name, value in (named | dict(config.options)).items() if value}

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """Once the socket has closed, the call goes on with what follows: asking our webhook for calls again."""
        response = ET.Element("Response")
        connect = ET.SubElement(response, "Connect")
        relay = ET.SubElement(connect, "ConversationRelay", self._attributes | {"url": printable(media_url)})
        ET.SubElement(relay, "Parameter", name="token", value=printable(token))
        ask_again(response, beside(media_url, self.media_path, self._voice_path), token)
        return xml_answer(response)

    def new_codec(self) -> TwilioRelayCodec:
        return TwilioRelayCodec()


class TwilioRelayCodec:
    """The ``TextCodec`` of one ConversationRelay socket. It writes no message that Twilio does not know: ten in a row
    would close the socket."""

    __slots__ = ("_call_id", "_complaints")

    ends_by_close: bool = True
    """There is no other sign that the caller has hung up."""

    def __init__(self) -> None:
        self._call_id = ""
        self._complaints = 0

    def decode_start(self, message: str | bytes) -> StreamStarted | None:
        """``setup``. Raises ProtocolError for all else."""
        data = read_object(message) if isinstance(message, str) else None
        if data is None:
            raise ProtocolError("no JSON object as the first message")
        if data.get("type") != "setup":
            raise ProtocolError("unexpected message before setup")
        call_id: object = data.get("callSid")
        stream_id: object = data.get("sessionId")
        if not is_id(call_id):
            raise ProtocolError("setup without a usable callSid")
        if not is_id(stream_id):
            raise ProtocolError("setup without a usable sessionId")
        parameters = read_parameters(data.get("customParameters") or {})
        if parameters is None:
            raise ProtocolError("setup with unusable customParameters")
        token = parameters.pop("token", "")
        self._call_id = call_id
        return StreamStarted(call_id, stream_id, MULAW_8K, token, parameters)

    def decode(self, message: str | bytes) -> RelayEvent | None:
        """None for what is of no use here, also for its complaints, which are logged."""
        data = read_message(message)
        kind = data.get("type")
        if not isinstance(kind, str):
            raise BadMessage("shape")
        match kind:
            case "prompt":
                return Prompt(_text(data, "voicePrompt"), data.get("last", True) is not False)
            case "interrupt":
                return CutOff(_text(data, "utteranceUntilInterrupt"), _seconds(data.get("durationUntilInterruptMs")))
            case "dtmf":
                return read_dtmf(data)
            case "info":
                return _read_info(data)
            case "error":
                self._complain(data.get("description"))
                return None
            case "setup":
                raise ProtocolError("a second setup message")
        return None  # younger than this code

    def encode_text(self, text: str, *, is_last: bool) -> str:
        return orjson.dumps({"type": "text", "token": printable(text), "last": is_last}).decode()

    def encode_digits(self, digits: str) -> str:
        return orjson.dumps({"type": "sendDigits", "digits": digits}).decode()

    def encode_end(self) -> str:
        return _END

    def _complain(self, description: object) -> None:
        """Up to the colon: behind it stands what we sent, which may be what was said."""
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            what = printable(str(description).partition(":")[0][:_MAX_COMPLAINT_CHARS])
            log.warning("provider_complains", provider="twilio", call_id=self._call_id, code=what)


def _read_info(data: dict[str, Any]) -> TextPlayed | Speaking | None:
    name = data.get("name")
    if name == "tokensPlayed":
        return TextPlayed(_text(data, "value"))
    if isinstance(name, str) and name in _SPEAKERS and data.get("value") in ("on", "off"):
        return Speaking(is_agent=_SPEAKERS[name], is_on=data["value"] == "on")
    return None


def _text(data: dict[str, Any], name: str) -> str:
    value: object = data.get(name, "")
    if not isinstance(value, str):
        raise BadMessage("shape")
    return value[:_MAX_TEXT_CHARS]


def _seconds(milliseconds: object) -> float:
    """A number, which Twilio has written as a string as well; 0 for anything else."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float | str):
        return 0.0
    try:
        seconds = float(milliseconds) / 1000
    except (ValueError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
