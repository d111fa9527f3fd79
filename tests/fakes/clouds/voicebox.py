"""What all fake synthesizers share: how they behave, and plain speech piece by piece at a pace."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from engine.events import AudioFormat
from tests.fakes.clouds.loopback import Cloud, Request, Response
from tests.fakes.plain_speech import CHARS_PER_S, speak

STALL_S = 60.0
"""A vendor that stalls does so for this long."""


@dataclass
class Voicebox:
    """How a fake synthesizer speaks. May be changed at any time."""

    key: str = "k"
    speed: float = 10.0
    """Times real time; ``math.inf``: all at once."""
    first_audio_s: float = 0.05
    piece_s: float = 0.2
    """Of audio in one message."""
    lead_silence_s: float = 0.0
    chars_per_s: float = CHARS_PER_S
    late_pieces: int = 0
    """What still comes of a text after it was cancelled."""
    stalls_after: int | None = None
    """Pieces of a text, after which nothing comes for a minute."""
    dies_after: int | None = None
    """Pieces of a text, after which the connection is closed, with:"""
    close_code: int = 1011
    refuses: int | None = None
    """HTTP status of every answer, and of every upgrade."""
    page: bytes = b""
    """Sent with it, or, without it, as an HTML page instead of audio."""
    error: str = ""
    """The vendor's own word for what is wrong, in answer to every text."""
    junk: tuple[str | bytes, ...] = ()
    """Messages thrown in before each piece."""
    idle_s: float = math.inf
    """A socket on which nothing was said for so long is closed."""

    def pieces(self, text: str, format: AudioFormat) -> list[bytes]:  # noqa: A002 - the field's word
        audio = format.silence(self.lead_silence_s) + speak(text.strip(), format, chars_per_s=self.chars_per_s)
        size = max(1, round(self.piece_s * 50)) * format.frame_bytes
        return [audio[at : at + size] for at in range(0, len(audio), size)]

    async def pause(self, number: int) -> None:
        """Before piece ``number``, from 0."""
        if self.stalls_after is not None and number >= self.stalls_after:
            await trio.sleep(STALL_S)
        await trio.sleep(self.first_audio_s if number == 0 else self.piece_s / self.speed)


Problem = Callable[[int, str], Response]
"""Status and the vendor's word for it."""


class Died(Exception):
    """The fake ends the connection in the middle of a text."""


@dataclass
class Spoken:
    """One text that was asked for."""

    text: str
    context_id: str = ""
    pieces_sent: int = 0
    is_cancelled: bool = False


class SpeechCloud(Cloud):
    """A cloud that speaks. What it sees its clients do wrong is in ``faults``."""

    def __init__(self, voicebox: Voicebox | None = None) -> None:
        super().__init__()
        self.voicebox = voicebox or Voicebox()
        self.faults: list[str] = []
        self.spoken: list[Spoken] = []
        self.audio_sent_s = 0.0

    @property
    def texts(self) -> list[str]:
        """Everything it was asked to say, in order."""
        return [spoken.text.strip() for spoken in self.spoken]

    @property
    def cancelled(self) -> list[str]:
        """Texts that clients took back."""
        return [spoken.text.strip() for spoken in self.spoken if spoken.is_cancelled]

    def fault(self, what: str) -> None:
        self.faults.append(what)

    def refusal(self, key: str, problem: Problem) -> Response | None:
        """Of a request with this key."""
        if self.voicebox.refuses is not None:
            return Response(self.voicebox.refuses, {"retry-after": "2"}, self.voicebox.page or b"{}")
        return None if key == self.voicebox.key else problem(401, "invalid_api_key")

    def audio(
        self,
        text: str,
        format: AudioFormat,  # noqa: A002 - the field's word
        problem: Problem,
        content_type: str = "audio/pcm",
    ) -> Response:
        """The answer to a request in which nothing is wrong."""
        if self.voicebox.error:
            return problem(429 if "quota" in self.voicebox.error else 400, self.voicebox.error)
        if self.voicebox.page:
            return Response(200, {"content-type": "text/html; charset=utf-8"}, self.voicebox.page)
        return Response(200, {"content-type": content_type}, Body(self, text, format))

    async def say(
        self,
        text: str,
        format: AudioFormat,  # noqa: A002 - the field's word
        send: Callable[[bytes], Awaitable[None]],
        throw_in: Callable[[str | bytes], Awaitable[None]],
        spoken: Spoken,
    ) -> None:
        """Send the audio of a text at its pace. Raises Died. Once it is cancelled, ``late_pieces`` more are sent."""
        late = self.voicebox.late_pieces
        for number, piece in enumerate(self.voicebox.pieces(text, format)):
            await self.voicebox.pause(number)
            if self.voicebox.dies_after is not None and number >= self.voicebox.dies_after:
                raise Died
            if spoken.is_cancelled:
                if late <= 0:
                    return
                late -= 1
            for junk in self.voicebox.junk:
                await throw_in(junk)
            await send(piece)
            spoken.pieces_sent += 1
            self.audio_sent_s += format.duration_s(piece)


class Body:
    """Audio as the body of an answer. A class and not a generator: a client that leaves must not leave it half run."""

    def __init__(self, cloud: SpeechCloud, text: str, format: AudioFormat) -> None:  # noqa: A002 - the field's word
        self._cloud = cloud
        self._format = format
        self._pieces = enumerate(cloud.voicebox.pieces(text, format))
        self.spoken = Spoken(text)
        cloud.spoken.append(self.spoken)

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        voicebox = self._cloud.voicebox
        try:
            number, piece = next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None
        await voicebox.pause(number)
        if voicebox.dies_after is not None and number >= voicebox.dies_after:
            raise trio.BrokenResourceError
        self.spoken.pieces_sent += 1
        self._cloud.audio_sent_s += self._format.duration_s(piece)
        return piece


def bearer(request: Request, scheme: str = "Bearer") -> str:
    """The key in the authorization header; empty if there is none of this scheme."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return key if kind == scheme else ""
