"""The log is one parseable line an event, tells no secrets, and waits for nobody."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import trio
from structlog.contextvars import bound_contextvars

from engine.observe.logs import LogOutput, configure_logs

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_off_a_terminal_each_event_is_one_json_line_with_a_utc_time() -> None:
    stream = io.StringIO()
    configure_logs(stream=stream)

    log.info("call_started", seconds=1.5, caller="+15551234567", text="two\nlines")

    [record] = records(stream)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "event": "call_started",
        "level": "info",
        "seconds": 1.5,
        "caller": "***4567",
        "text": "two\\nlines",
    }


def test_on_a_terminal_the_line_is_coloured_and_masked_alike() -> None:
    stream = Terminal()
    configure_logs(stream=stream)

    log.info("call_started", caller="+15551234567", detail="\x1b[2J")

    assert "\x1b[" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
    assert "***4567" in stream.getvalue()
    assert "5551234567" not in stream.getvalue()


@pytest.mark.parametrize("json_lines", [True, False])
def test_an_exception_shows_its_frames_and_none_of_their_locals(json_lines: bool) -> None:
    stream = Terminal()
    configure_logs(json=json_lines, stream=stream)

    def fail(api_key: str) -> None:
        raise ValueError("cannot reach +15551234567")

    try:
        fail("hunter2")
    except ValueError:
        log.exception("call_failed")

    assert "in fail" in stream.getvalue()
    assert "ValueError: cannot reach ***4567" in stream.getvalue()
    assert "hunter2" not in stream.getvalue().replace('fail("hunter2")', "").replace('fail(\\"hunter2\\")', "")


async def test_every_task_of_a_call_logs_its_call_id() -> None:
    stream = io.StringIO()
    configure_logs(stream=stream)

    async def task() -> None:
        await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(log.info, "resource_closed")

    async def call(call_id: str) -> None:
        with bound_contextvars(call_id=call_id, provider="twilio"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(task)
                nursery.start_soon(task)

    async with trio.open_nursery() as nursery:
        for call_id in ("CA1", "CA2"):
            nursery.start_soon(call, call_id)

    assert sorted(record["call_id"] for record in records(stream)) == ["CA1", "CA1", "CA2", "CA2"]


def test_what_is_below_the_level_is_neither_written_nor_counted() -> None:
    stream, counted = io.StringIO(), list[str]()
    configure_logs(level="warning", stream=stream, count=counted.append)

    log.info("turn_ended")
    log.warning("vendor_slow")
    log.error("call_failed")

    assert [record["event"] for record in records(stream)] == ["vendor_slow", "call_failed"]
    assert counted == ["warning", "error"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="log level must be one of debug, info"):
        configure_logs(level="loud")


def test_the_libraries_log_through_the_same_pipe_from_warning_up() -> None:
    stream = io.StringIO()
    configure_logs(stream=stream)
    configure_logs(stream=stream)

    root = logging.getLogger()
    # Without pytest's own handler, which makes an error of the careless record.
    root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__ == "engine.observe.logs"]

    logging.getLogger("httpx").info("HTTP Request: GET https://example.org")
    logging.getLogger("trio_websocket").warning("call from %s failed", "+15551234567")
    logging.getLogger("careless").error("%d", "no number")

    assert [(record["logger"], record["text"], record["level"]) for record in records(stream)] == [
        ("trio_websocket", "call from ***4567 failed", "warning"),
        ("careless", "%d", "error"),
    ]


def test_any_text_of_a_stranger_can_be_logged() -> None:
    stream = io.StringIO()
    configure_logs(stream=stream)

    log.info("odd", name="\ud800\x00\u202e", value=object, number=float("nan"))

    assert records(stream)[0]["name"] == "\ud800\\x00\u202e"


def test_a_pipe_nobody_reads_never_holds_a_log_call_and_what_is_lost_is_counted() -> None:
    read_end, write_end = os.pipe()
    drops: list[int] = []
    slowest_s, threads = 0.0, threading.active_count()
    with os.fdopen(write_end, "w") as stream, os.fdopen(read_end, "rb") as reader:
        began = time.monotonic()
        with LogOutput(stream, limit_bytes=100_000, close_s=0.2, on_drop=lambda: drops.append(1)) as output:
            configure_logs(output=output)
            for number in range(3_000):
                before = time.monotonic()
                log.info("turn_ended", turn=number, filler="x" * 100)
                slowest_s = max(slowest_s, time.monotonic() - before)
            logged_s = time.monotonic() - began
        assert time.monotonic() - began - logged_s < 5.0, "the end waits for nobody either"
        assert threading.active_count() == threads, "the writer hangs in no write"
        stream.close()
        whole = reader.read().decode().split("\n")[:-1]

    # A line takes 50 us; a blocked one would take for ever. The margin is for a busy machine.
    assert slowest_s < 0.5
    assert len(whole) + output.dropped == 3_000
    assert len(drops) == output.dropped > 1_000
    assert [json.loads(line)["turn"] for line in whole] == list(range(len(whole)))


def test_once_the_reader_is_back_the_log_goes_on() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream, os.fdopen(read_end, "rb") as reader:
        with LogOutput(stream, limit_bytes=1_000) as output:
            for _ in range(100):
                output.write("x" * 999 + "\n")
            assert output.dropped > 0
            got = threading.Thread(target=lambda: lines.extend(reader.read().splitlines()))
            lines: list[bytes] = []
            got.start()
            while output._queued_bytes:
                time.sleep(0.001)
            output.write("back\n")
        stream.close()
        got.join()

    assert lines[-1] == b"back"


def test_a_reader_that_has_gone_costs_lines_only() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w")
    with LogOutput(stream) as output:
        configure_logs(output=output)
        log.info("call_started")
    stream.close()

    assert output.dropped == 1


def test_a_full_disk_costs_lines_only() -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream, LogOutput(stream) as output:
        configure_logs(output=output)
        log.info("call_started")

    assert output.dropped == 1


def test_leaving_the_block_writes_what_is_queued_and_ends_the_thread() -> None:
    stream = io.StringIO()
    threads = threading.active_count()
    with LogOutput(stream) as output:
        configure_logs(output=output)
        for number in range(500):
            log.info("turn_ended", turn=number)

    assert [record["turn"] for record in records(stream)] == list(range(500))
    assert threading.active_count() == threads
    assert output.dropped == 0


def test_after_the_block_a_line_is_written_at_once() -> None:
    stream = io.StringIO()
    with LogOutput(stream) as output:
        configure_logs(output=output)

    log.info("stopped")

    assert records(stream)[0]["event"] == "stopped"
