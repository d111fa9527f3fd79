"""WAV files of the telephone: read in any rate, written as the line was."""

from __future__ import annotations

import wave
from pathlib import Path

from engine.audio.convert import convert
from engine.errors import OffhookError
from engine.events import AudioFormat, Encoding

MAX_S = 600
MIN_HZ, MAX_HZ = 4000, 192_000


class BadWav(OffhookError):
    """Not a file of mono 16-bit PCM. The message names the file and what is wrong."""


def read_wav(path: Path, format: AudioFormat) -> bytes:  # noqa: A002 - the field's word
    """The file's audio in this format. Raises BadWav."""
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2 or file.getnchannels() != 1:
                raise BadWav(f"{path}: expected 16-bit mono PCM")
            if not MIN_HZ <= file.getframerate() <= MAX_HZ:
                raise BadWav(f"{path}: expected {MIN_HZ} to {MAX_HZ} Hz, got {file.getframerate()}")
            if file.getnframes() > MAX_S * file.getframerate():
                raise BadWav(f"{path}: longer than {MAX_S} s")
            source = AudioFormat(Encoding.PCM16, file.getframerate())
            return convert(file.readframes(file.getnframes()), source, format)
    except OSError as exc:
        raise BadWav(f"{path}: {exc.strerror or 'cannot be read'}") from None
    except EOFError:
        raise BadWav(f"{path}: not a WAV file of PCM") from None
    except wave.Error as exc:
        raise BadWav(f"{path}: not a WAV file of PCM ({exc})") from None


def write_wav(path: Path, audio: bytes, format: AudioFormat) -> None:  # noqa: A002 - the field's word
    """As mono 16-bit PCM at the line's rate. Raises BadWav when it cannot be written."""
    try:
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(format.rate_hz)
            file.writeframes(convert(audio, format, AudioFormat(Encoding.PCM16, format.rate_hz)))
    except OSError as exc:
        raise BadWav(f"{path}: {exc.strerror or 'cannot be written'}") from None
