"""The real models, loaded once, and sentences in the voice that ships with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trio

from engine.events import MULAW_8K, AudioFormat

if TYPE_CHECKING:
    from adapters.speech.embedded.speech import EmbeddedSpeech, Models

Say = Callable[..., bytes]


@pytest.fixture(scope="session")
def models() -> Models:
    pytest.importorskip("onnxruntime", reason="needs the extra offhook[local]")
    from adapters.speech.embedded.speech import load_models

    return load_models()


@pytest.fixture(scope="session")
def say(models: Models) -> Say:
    """``say(text, line, pitch)``: the text as audio in the line's format, made once."""
    made: dict[tuple[str, AudioFormat, float], bytes] = {}

    def speak(text: str, line: AudioFormat = MULAW_8K, pitch: float = 1.0) -> bytes:
        if (text, line, pitch) not in made:
            made[text, line, pitch] = models.voice.speak(text, line, pitch)
        return made[text, line, pitch]

    return speak


@pytest.fixture
async def speech(models: Models, nursery: trio.Nursery) -> EmbeddedSpeech:
    """Listening, on two worker threads."""
    from adapters.speech.embedded.speech import EmbeddedSpeech

    embedded = EmbeddedSpeech(models, worker_threads=2)
    nursery.start_soon(embedded.run)
    return embedded
