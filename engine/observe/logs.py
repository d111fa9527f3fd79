"""Logs: one event a line, JSON off a terminal, numbers and keys masked, and never a wait for whoever reads them.

Events have fixed names; what varies is a field. Bind ``call_id`` and ``provider`` once at the top of a call, with
``structlog.contextvars.bound_contextvars``: every task below inherits them.
"""

from __future__ import annotations

import json as json_text
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

import structlog
from structlog.typing import EventDict, Processor

from engine.observe.masking import mask_field, mask_number

__all__ = ["LogOutput", "configure_logs", "mask_number"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_SLICE_S = 0.1
_DIRECT_S = 1.0
"""How long a line may take to be written when no thread writes it: before the start and after the end."""


def configure_logs(
    json: bool | None = None,
    level: str = "info",
    stream: TextIO | None = None,
    *,
    output: LogOutput | None = None,
    count: Callable[[str], None] | None = None,
) -> None:
    """Set up structlog, and route the libraries' own logging into it from WARNING up.

    ``json`` None: JSON unless the stream is a terminal. ``output`` is given by a server, so that a log nobody reads
    never holds the event loop; without it each line is written where it is logged. ``count`` is told the level of each
    record. Raises ValueError for an unknown level. May be called again; the last call holds.
    """
    if level not in _LEVELS:
        raise ValueError(f"log level must be one of {', '.join(_LEVELS)}")
    output = output or LogOutput(stream or sys.stderr)
    as_json = not output.is_terminal if json is None else json
    structlog.configure(
        processors=_processors(as_json, output.is_terminal, count),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(output),
        # Loggers live at the top of modules, made before this is called, and tests configure many times.
        cache_logger_on_first_use=False,
    )
    _route_libraries(max(_LEVELS[level], logging.WARNING))


class LogOutput:
    """A stream behind a bounded queue and one writing thread, between ``with`` and its end.

    ``write`` never waits: once ``limit_bytes`` are queued (a pipe nobody reads, a full disk) lines are dropped and
    counted. Leaving the block writes what is queued, for at most ``close_s``, and joins the thread.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        limit_bytes: int = 1 << 20,
        close_s: float = 1.0,
        on_drop: Callable[[], None] | None = None,
    ) -> None:
        self.dropped = 0
        self.is_terminal = stream.isatty()
        self._stream = stream
        self._fd = _descriptor(stream)
        self._limit_bytes = limit_bytes
        self._close_s = close_s
        self._on_drop = on_drop
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._give_up_at: float | None = None

    def __enter__(self) -> Self:
        self._give_up_at = None
        # A daemon, because a write may hang in the kernel for good and must not hold the exit.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread = self._thread
        with self._changed:
            self._thread = None
            self._give_up_at = time.monotonic() + self._close_s
            self._changed.notify()
        if thread is not None:
            thread.join(self._close_s + 2 * _SLICE_S)

    def write(self, line: str) -> None:
        """Queue a line with its end."""
        data = line.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._thread is None:
                self._count_drops(0 if self._put(data, time.monotonic() + _DIRECT_S) else 1)
            elif self._queued_bytes + len(data) > self._limit_bytes:
                self._count_drops(1)
            else:
                self._lines.append(data)
                self._queued_bytes += len(data)
                self._changed.notify()

    def _run(self) -> None:
        while (line := self._next()) is not None:
            written = self._put(line, None)
            with self._changed:
                self._queued_bytes -= len(line)
                self._count_drops(0 if written else 1)

    def _next(self) -> bytes | None:
        """The next line to write; None when the thread shall end."""
        with self._changed:
            while not self._lines and self._give_up_at is None:
                self._changed.wait()
            if not self._lines:
                return None
            if self._is_late(self._give_up_at):
                self._count_drops(len(self._lines))
                self._lines.clear()
                return None
            return self._lines.popleft()

    def _put(self, data: bytes, give_up_at: float | None) -> bool:
        """Write all of it, or give up: at ``give_up_at``, or when the block's end has set a time and it has passed."""
        try:
            if self._fd is None:
                self._stream.write(data.decode())
                self._stream.flush()
                return True
            while data:
                # Once a pipe is writable, PIPE_BUF bytes go in without a wait.
                if select.select((), (self._fd,), (), _SLICE_S)[1]:
                    data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
                elif self._is_late(give_up_at or self._give_up_at):
                    return False
        except (OSError, ValueError):  # no reader, no space, a stream that was closed
            return False
        return True

    @staticmethod
    def _is_late(give_up_at: float | None) -> bool:
        return give_up_at is not None and time.monotonic() >= give_up_at

    def _count_drops(self, lines: int) -> None:
        self.dropped += lines
        if self._on_drop is not None:
            for _ in range(lines):
                self._on_drop()


class _Lines:
    """What structlog writes to."""

    def __init__(self, output: LogOutput) -> None:
        self._output = output

    def msg(self, line: str) -> None:
        self._output.write(line + "\n")

    log = debug = info = warn = warning = err = error = critical = fatal = exception = failure = msg


class _LibraryHandler(logging.Handler):
    """The libraries' records under one event name, their words as a field."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the format
            text = str(record.msg)
        structlog.get_logger().log(
            record.levelno, "library_log", logger=record.name, text=text, exc_info=record.exc_info or None
        )


def _processors(as_json: bool, colours: bool, count: Callable[[str], None] | None) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        *([_counter(count)] if count is not None else []),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # A plain traceback: frames, never their locals.
        structlog.processors.format_exc_info,
        _mask,
        _render_json
        if as_json
        else structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
    ]


def _counter(count: Callable[[str], None]) -> Processor:
    def count_record(_logger: Any, _method: str, event: EventDict) -> EventDict:
        count(event["level"])
        return event

    return count_record


def _mask(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {name: mask_field(name, value) for name, value in event.items()}


def _render_json(_logger: Any, _method: str, event: EventDict) -> str:
    # The standard library's: it takes any text there is, lone surrogates included.
    return json_text.dumps(event)


def _route_libraries(level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler())
    root.setLevel(level)


def _descriptor(stream: TextIO) -> int | None:
    """None for a stream in memory."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
