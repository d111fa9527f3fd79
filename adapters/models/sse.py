"""Server-sent events, without I/O: bytes in, events out. After the HTML standard, and lenient where servers are not
(a last event without its blank line counts)."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from engine.errors import BadMessage

LINE_BYTES = 1024 * 1024
"""Of one line, and of the data of one event, in characters once decoded."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    name: str
    """Of the ``event:`` line; ``message`` if there was none."""
    data: str
    """All its ``data:`` lines, joined by line feeds."""


class SseParser:
    """One stream. Comments, ``id`` and ``retry`` are skipped; bytes that are no UTF-8 are replaced."""

    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit = limit
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line: list[str] = []  # of which the end has not come yet
        self._line_chars = 0
        self._after_return = False  # a line feed that comes next belongs to the line before
        self._name = ""
        self._data: list[str] = []
        self._data_chars = 0
        self._has_data = False

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that these bytes complete. Raises BadMessage (``length``) for a line or an event that is too long;
        the stream is of no use then."""
        return self._take(self._decoder.decode(data))

    def end(self) -> list[ServerEvent]:
        """The stream is over: what its last bytes held, if they lacked only the line ends."""
        events = self._take(self._decoder.decode(b"", True))
        if self._line:
            self._end_line(events)
        self._end_event(events)
        return events

    def _take(self, text: str) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        if not text:
            return events
        if self._after_return and text[0] == "\n":
            text = text[1:]
        self._after_return = text[-1:] == "\r"
        *whole, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in whole:
            self._add(line)
            self._end_line(events)
        self._add(rest)
        return events

    def _add(self, text: str) -> None:
        if not text:
            return
        self._line_chars += len(text)
        if self._line_chars > self._limit:
            raise BadMessage("length")
        self._line.append(text)

    def _end_line(self, events: list[ServerEvent]) -> None:
        line = "".join(self._line)
        self._line.clear()
        self._line_chars = 0
        if not line:
            self._end_event(events)
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._add_data(value)
        elif field == "event":
            self._name = value

    def _add_data(self, value: str) -> None:
        self._data_chars += len(value) + 1
        if self._data_chars > self._limit + 1:
            raise BadMessage("length")
        self._has_data = True
        self._data.append(value)

    def _end_event(self, events: list[ServerEvent]) -> None:
        if self._has_data:
            events.append(ServerEvent(self._name or "message", "\n".join(self._data)))
        self._name = ""
        self._data.clear()
        self._data_chars = 0
        self._has_data = False
