"""Words from audio: Moonshine's weights, run through onnxruntime.

Everything here computes in the thread that calls it; one :class:`Recogniser` serves all threads at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.speech.embedded.packages import file_of, open_session
from adapters.speech.embedded.tokens import END, START, Vocabulary
from engine.audio.convert import convert
from engine.events import PCM16_16K, AudioFormat

RATE_HZ = 16_000
MAX_S = 10.5
"""More than this in one pass costs more than its length: 44 s took 4.7 s."""
MIN_S = 0.25
_TOKENS_PER_S = 6.5
_SPARE_TOKENS = 8
_STRIDE = 384
"""The export strides the encoder's mask: one value of the hidden state for so many samples."""
_HEADS, _WIDTH = 8, 36

_INVENTED = frozenset(
    {
        "",
        "you",
        "thank you for watching",
        "thanks for watching",
        "thank you very much for watching",
        "music",
        "applause",
    }
)
"""What the model says of noise, keypad tones and hum."""
_OPEN_END = re.compile(r"(?:[\s,\u2026]|\.{2,})+$")
_MARKS = re.compile(r"[^\w' ]+")

Floats = npt.NDArray[np.float32]


class Recogniser:
    """Loads in about a second; the first pass is slower than the others."""

    def __init__(self) -> None:
        """Raises SettingsError when the weights are not installed."""
        folder = ("assets", "tiny-en")
        self._encoder = open_session(file_of("moonshine_voice", *folder, "encoder_model.ort"))
        self._decoder = open_session(file_of("moonshine_voice", *folder, "decoder_model_merged.ort"))
        self._vocabulary = Vocabulary(file_of("moonshine_voice", *folder, "tokenizer.bin").read_bytes())
        self._past = [item.name for item in self._decoder.get_inputs() if item.name.startswith("past")]

    def recognise(
        self,
        audio: bytes,
        line: AudioFormat,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> str:
        """The words in audio of any format; empty when it holds none. At most ``MAX_S`` are listened to.

        ``is_unwanted`` is asked before each step, some milliseconds apart: True ends the work with an empty text.
        """
        samples = _samples(audio, line)
        if samples.size < MIN_S * RATE_HZ or is_unwanted():
            return ""
        text = self._vocabulary.text(self._decode(samples, is_unwanted))
        return "" if is_unwanted() or is_invented(text) else without_open_end(text)

    def _decode(self, samples: Floats, is_unwanted: Callable[[], bool]) -> list[int]:
        """Greedy: the likeliest token, one at a time."""
        hidden = self._encoder.run(
            None, {"input_values": samples[None, :], "attention_mask": np.ones((1, samples.size), np.int64)}
        )[0]
        inputs: dict[str, Any] = {
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": np.ones((1, (hidden.shape[1] - 1) * _STRIDE + 1), np.int64),
            **{name: np.zeros((1, _HEADS, 0, _WIDTH), np.float32) for name in self._past},
        }
        tokens: list[int] = []
        token = START
        for step in range(int(samples.size / RATE_HZ * _TOKENS_PER_S) + _SPARE_TOKENS):
            if is_unwanted():
                break
            inputs["input_ids"] = np.array([[token]], np.int64)
            inputs["use_cache_branch"] = np.array([step > 0])
            logits, *present = self._decoder.run(None, inputs)
            token = int(logits[0, -1].argmax())
            if token == END:
                break
            tokens.append(token)
            for name, value in zip(self._past, present, strict=True):
                # What the decoder attends to in the encoder is computed once; later steps give nothing for it.
                if step == 0 or ".encoder." not in name:
                    inputs[name] = value  # noqa: PERF403 - updating is what is meant
        return tokens


def is_invented(text: str) -> bool:
    """Words that the model makes out of sound without speech."""
    return " ".join(_MARKS.sub(" ", text.lower()).split()) in _INVENTED


def without_open_end(text: str) -> str:
    """Without a comma or an ellipsis at the end. The model puts one wherever the audio is cut soon after the last word;
    it says nothing of the caller, and turn taking would wait for the rest of the sentence."""
    return _OPEN_END.sub("", text)


def _samples(audio: bytes, line: AudioFormat) -> Floats:
    pcm = convert(audio[: int(MAX_S * line.bytes_per_s)], line, PCM16_16K)
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
