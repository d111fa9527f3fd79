"""A provider's end of one media socket, as raw frames: right or wrong, as the test wants it."""

from __future__ import annotations

import base64
import itertools
from collections import Counter
from typing import Any

import orjson
import trio

from engine.events import AudioFormat
from engine.phone.phone import SIDES
from engine.phone.side import Callee, Clear, Mark, Play
from tests.fakes.hostile import BINARY, CLOSE, PING, PONG, TEXT, RawPeer, frame
from tests.fakes.plain_speech import frames_of, speak, words

PROVIDERS = ("twilio", "vonage")
EVERY_WIRE = (*PROVIDERS, "telnyx", "plivo")
"""SignalWire's is Twilio's."""
MEDIA_PATHS = {provider: f"/media/{provider}" for provider in EVERY_WIRE}
_numbers = itertools.count(1)


def wired(message: str | bytes) -> bytes:
    """The message as one frame."""
    return frame(TEXT, message.encode()) if isinstance(message, str) else frame(BINARY, message)


def as_json(value: object) -> str:
    return orjson.dumps(value).decode()


def new_call_id(provider: str) -> str:
    number = next(_numbers)
    forms = {"twilio": f"CA{number:032x}", "telnyx": f"v3:{number:056x}"}
    return forms.get(provider, f"00000000-0000-4000-8000-{number:012x}")


def start_of(provider: str, call_id: str, token: str) -> dict[str, Any]:
    """The start message, to be changed by whoever needs it wrong."""
    if provider == "vonage":
        return {
            "event": "websocket:connected",
            "content-type": "audio/l16;rate=16000",
            "call_id": call_id,
            "token": token,
        }
    if provider == "telnyx":
        return {
            "event": "start",
            "sequence_number": "1",
            "stream_id": call_id,
            "start": {
                "user_id": "u1",
                "call_control_id": call_id,
                "custom_parameters": {"token": token},
                "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
            },
        }
    if provider == "plivo":
        return {
            "sequenceNumber": 0,
            "event": "start",
            "start": {
                "callId": call_id,
                "streamId": call_id,
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
            },
            "extra_headers": f"token={token.encode().hex()}",
        }
    stream_id = "MZ" + call_id[2:]
    return {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": stream_id,
        "start": {
            "accountSid": "AC" + "0" * 32,
            "streamSid": stream_id,
            "callSid": call_id,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"token": token},
        },
    }


def twilio_media(stream_id: str, audio: bytes, number: object, **changes: Any) -> dict[str, Any]:
    """A media message; ``changes`` go into its ``media``."""
    payload = base64.b64encode(audio).decode()
    media = {"track": "inbound", "chunk": str(number), "timestamp": "20", "payload": payload}
    return {"event": "media", "sequenceNumber": str(number), "streamSid": stream_id, "media": media | changes}


class Line:
    """A media socket over ``peer``. ``listen`` reads what the engine sends, as strictly as the provider.

    ``answers_close`` and ``answers_pings`` may be turned off; ``echoes_marks`` echoes every mark at once.
    """

    def __init__(self, provider: str, peer: RawPeer, call_id: str) -> None:
        self.provider = provider
        self.peer = peer
        self.call_id = call_id
        self.side = SIDES[provider](Callee("http://127.0.0.1", call_id=call_id))
        self.side.stream_id = self.stream_id = "MZ" + call_id[2:] if provider == "twilio" else call_id
        self.format: AudioFormat = self.side.format
        self.violations: Counter[str] = Counter()
        self.heard = bytearray()
        """Audio sent to the caller."""
        self.marks: list[str] = []
        self.log: list[tuple[float, str]] = []
        """When what came: ``play``, ``mark``, ``clear``, ``ping``, ``close``."""
        self.code: int | None = None
        """Of the engine's close frame."""
        self.is_torn = False
        self.over = trio.Event()
        self.over_at_s = 0.0
        self.answers_close = True
        self.answers_pings = True
        self.echoes_marks = True
        self._chunk = 1

    async def start(self, token: str) -> None:
        if self.provider in ("twilio", "telnyx"):
            await self.send('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        await self.send(as_json(start_of(self.provider, self.call_id, token)))

    async def send(self, *messages: str | bytes) -> None:
        """Messages, each in a frame of its own, in one write."""
        await self.peer.send(*map(wired, messages))

    async def send_audio(self, audio: bytes, *, at_pace: bool = False) -> None:
        size = self.format.frame_bytes
        for at in range(0, len(audio), size):
            await self.send(self.media(audio[at : at + size]))
            if at_pace:
                await trio.sleep(0.02)

    async def keep_talking(self, every_s: float = 0.1) -> None:
        """Silence, five frames at a time and by default at the line's pace, until the socket is gone or the test
        cancels it."""
        silence = self.format.silence(0.02)
        try:
            while not self.over.is_set():
                await self.send(*[self.media(silence) for _ in range(5)])
                await trio.sleep(every_s)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def ask(self, text: str, *, within_s: float = 4.0) -> str:
        """Say this, all at once; the answer in words. Needs somebody who keeps the line open with silence."""
        heard = len(self.heard)
        said = speak(text, self.format, chars_per_s=50)
        await self.send(*(self.media(sound) for sound in frames_of(said, self.format)))
        await trio.sleep(within_s)
        return " ".join(words(bytes(self.heard[heard:]), self.format).split())

    def media(self, audio: bytes) -> str | bytes:
        """One frame of the caller, as a message."""
        if self.provider != "twilio":
            return self.side.media(audio)
        self._chunk += 1
        return as_json(twilio_media(self.stream_id, audio, self._chunk))

    async def listen(self) -> None:
        """Until the engine has left."""
        try:
            while (read := await self.peer.read_frame()) is not None:
                await self._take(*read)
        except ValueError:
            self.is_torn = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.over_at_s = trio.current_time()
        self.over.set()

    async def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._note("close")
            self.code = int.from_bytes(payload[:2], "big") if payload else 1005
            if self.answers_close:
                await self.peer.send(frame(CLOSE, payload[:2]))
        elif opcode == PING:
            self._note("ping")
            if self.answers_pings:
                await self.peer.send(frame(PONG, payload))
        elif opcode in (TEXT, BINARY):
            await self._obey(payload.decode() if opcode == TEXT else payload)

    async def _obey(self, message: str | bytes) -> None:
        match self.side.read(message, lambda what: self.violations.update([what])):
            case Play(audio):
                self._note("play")
                self.heard += audio
            case Mark(key):
                self._note("mark")
                self.marks.append(key)
                if self.echoes_marks:
                    await self.send(self.side.mark_played(key))
            case Clear():
                self._note("clear")

    def _note(self, what: str) -> None:
        self.log.append((trio.current_time(), what))
