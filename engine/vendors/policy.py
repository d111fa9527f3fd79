"""How often a vendor is tried and how long it is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from engine.settings import Limits

OPEN_SHARE = 0.9
"""Of the time that a call has for opening: the last failure is to be told before that is over."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The defaults are those of the settings' ``limits``."""

    tries: int = 3
    """Of one vendor, to connect or to answer."""
    pauses_s: tuple[float, ...] = (0.25, 0.75, 1.5)
    """Before the second try, the third, ...; more where the vendor asks for more."""
    try_s: float = 3.0
    """For one connection."""
    open_s: float = 6.0 * OPEN_SHARE
    """For all tries at the start of a call."""
    reconnect_s: float = 6.0
    """For all tries in the middle of one."""
    reconnects: int = 3
    """To one vendor in a minute of one call; with one more it is left."""
    hearing_s: float = 8.0
    """Without an event of a recogniser while the caller makes sounds, before it is connected anew."""
    replay_s: float = 2.0
    """Of the caller's newest audio, what a new recogniser is given."""
    replay_most_s: float = 20.0
    """The same of a sound whose words are not known, from its beginning or from where they are not: a recogniser that
    tells them only at the end may be lost just before it."""
    settle_s: float = 1.5
    """For a new recogniser to take up the sound in which the old one was lost."""
    first_token_s: float = 4.0
    token_gap_s: float = 3.0
    answer_s: float = 6.0
    """For all tries of an answer, or of a sentence's sound, to bring something, or more of it."""
    speech_tries: int = 2
    """Of one voice, for one sentence."""
    first_sound_s: float = 2.5
    sound_gap_s: float = 1.5
    """How far a voice may fall behind its own speech."""
    quiet_s: float = 0.5
    """Without a sound of either side, a speech-to-speech connection may be exchanged for a new one."""
    lead_s: float = 0.5
    """Of the caller's newest audio, what the new one is given then."""

    @classmethod
    def of(cls, limits: Limits) -> Self:
        return cls(
            open_s=limits.open_s * OPEN_SHARE,
            hearing_s=limits.hearing_s,
            first_token_s=limits.first_token_s,
            token_gap_s=limits.token_gap_s,
            answer_s=limits.vendor_answer_s,
            first_sound_s=limits.first_sound_s,
            sound_gap_s=limits.sound_gap_s,
        )
