"""A scripted caller: says its lines one after the other, and tells what it heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from engine.events import AudioFormat
from engine.phone.call import PhoneCall
from engine.phone.errors import CallFailed
from engine.phone.wav import read_wav


class Voice(Protocol):
    """Mouth and ear of a caller. Its work does not hold up the event loop."""

    async def render(self, text: str, line: AudioFormat, /) -> bytes:
        """The text as audio in the line's format."""
        ...

    async def recognise(self, audio: bytes, line: AudioFormat, /) -> str:
        """The words in the audio; empty when there are none."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """One thing for the caller to do: say ``text``, play the file ``wav``, or press ``keys``."""

    text: str = ""
    wav: Path | None = None
    keys: str = ""

    def __str__(self) -> str:
        return f"({self.wav})" if self.wav else f"(keys {self.keys})" if self.keys else self.text


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange, from the caller's side."""

    at_s: float
    """Since the call was answered: when the answer began to be heard."""
    said: str
    """By the caller; empty for the greeting."""
    heard: str
    """The agent's answer in words, when there is a voice to recognise them."""
    heard_s: float
    """How long the answer took."""
    response_ms: float | None
    """From the caller's last sound to the first sound of the answer; for the greeting from the answered call."""


async def hold_conversation(
    call: PhoneCall,
    lines: Sequence[Line],
    voice: Voice | None,
    *,
    patience_s: float = 15.0,
    on_said: Callable[[Line], None] = lambda _: None,
    on_turn: Callable[[Turn], None] = lambda _: None,
) -> list[Turn]:
    """The greeting, then every line and its answer. Hanging up is left to the caller of this function.

    Raises TooSlow when something is not answered in time, LineLost when the engine hangs up with lines unsaid,
    CallFailed for a line without a sound in it, BadWav, and what the voice raises.
    """
    audio = [await _audio_of(line, call.format, voice) for line in lines]  # before the agent is kept waiting
    turns = [await _hear(call, None, voice, patience_s, call.answered_at_s)]
    on_turn(turns[0])
    for line, sound in zip(lines, audio, strict=True):
        on_said(line)
        before_s = call.last_said_s
        if line.keys:
            call.press(line.keys)
        else:
            await call.say(sound)
        # Of a file of silence nothing was said.
        asked_at_s = call.last_said_s if call.last_said_s > before_s else trio.current_time()
        turns.append(await _hear(call, line, voice, patience_s, asked_at_s))
        on_turn(turns[-1])
    return turns


async def _audio_of(line: Line, format: AudioFormat, voice: Voice | None) -> bytes:  # noqa: A002 - the field's word
    if line.keys:
        return b""
    if line.wav is not None:
        audio = read_wav(line.wav, format)
    elif voice is None:
        raise CallFailed("there is no voice to speak with")
    else:
        audio = await voice.render(line.text, format)
    if not audio:
        raise CallFailed(f"there is nothing to be heard in {str(line)!r}")
    return audio


async def _hear(call: PhoneCall, line: Line | None, voice: Voice | None, patience_s: float, asked_at_s: float) -> Turn:
    starts_s = await call.wait_until_heard(within_s=patience_s, after_s=asked_at_s)
    audio = await call.heard_from(starts_s)
    return Turn(
        at_s=round(starts_s - call.answered_at_s, 3),
        said=str(line) if line is not None else "",
        heard=await voice.recognise(audio, call.format) if voice is not None else "",
        heard_s=round(call.format.duration_s(audio), 2),
        response_ms=round((starts_s - asked_at_s) * 1000, 1),
    )
