"""What the fake language models have in common: what they answer, how fast, and what may go wrong on the way.

Their answer depends on nothing but what they are shown (see ``tests.fakes.vendors.answer_to``). ``call the tool NAME
with {...}`` in the caller's last words makes them call it, as often as it stands there; shown the results, they repeat
them. ``goodbye`` calls the tool ``hang_up`` where it is offered. Shown the beginning of their answer, they go on from
there, or begin anew if ``repeats``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import trio

from tests.fakes.clouds.loopback import Cloud, Request, Response
from tests.fakes.vendors import answer_to

KEY = "k-of-the-fake"
_CALL = re.compile(r"call the tool ([\w-]+)(?: with (\{[^{}]*\}))?")
_BROKE_OFF = "[Your answer broke off"


@dataclass
class Manner:
    """How a fake behaves; may be turned at any time. Places count the events of an answer, from 0."""

    first_s: float = 0.1
    gap_s: float = 0.01
    chunk_bytes: int = 0
    """The answer is sent in pieces of so many bytes, wherever that cuts; 0: event by event."""
    refusal: Response | None = None
    """What every request is answered with."""
    cut_at: int | None = None
    """The connection breaks."""
    close_at: int | None = None
    """The answer ends, politely, before it is whole."""
    stall_at: int | None = None
    """Nothing comes any more but comments, by which it sees that nobody listens."""
    is_silent: bool = False
    """Not even these, for a minute at a time."""
    says_at: tuple[int, bytes] | None = None
    """Something else, in between."""
    hangs: bool = False
    """No answer at all, ever."""
    limit_chars: int | None = None
    """A longer context is refused."""
    repeats: bool = False
    says: Sequence[str] | None = None
    """Instead of what it would answer."""
    calls: Sequence[tuple[str, str]] | None = None
    """Instead of those it would make: name and arguments, of any kind."""
    stop: str | None = None
    """Why it ends, in the vendor's words, instead of the usual."""


@dataclass(frozen=True)
class Shown:
    """A request, in words that all vendors share."""

    said: Sequence[tuple[str, str]]
    """Role and text, the system's included."""
    tools: frozenset[str] = frozenset()
    results: Sequence[str] = ()
    """Of tools, after the caller's last words."""

    @property
    def size(self) -> int:
        return sum(len(text) for _, text in self.said)


@dataclass(frozen=True)
class Thought:
    pieces: Sequence[str]
    calls: Sequence[tuple[str, str]] = ()


class Unfit(Exception):
    """The vendor would answer this with 400 and these words."""


def want(is_well: object, words: str) -> None:
    """Raises Unfit."""
    if not is_well:
        raise Unfit(words)


class ModelCloud(Cloud):
    """One vendor's language model. ``faults``: what clients sent that the vendor would not take."""

    path = ""

    def __init__(self, manner: Manner | None = None, *, key: str = KEY) -> None:
        super().__init__()
        self.manner = manner or Manner()
        self.key = key
        self.faults: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        """Every request that was taken."""

    def is_admitted(self, request: Request) -> bool:
        raise NotImplementedError

    def error(self, status: int, kind: str, words: str) -> bytes:
        """The vendor's body for it."""
        raise NotImplementedError

    def too_long(self) -> Response:
        raise NotImplementedError

    def check(self, body: Mapping[str, Any]) -> None:
        """Raises Unfit for what the vendor would not take."""
        raise NotImplementedError

    def shown_in(self, body: Mapping[str, Any]) -> Shown:
        raise NotImplementedError

    def events(self, body: Mapping[str, Any], thought: Thought) -> list[bytes]:
        """The answer on the wire."""
        raise NotImplementedError

    async def http(self, request: Request) -> Response:
        manner = self.manner
        if manner.hangs:
            await trio.sleep_forever()
        if manner.refusal is not None:
            return manner.refusal
        if (request.method, request.path) != ("POST", self.path):
            return Response(404, body=self.error(404, "not_found_error", "no such path"))
        if not self.is_admitted(request):
            return Response(401, body=self.error(401, "authentication_error", f"wrong key {KEY[:3]}***"))
        body = _object(request.body)
        try:
            self.check(body)
        except Unfit as exc:
            self.faults.append(str(exc))
            return Response(400, body=self.error(400, "invalid_request_error", str(exc)))
        self.bodies.append(body)
        shown = self.shown_in(body)
        if manner.limit_chars is not None and shown.size > manner.limit_chars:
            return self.too_long()
        events = self.events(body, self._think(shown))
        return Response(headers={"content-type": "text/event-stream; charset=utf-8"}, body=_Stream(events, manner))

    def _think(self, shown: Shown) -> Thought:
        thought = think(shown, repeats=self.manner.repeats)
        pieces = thought.pieces if self.manner.says is None else self.manner.says
        return Thought(pieces, thought.calls if self.manner.calls is None else self.manner.calls)


