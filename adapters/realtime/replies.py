"""The replies of one connection: their sound as the line carries it, and what was heard of each. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from adapters.realtime.lanes import Lanes
from engine.audio.framing import Framer
from engine.events import AudioFormat, ReplyAudio, ReplyOver, ReplyStarted, ReplyText

MAX_REPLIES = 64
"""Remembered; what still comes of an older one is dropped like that of one that never was."""


@dataclass(slots=True)
class Part:
    """A stretch of a reply's sound that the vendor knows by a name of its own."""

    item_id: str
    content_index: int
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Of this part no more was heard."""

    item_id: str
    content_index: int
    heard_s: float


@dataclass(slots=True)
class Reply:
    reply_id: str
    framer: Framer
    speeches: int
    """How often the caller had begun to speak when it began."""
    parts: list[Part] = field(default_factory=list)
    is_over: bool = False
    is_void: bool = False
    """The caller cut in: nothing of it goes on to be heard."""
    is_unseen: bool = False
    """And nothing ever did."""
    has_text: bool = False

    @property
    def duration_s(self) -> float:
        return sum(part.duration_s for part in self.parts)

    def cuts(self, heard_s: float) -> list[Cut]:
        """Where the parts end that were not heard to their end, in the vendor's own time: never beyond what came."""
        heard_s = max(0.0, heard_s) + (self.framer.trimmed_s if heard_s > 0 else 0.0)
        cuts: list[Cut] = []
        for part in self.parts:
            if heard_s < part.duration_s:
                cuts.append(Cut(part.item_id, part.content_index, max(0.0, heard_s)))
            heard_s -= part.duration_s
        if not cuts and not self.is_over and self.parts:  # the vendor has made more than it has sent
            last = self.parts[-1]
            cuts.append(Cut(last.item_id, last.content_index, last.duration_s))
        return cuts


class Replies:
    """Puts what is to be heard into the lanes."""

    def __init__(self, source: AudioFormat, line: AudioFormat, lanes: Lanes) -> None:
        self.source = source
        """The format that the vendor sends; may be set as long as there is no reply."""
        self._line = line
        self._lanes = lanes
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self._speeches = 0

    def get(self, reply_id: str) -> Reply | None:
        return self._replies.get(reply_id)

    def speech_started(self) -> None:
        """The caller speaks: a reply that begins from now on may be the answer to it."""
        self._speeches += 1

    def begin(self, reply_id: str) -> Reply:
        """An id that was never used before."""
        reply = self._replies[reply_id] = Reply(reply_id, Framer(self.source, self._line), self._speeches)
        if len(self._replies) > MAX_REPLIES:
            self._replies.popitem(last=False)
        self._lanes.put(ReplyStarted(reply_id))
        return reply

    def sound(self, reply: Reply, audio: bytes, item_id: str = "", content_index: int = 0) -> None:
        """More of it, in the vendor's format; dropped if nobody is to hear it."""
        if reply.is_void or reply.is_over or not audio:
            return
        if not reply.parts or (reply.parts[-1].item_id, reply.parts[-1].content_index) != (item_id, content_index):
            reply.parts.append(Part(item_id, content_index))
        reply.parts[-1].duration_s += self.source.duration_s(audio)
        if frames := reply.framer.feed(audio):
            self._lanes.put(ReplyAudio(reply.reply_id, frames))

    def text(self, reply: Reply, text: str) -> None:
        if text and not reply.is_void and not reply.is_over:
            reply.has_text = True
            self._lanes.put(ReplyText(reply.reply_id, text))

    def over(self, reply: Reply, *, is_whole: bool) -> None:
        """Told once."""
        if reply.is_over:
            return
        reply.is_over = True
        if not reply.is_void and (rest := reply.framer.finish()):
            self._lanes.put(ReplyAudio(reply.reply_id, rest))
        if not reply.is_unseen:
            self._lanes.put(ReplyOver(reply.reply_id, is_whole=is_whole and not reply.is_void))

    def void(self, *replies: Reply) -> None:
        """Nothing more of these is to be heard."""
        unseen = self._lanes.void({reply.reply_id for reply in replies})
        for reply in replies:
            reply.is_void = True
            reply.is_unseen = reply.reply_id in unseen

    def interrupt(self, reply_id: str, heard_s: float) -> list[tuple[Reply, list[Cut]]]:
        """The caller cut in, having heard so much of this reply, or of none yet. It is void, and so is each later one
        that began before the caller last did: the one after that is the answer to what cut in. Returns what became void
        now."""
        current = self._replies.get(reply_id)
        ids = list(self._replies)
        later = [self._replies[name] for name in ids[ids.index(reply_id) + 1 if current else 0 :]]
        hit = [reply for reply in later if reply.speeches < self._speeches]
        hit = [current, *hit] if current else hit
        hit = [reply for reply in hit if not reply.is_void]
        cuts = [(reply, reply.cuts(heard_s if reply is current else 0.0)) for reply in hit]
        cuts = [(reply, cut) for reply, cut in cuts if cut or not reply.is_over]
        self.void(*(reply for reply, _ in cuts))
        return cuts
