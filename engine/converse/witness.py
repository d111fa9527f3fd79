"""What the engine itself tells of a turn: whose session it was, who answered, what the model was shown, what is
remembered since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from engine.converse.api import Api
from engine.converse.report import Exchange
from engine.dialogue.history import TraceWhat
from engine.events import Memory, MemoryItem, MemoryKind, Modality, Role

TOLD_S = 3.0
"""A turn enters the history once it was heard; so long it may take until that can be read."""
FIRST_PAUSE_S = 0.02
MAX_PAUSE_S = 0.5
"""Between two looks; an engine lets a key ask only so often."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a trace, as JSON has it."""

    what: str
    fields: Json


class Witness:
    """Follows one conversation through the history of the engine."""

    def __init__(self, api: Api, caller: str) -> None:
        self._api = api
        self._caller = caller
        self._seen = set[str]()
        """Ids of the messages of turns before."""

    async def tell(self, exchange: Exchange, call_id: str, *, wants_shown: bool) -> None:
        """Put into the exchange what the history has of its turn, which is waited for, ``TOLD_S`` long. One over text
        names its session already, others are found among the caller's. ``wants_shown``: also what the model was
        shown, which costs a request more. Raises ApiFailed."""
        session, new = await self._turn(exchange, call_id)
        if session is None:
            return
        self._seen |= {message["message_id"] for message in new}
        exchange.session_id = session["session_id"]
        exchange.memory = memory_in(session)
        turns = {message["turn_id"] for message in new if message["role"] == Role.CALLER}
        answers = [message for message in new if message["role"] == Role.AGENT and message["turn_id"] in turns]
        if answers:
            exchange.agent = answers[-1]["agent"]
            if _comes_otherwise(exchange):
                exchange.answer = " ".join(message["text"] for message in answers)
        if wants_shown:
            exchange.shown = _shown_in(await self.whole(exchange.session_id), turns)

    async def whole(self, session_id: str) -> list[Told]:
        """The whole trace. Raises ApiFailed."""
        trace = await self._api.trace(session_id)
        return [Told(str(item["what"]), item["fields"]) for item in trace.get("events", ())]

    async def _turn(self, exchange: Exchange, call_id: str) -> tuple[Json | None, Sequence[Json]]:
        """The session with what is new in it, once it holds an answer to the caller's words."""
        found: tuple[Json | None, Sequence[Json]] = (None, ())
        pause_s = FIRST_PAUSE_S
        with trio.move_on_after(TOLD_S):
            while True:
                for session in await self._sessions(exchange):
                    new = [message for message in session["messages"] if message["message_id"] not in self._seen]
                    if any(_is_of(message, exchange, call_id) for message in new):
                        found = (session, new)
                        if new[-1]["role"] == Role.AGENT:
                            return found
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return found

    async def _sessions(self, exchange: Exchange) -> Sequence[Json]:
        if exchange.over is not Modality.TEXT:
            return await self._api.sessions_of(self._caller)
        session = await self._api.session(exchange.session_id)
        return [] if session is None else [session]


def memory_in(session: Json) -> Memory:
    """Of a session as the API gives it."""
    items = tuple(
        MemoryItem(MemoryKind(item["kind"]), str(item["content"]), float(item["confidence"]))
        for item in session["memory"]
    )
    return Memory(str(session["summary"]), dict(session["entities"]), items)


def _is_of(message: Json, exchange: Exchange, call_id: str) -> bool:
    """The caller's say of this exchange; over voice words may have been misheard."""
    if message["role"] != Role.CALLER or message["modality"] != exchange.over:
        return False
    return bool(message["call_id"] == call_id if call_id else message["text"] == exchange.said.strip())


def _comes_otherwise(exchange: Exchange) -> bool:
    """What was recognised of speech is not quite what was said, and a late SMS goes out over the provider."""
    return exchange.over is Modality.VOICE or (exchange.over is Modality.SMS and not exchange.answer)


def _shown_in(events: Iterable[Told], turns: set[str]) -> list[tuple[str, str]]:
    """To the model that was asked last in these turns."""
    shown: list[tuple[str, str]] = []
    for event in events:
        if event.what == TraceWhat.MODEL_ASKED and event.fields.get("turn_id") in turns:
            shown = [(str(role), str(text)) for role, text in event.fields.get("shown", ())]
    return shown