def think(shown: Shown, *, repeats: bool = False) -> Thought:
    """What the fakes answer."""
    said, begun = list(shown.said), ""
    if said and said[-1][0] == "user" and said[-1][1].startswith(_BROKE_OFF):
        said.pop()
    if said and said[-1][0] == "assistant" and not shown.results:
        begun = said.pop()[1]
    thought = _think(said, shown)
    if not begun or repeats:
        return thought
    whole = "".join(thought.pieces)
    rest = whole[len(begun) :] if whole.startswith(begun) else f"And so on after {begun.split()[-1]}"
    return Thought([rest], thought.calls)


def _think(said: Sequence[tuple[str, str]], shown: Shown) -> Thought:
    if shown.results:
        return Thought([f"The tool said {result}. " for result in shown.results])
    last = next((text for role, text in reversed(said) if role == "user"), "")
    asked = [(name, arguments or "{}") for name, arguments in _CALL.findall(last)]
    if asked:
        return Thought(["One moment. "], asked)
    pieces = answer_to(said)
    if pieces[-1]:
        return Thought(pieces)
    return Thought(pieces[:-1], [("hang_up", "{}")] if "hang_up" in shown.tools else [])


def sse(data: object, *, name: str = "") -> bytes:
    """One event."""
    text = data if isinstance(data, str) else orjson.dumps(data).decode()
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def words_of(text: str) -> list[str]:
    """Pieces as a model would stream them: a word each, with the space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def halves(text: str) -> list[str]:
    """Cut where it makes no sense, as arguments are."""
    return [text[: len(text) // 2], text[len(text) // 2 :]]


@dataclass
class _Stream:
    """An answer as it is sent. Not a generator, so that one that is left lying holds nothing."""

    events: list[bytes]
    manner: Manner
    _at: int = 0
    _pieces: list[bytes] = field(default_factory=list)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces:
            await trio.lowlevel.checkpoint()
            return self._pieces.pop(0)
        manner, at = self.manner, self._at
        if manner.cut_at == at:
            raise trio.BrokenResourceError
        if at == manner.stall_at:
            await trio.sleep(60 if manner.is_silent else 0.25)
            return b": still here\n\n"
        if at >= len(self.events) or manner.close_at == at:
            raise StopAsyncIteration
        await trio.sleep(manner.gap_s if at else manner.first_s)
        self._at += 1
        event = self.events[at]
        if manner.says_at is not None and manner.says_at[0] == at:
            event = manner.says_at[1] + event
        if manner.chunk_bytes:
            size = manner.chunk_bytes
            first, *self._pieces = [event[begin : begin + size] for begin in range(0, len(event), size)]
            return first
        return event


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def text_of(content: object) -> str:
    """Of a message's content, which may be text or a list of blocks."""
    if isinstance(content, str):
        return content
    blocks: Iterable[Any] = content if isinstance(content, list) else ()
    return " ".join(block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str))
