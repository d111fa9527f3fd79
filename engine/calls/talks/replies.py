"""The replies of a speech-to-speech model that the caller has not heard yet, or not to the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from engine.calls.talks.minutes import AgentSay
from engine.calls.talks.voice import Utterance
from engine.dialogue.heard import Spoken
from engine.dialogue.turns import Turn


@dataclass(eq=False, slots=True)
class Reply:
    """What is awaited of the model, comes in, and is heard; or a clip, which asks nothing of the model."""

    utterance: Utterance
    say: AgentSay = field(default_factory=AgentSay)
    reply_id: str = ""
    """The vendor's; empty until it begins."""
    began_at_s: float = 0.0
    announced: str = ""
    """The words that it was told to say."""
    is_clip: bool = False
    is_rest: bool = False
    """Of a reply of the model, which takes it for cut off."""
    is_owed: bool = True
    """Without it the caller would be left without an answer."""
    is_complete: bool = False
    """Nothing more of it comes."""
    is_broken: bool = False
    """Its vendor left off in the middle of it: it has more words than sound."""
    is_past: bool = False
    """It has been heard, as far as it ever will be."""
    pieces: deque[bytes] = field(default_factory=deque)
    """Sound that is not with the line yet."""
    _taken: deque[bytes] = field(default_factory=deque)
    """Sound that is with the line, as far as it is not known to be heard."""
    _forgotten_bytes: int = 0
    """Of it, what is."""
    _changed: trio.Event = field(default_factory=trio.Event)

    @property
    def spoken(self) -> Spoken:
        return self.utterance.spoken[0]

    @property
    def is_awaited(self) -> bool:
        return not self.reply_id and not self.is_clip

    @property
    def is_to_come(self) -> bool:
        """Or more of it: else it is a clip, or only its mark is missing."""
        return not self.is_clip and not self.utterance.is_queued

    @property
    def awaited_since_s(self) -> float:
        turn = self.utterance.turn
        return turn.ended_at_s if turn is not None else self.utterance.began_at_s

    @property
    def is_models(self) -> bool:
        """The model has made it."""
        return bool(self.reply_id) or self.is_rest

    @property
    def has_sound(self) -> bool:
        return self.spoken.audio_s > 0

    @property
    def answers_unknown_words(self) -> bool:
        """The caller has spoken; what, is still to be told."""
        return self.utterance.turn is not None and not self.utterance.turn.text

    def add(self, audio: bytes, seconds: float) -> None:
        self.pieces.append(audio)
        self.spoken.audio_s += seconds
        self._changed.set()

    def complete(self, *, is_broken: bool = False) -> None:
        self.is_complete, self.is_broken, self.spoken.is_whole = True, is_broken, not is_broken
        self._changed.set()

    async def next_piece(self, heard_bytes: int) -> bytes | None:
        """None: there is no more. One task asks. ``heard_bytes``: of what it was given before, what was heard."""
        while self._taken and self._forgotten_bytes + len(self._taken[0]) <= heard_bytes:
            self._forgotten_bytes += len(self._taken.popleft())
        while not self.pieces:
            if self.is_complete:
                return None
            self._changed = trio.Event()
            await self._changed.wait()
        piece = self.pieces.popleft()
        self._taken.append(piece)
        return piece

    def rest(self, heard_bytes: int) -> bytes:
        """What has come of it behind this much."""
        return b"".join((*self._taken, *self.pieces))[max(0, heard_bytes - self._forgotten_bytes) :]


def reply_to(turn: Turn | None, *, announced: str = "", is_opening: bool = False) -> Reply:
    """One that is still to come."""
    utterance = Utterance(turn, is_opening=is_opening, spoken=[Spoken(announced)])
    return Reply(utterance, AgentSay(is_opening=is_opening), announced=announced)


def rest_of(reply: Reply, heard: str, audio: bytes, seconds: float) -> Reply:
    """What a sound without words kept from being heard of a whole one, behind the words that were."""
    text = reply.spoken.text[len(heard) :].strip()
    utterance = Utterance(spoken=[Spoken(text, seconds, is_whole=True)])
    return Reply(utterance, is_clip=True, is_rest=not reply.is_clip, is_complete=True, pieces=deque([audio]))


def clip_reply(text: str, clip: bytes, seconds: float, *, is_opening: bool = False) -> Reply:
    utterance = Utterance(is_opening=is_opening, spoken=[Spoken(text, seconds, is_whole=True)])
    say = AgentSay(is_opening=is_opening)
    return Reply(utterance, say, announced=text, is_clip=True, is_complete=True, pieces=deque([clip]))


class Replies:
    """One is current: on the line, or waited for; others are behind it. Iterating gives those not cut off."""

    def __init__(self) -> None:
        self.current: Reply | None = None
        self.waiting: deque[Reply] = deque()

    def __iter__(self) -> Iterator[Reply]:
        if self.current is not None and not self.current.utterance.was_interrupted:
            yield self.current
        yield from tuple(self.waiting)

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def of(self, reply_id: str) -> Reply | None:
        """None for one that was cut off, or is past."""
        return next((reply for reply in self if reply.reply_id == reply_id), None)

    @property
    def awaited(self) -> Reply | None:
        """The next that the model begins will be this one."""
        return next((reply for reply in self if reply.is_awaited), None)

    @property
    def newest(self) -> Reply | None:
        """Of those that the model has begun."""
        return next((reply for reply in reversed(list(self)) if reply.reply_id), None)

    @property
    def is_one_coming(self) -> bool:
        return any(reply.reply_id and not reply.is_complete for reply in self)
