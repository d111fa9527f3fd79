"""Plain speech: audio for tests whose voiced frames spell their text.

Each frame of 20 ms holds a magic word, its number within the utterance, a few characters, and loud padding: the bytes
are valid mu-law and valid 16-bit PCM alike, survive any engine that passes audio through unchanged, and are never taken
for silence by level. What was really heard of an utterance can be read off to the character.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.events import FRAME_S, AudioFormat

CHARS_PER_S = 25.0
"""A sentence of forty characters takes 1.6 s."""
MAGIC = b"\x01pS\x81"
_HEAD = struct.Struct("<4sHHB")  # magic, number of the frame, frames of the utterance, bytes of text
_LOUD = b"\x10\x90"  # half of full scale, both ways, in mu-law; most of full scale in 16-bit PCM


def speak(text: str, format: AudioFormat, *, chars_per_s: float = CHARS_PER_S) -> bytes:  # noqa: A002 - the field's word
    """The text as audio: whole frames, at least one."""
    per_frame = chars_per_s * FRAME_S
    count = max(1, -int(-len(text) // per_frame))
    frames = []
    for number in range(count):
        end = len(text) if number == count - 1 else int((number + 1) * per_frame)
        chunk = text[int(number * per_frame) : end].encode()
        frame = _HEAD.pack(MAGIC, number, count, len(chunk)) + chunk
        frames.append(frame + (_LOUD * format.frame_bytes)[: format.frame_bytes - len(frame)])
    return b"".join(frames)


def noise(duration_s: float, format: AudioFormat) -> bytes:  # noqa: A002 - the field's word
    """A loud sound without words."""
    return (_LOUD * format.frame_bytes)[: format.frame_bytes] * round(duration_s / FRAME_S)


def is_speech(frame: bytes) -> bool:
    return frame.startswith(MAGIC)


@dataclass(slots=True)
class Utterance:
    """What was read of one utterance. Times are seconds from the start of the audio."""

    text: str
    start_s: float
    end_s: float
    frames: int
    """Frames read, of so many:"""
    count: int
    lost: int = 0
    """Frames missing in its middle."""

    @property
    def is_whole(self) -> bool:
        return self.frames == self.count


class Reader:
    """Reads utterances off audio as it comes, whole frames at a time. Other sound is skipped."""

    def __init__(self, format: AudioFormat) -> None:  # noqa: A002 - the field's word
        self._format = format
        self._at = 0  # frames
        self._next = 0
        self.utterances: list[Utterance] = []

    @property
    def text(self) -> str:
        """Everything read so far, one space between utterances."""
        return " ".join(utterance.text for utterance in self.utterances)

    def feed(self, audio: bytes) -> None:
        size = self._format.frame_bytes
        for at in range(0, len(audio), size):
            self.feed_frame(audio[at : at + size])

    def feed_frame(self, frame: bytes) -> None:
        start_s = self._at * FRAME_S
        self._at += 1
        if not frame.startswith(MAGIC):
            return
        _, number, count, size = _HEAD.unpack_from(frame)
        text = frame[_HEAD.size : _HEAD.size + size].decode(errors="replace")
        last = self.utterances[-1] if self.utterances else None
        if last is None or number < self._next or count != last.count:
            last = Utterance("", start_s, start_s, 0, count)
            self.utterances.append(last)
            self._next = 0
        last.lost += number - self._next
        last.text += text
        last.frames += 1
        last.end_s = start_s + FRAME_S
        self._next = number + 1


def read(audio: bytes, format: AudioFormat) -> list[Utterance]:  # noqa: A002 - the field's word
    """All utterances in a piece of audio."""
    reader = Reader(format)
    reader.feed(audio)
    return reader.utterances


def words(audio: bytes, format: AudioFormat) -> str:  # noqa: A002 - the field's word
    """All text in a piece of audio."""
    return " ".join(utterance.text for utterance in read(audio, format))


def frames_of(audio: bytes, format: AudioFormat) -> Iterator[bytes]:  # noqa: A002 - the field's word
    size = format.frame_bytes
    return (audio[at : at + size] for at in range(0, len(audio), size))


def heard_twice(parts: Sequence[str], text: str) -> int:
    """How many letters of a text were heard more than once, in parts of which each begins with a word that had been
    begun. Raises AssertionError where something was left out."""
    at = twice = 0
    for part in (part.strip() for part in parts):
        while text[at : at + 1].isspace():
            at += 1
        words = [word for word in range(at + 1) if word == 0 or text[word - 1].isspace()]
        begin = max((word for word in words if text.startswith(part, word)), default=-1)
        assert begin >= 0, f"{part!r} is not at or before {text[at:]!r}"
        twice, at = twice + at - begin, begin + len(part)
    assert not text[at:].strip(), f"{text[at:]!r} was left out"
    return twice
