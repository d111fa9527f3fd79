"""Tool calls that come in fragments, put together: as OpenAI numbers them, and as servers that are only like it do not.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.errors import BadMessage
from engine.events import ToolCall

MOST_CALLS = 32
MOST_CHARS = 1024 * 1024
"""Of the arguments of all calls of one answer."""


@dataclass(slots=True)
class _Gathering:
    index: int | str | None
    call_id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class ToolCalls:
    """The calls of one answer. Raises BadMessage (``length``) for more than anybody could want."""

    def __init__(self, made_up: str = "call") -> None:
        self._made_up = made_up
        self._calls: list[_Gathering] = []
        self._chars = 0

    def begin(self, index: int | str | None, call_id: str, name: str) -> None:
        """A call whose arguments are to come."""
        if len(self._calls) >= MOST_CALLS:
            raise BadMessage("length")
        self._calls.append(_Gathering(index, call_id, name))

    def add(self, index: int | str | None, arguments: str) -> None:
        """Arguments, or a piece of them. Of a call that did not begin: nothing."""
        call = self._at(index)
        if call is None:
            return
        self._chars += len(arguments)
        if self._chars > MOST_CHARS:
            raise BadMessage("length")
        call.pieces.append(arguments)

    def replace(self, index: int | str | None, arguments: str) -> None:
        """All of the arguments, which came in pieces before."""
        call = self._at(index)
        if call is not None and arguments:
            self._chars -= len(call.arguments)
            call.pieces.clear()
            self.add(index, arguments)

    def delta(self, fragment: Mapping[str, Any]) -> None:
        """One element of ``delta.tool_calls``, in any of the ways it is met."""
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        index = fragment.get("index")
        index = index if isinstance(index, int) else None
        call_id, name = _text(fragment.get("id")), _text(function.get("name"))
        if self._is_new(index, call_id, name):
            self.begin(index, call_id, name)
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = orjson.dumps(arguments).decode()
        self.add(index, _text(arguments))

    def all(self) -> list[ToolCall]:
        """As they are now, in order; those without a name could not be carried out and are left out. Each has an id of
        its own."""
        calls: list[ToolCall] = []
        taken: set[str] = set()
        for number, call in enumerate(call for call in self._calls if call.name):
            call_id = call.call_id
            if not call_id or call_id in taken:
                call_id = f"{self._made_up}_{number}"
            taken.add(call_id)
            calls.append(ToolCall(call_id, call.name, call.arguments.strip() or "{}"))
        return calls

    def _at(self, index: int | str | None) -> _Gathering | None:
        """The newest of this number; without a number the newest of all."""
        return next((call for call in reversed(self._calls) if index is None or call.index == index), None)

    def _is_new(self, index: int | None, call_id: str, name: str) -> bool:
        call = self._at(index)
        if call is None:
            return True
        if not name:
            return False
        if call_id and call.call_id:
            return call_id != call.call_id
        # A name again, and no id to go by: the same call said once more, unless what there is of it is whole.
        return bool(call.name) and (name != call.name or _is_whole(call.arguments))


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return False


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
