"""A call as two channels on one clock: the caller on the left, the agent on the right, each where it was heard."""

from __future__ import annotations

from collections import deque

from engine.audio._audioop import audioop
from engine.audio.g711 import mulaw_to_pcm16
from engine.events import AudioFormat, Encoding

LATE_S = 0.3
"""What has been heard is handed out this much later: the line's frames do not come evenly."""
AHEAD_S = 5.0
"""Of one channel that is kept beyond now; the rest is dropped."""
_APART_S = 0.1
"""How far a channel may be behind the clock before silence is put in."""


class StereoTrack:
    """``now_s`` counts from the beginning of the recording. ``take`` gives signed 16-bit stereo, left and right
    alternately, at the line's rate."""

    def __init__(self, form: AudioFormat) -> None:
        self._is_mulaw = form.encoding is Encoding.MULAW
        self._rate = form.rate_hz
        self._caller = _Channel(form.rate_hz)
        self._agent = _Channel(form.rate_hz)
        self._taken = 0

    def heard(self, audio: bytes, now_s: float) -> None:
        """The caller's, of which the last sample has just come."""
        self._caller.put(self._pcm(audio), now_s, is_live=True)

    def played(self, audio: bytes, now_s: float) -> None:
        """The agent's, just queued: it is heard behind what was queued before."""
        self._agent.put(self._pcm(audio), now_s)

    def cleared(self, now_s: float) -> None:
        """What the agent had queued is not heard any more."""
        self._agent.cut(now_s)

    def take(self, now_s: float, *, is_end: bool = False) -> bytes:
        """All that is certain by now; at the end, all there is."""
        until = round((now_s if is_end else now_s - LATE_S) * self._rate)
        count = until - self._taken
        if count <= 0:
            return b""
        self._taken = until
        left, right = self._caller.take(count), self._agent.take(count)
        return audioop.add(audioop.tostereo(left, 2, 1, 0), audioop.tostereo(right, 2, 0, 1), 2)

    def _pcm(self, audio: bytes) -> bytes:
        return mulaw_to_pcm16(audio) if self._is_mulaw else audio


class _Channel:
    """Samples on their way out; what is missing is silence."""

    def __init__(self, rate_hz: int) -> None:
        self._rate = rate_hz
        self._pieces: deque[bytes] = deque()
        self._from = 0
        """Position of the first sample that is kept."""
        self._end = 0
        """Position behind the last one."""

    def put(self, pcm: bytes, now_s: float, *, is_live: bool = False) -> None:
        """Behind what is there, or now, if that has been over for a while. ``is_live``: it ends now."""
        count = len(pcm) // 2
        at = round(now_s * self._rate) - (count if is_live else 0)
        if at - self._end > (_APART_S * self._rate if is_live else 0):
            self._append(bytes(2 * (at - self._end)))
        # A burst of late frames does not delay all that come after it.
        most = round((now_s + (LATE_S if is_live else AHEAD_S)) * self._rate)
        self._append(pcm[: 2 * max(0, most - self._end)])

    def cut(self, now_s: float) -> None:
        keep = max(0, round(now_s * self._rate) - self._from)
        pcm = b"".join(self._pieces)[: 2 * keep]
        self._pieces = deque([pcm] if pcm else [])
        self._end = self._from + len(pcm) // 2

    def take(self, count: int) -> bytes:
        got: list[bytes] = []
        missing = count * 2
        while missing and self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > missing:
                self._pieces.appendleft(piece[missing:])
                piece = piece[:missing]
            got.append(piece)
            missing -= len(piece)
        self._from += count
        self._end = max(self._end, self._from)
        return b"".join(got) + bytes(missing)

    def _append(self, pcm: bytes) -> None:
        if pcm:
            self._pieces.append(pcm)
            self._end += len(pcm) // 2
