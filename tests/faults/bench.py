"""What every fault is held against: a whole engine, a witness call that goes on talking beside the fault, and the proof
afterwards that nothing is left and nothing was shouted about."""

from __future__ import annotations

import gc
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
import structlog
import trio
import trio.testing

from engine.calls.returning import RETURN_S
from engine.observe.timeline import What
from engine.phone.call import PhoneCall
from engine.ports import IncomingCall
from engine.sessions.house import SWEEP_S
from tests.fakes.hostile import RawPeer, read_head
from tests.fakes.plain_speech import read, speak
from tests.faults.wires import MEDIA_PATHS, Line, new_call_id
from tests.system.rig import SECRET, Rig, descriptors, running_engine, tasks

WITNESS_NUMBER = "+15005550077"
VICTIM_NUMBER = "+15005550088"
ONE_CHAR_A_FRAME = 50.0
"""Characters a second: a frame that is lost takes a character with it."""
STEP_CPU_S = 0.1
"""Of one task step of the engine. On an idle machine the slowest takes a tenth of this."""


@asynccontextmanager
async def bench(
    provider: str = "twilio",
    *,
    witness: bool = True,
    may_crash: bool = False,
    expected_errors: frozenset[str] = frozenset(),
    **limits: Any,
) -> AsyncIterator[Bench]:
    """An engine and a witness call of ``provider`` that has been answered once already.

    On leaving: the witness, if there is one, is answered once more and hangs up; then nothing may be left.
    ``expected_errors`` are events that may be logged as errors; without ``may_crash`` no call may have ended as a
    crash, and no traceback is logged.
    """
    steps = Steps()
    with captured_log() as logged, ungrouped():
        async with running_engine(max_calls=limits.pop("max_calls", 50), **limits) as rig:
            await trio.testing.wait_all_tasks_blocked()
            baseline = (descriptors(), tasks())
            made = Bench(rig, logged)
            with steps.watching():
                if witness:
                    async with Witness(rig, provider).talking():
                        yield made
                else:
                    yield made
            await made.at_rest(baseline)
            ends = {str(m.fields["cause"]) for m in rig.moments if m.what is What.CALL_ENDED}
            assert may_crash or "internal_error" not in ends, ends
    check_log(logged, expected_errors, [WITNESS_NUMBER, VICTIM_NUMBER, SECRET, *made.tokens], may_trace=may_crash)
    assert steps.slowest[0] < STEP_CPU_S, steps.slowest


class Bench:
    """``log`` is everything logged so far."""

    def __init__(self, rig: Rig, logged: list[dict[str, Any]]) -> None:
        self.rig = rig
        self.log = logged
        self.tokens: list[str] = []
        """Every media token that was handed out by :meth:`token`."""

    # --- ways in --------------------------------------------------------------------------------------------

    async def connect(self, *, receive_bytes: int | None = None) -> trio.SocketStream:
        """A TCP connection; ``receive_bytes`` is how little it takes unread."""
        url = urlsplit(self.rig.engine.url)
        tcp = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_bytes is not None:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await tcp.connect((url.hostname, url.port))
        return trio.SocketStream(tcp)

    @asynccontextmanager
    async def socket(self, provider: str, *, receive_bytes: int | None = None) -> AsyncIterator[RawPeer]:
        """A media socket that has opened, and said nothing."""
        async with await self.connect(receive_bytes=receive_bytes) as stream:
            peer = RawPeer(stream)
            head = await peer.upgrade(MEDIA_PATHS[provider])
            assert head.startswith(b"HTTP/1.1 101"), head
            yield peer

    @asynccontextmanager
    async def line(
        self,
        provider: str,
        *,
        call_id: str = "",
        token: str | None = None,
        receive_bytes: int | None = None,
        reads_for_s: float | None = None,
    ) -> AsyncIterator[Line]:
        """An admitted call over a raw socket, not started; what the engine sends is read as it comes, for so long."""
        call_id = call_id or new_call_id(provider)
        async with self.socket(provider, receive_bytes=receive_bytes) as peer, trio.open_nursery() as nursery:
            line = Line(provider, peer, call_id)
            if receive_bytes is None:
                nursery.start_soon(_listen, line, reads_for_s)
            yield line
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def live(
        self, provider: str, *, receive_bytes: int | None = None, reads_for_s: float | None = None
    ) -> AsyncIterator[Line]:
        """A call that is up: admitted and started."""
        async with self.line(provider, receive_bytes=receive_bytes, reads_for_s=reads_for_s) as line:
            await line.start(await self.token(provider, line.call_id))
            await self.until(lambda: line.call_id in self.rig.engine.registry.live_calls())
            yield line

    async def token(self, provider: str, call_id: str) -> str:
        call = IncomingCall(call_id, VICTIM_NUMBER, "+15005550001")
        token = await self.rig.engine.supervisor.admit(provider, call)
        assert isinstance(token, str), token
        self.tokens.append(token)
        return token

    async def http(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send these bytes on a connection of their own; status, headers and body of the answer."""
        async with await self.connect() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send_quietly, stream, data)
            answer = await read_answer(stream)
            nursery.cancel_scope.cancel()
        return answer

    # --- what became of it ----------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], object], *, within_s: float = 5.0) -> None:
        with trio.fail_after(within_s):
            while not condition():  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.005)

    def end_of(self, call_id: str) -> str:
        """The cause of this call's end; empty while it lives, or when there never was such a call."""
        ends = [m for m in self.rig.moments if m.what is What.CALL_ENDED and m.call_id == call_id]
        assert len(ends) <= 1, ends
        return str(ends[0].fields["cause"]) if ends else ""

    def released_at(self, call_id: str) -> float:
        return next(m.at_s for m in self.rig.moments if m.what is What.CALL_RELEASED and m.call_id == call_id)

    async def ended(self, line: Line, *, within_s: float = 30.0) -> str:
        """Until the engine has released this call: the cause."""
        await self.until(lambda: self.end_of(line.call_id), within_s=within_s)
        return self.end_of(line.call_id)

    def opened(self) -> int:
        """How many vendors' sockets were ever opened."""
        return self.rig.vendors.opened["recogniser"] + self.rig.vendors.opened["model"]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]

    async def at_rest(self, baseline: tuple[int, int]) -> None:
        await self.rig.quiet()
        # The session of a call that has lost its line waits for it.
        with trio.move_on_after(RETURN_S + SWEEP_S + 2):
            while descriptors() > baseline[0] or tasks() > baseline[1]:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.05)
        assert descriptors() <= baseline[0]
        assert tasks() <= baseline[1]
        assert set(self.rig.balance().values()) == {0}, self.rig.balance()


class Witness:
    """A call that talks all the time and is answered each time, to the letter; between its turns it asks for the
    health of the engine."""

    def __init__(self, rig: Rig, provider: str) -> None:
        self.turns = 0
        self._rig = rig
        self._provider = provider
        self._is_leaving = False

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[Witness]:
        async with self._rig.call(self._provider, caller=WITNESS_NUMBER) as call:
            assert await call.wait_for_reply(quiet_s=0.2)
            await self._turn(call)
            async with trio.open_nursery() as nursery:
                left = trio.Event()
                nursery.start_soon(self._talk, call, left)
                yield self
                self._is_leaving = True
                await left.wait()
            await self._turn(call)
            assert not call.violations, call.violations
            assert not call.gaps, call.gaps
        assert call.end == "caller"

    async def _talk(self, call: PhoneCall, left: trio.Event) -> None:
        while not self._is_leaving:
            await self._turn(call)
        left.set()

    async def _turn(self, call: PhoneCall) -> None:
        await self._check_health(call)
        self.turns += 1
        said = f"Witness number {self.turns}"
        await call.say(speak(f"{said}.", call.format, chars_per_s=ONE_CHAR_A_FRAME))
        answer = read(await call.wait_for_reply(within_s=5, quiet_s=0.2), call.format)
        text = " ".join(utterance.text.strip() for utterance in answer)
        assert text == f"Turn {self.turns}. You said {said}.", text
        assert all(utterance.is_whole for utterance in answer), answer

    async def _check_health(self, call: PhoneCall) -> None:
        url = urlsplit(self._rig.engine.url)
        began_s = trio.current_time()
        async with await trio.open_tcp_stream(url.hostname or "", url.port or 0) as stream:
            await stream.send_all(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, _, body = await read_answer(stream)
        assert status == 200
        assert call.call_id in orjson.loads(body)["sessions"]["uuids"]
        assert trio.current_time() - began_s < 0.2


async def read_answer(stream: trio.SocketStream) -> tuple[int, dict[str, str], bytes]:
    """One HTTP answer with a Content-Length."""
    head, body = await read_head(stream)
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    while len(body) < int(headers.get("content-length", "0")):
        more = await stream.receive_some(65536)
        assert more, "the answer breaks off"
        body += more
    return int(status.split()[1]), headers, bytes(body)


async def _send_quietly(stream: trio.SocketStream, data: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(data)


@contextmanager
def ungrouped() -> Iterator[None]:
    """An assertion that fails under nurseries is shown as it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


class Steps(trio.abc.Instrument):
    """The engine's slowest task step, in seconds of this thread's computing. Neither waiting for the core is counted
    nor the garbage collector, which has the test's own objects to look at."""

    def __init__(self) -> None:
        self.slowest = (0.0, "")
        self._began_s = 0.0
        self._collecting_s = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        trio.lowlevel.add_instrument(self)
        gc.callbacks.append(self._collect)
        try:
            yield
        finally:
            gc.callbacks.remove(self._collect)
            trio.lowlevel.remove_instrument(self)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began_s = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took_s = time.thread_time() - self._began_s
        if took_s > self.slowest[0] and task.name.startswith(("engine.", "adapters.")):
            self.slowest = (took_s, task.name)

    def _collect(self, phase: str, _info: object) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collecting_s = now
        else:
            self._began_s += now - self._collecting_s


@contextmanager
def captured_log() -> Iterator[list[dict[str, Any]]]:
    """Everything that is logged, by us and by the libraries, as it is before masking."""
    logged: list[dict[str, Any]] = []

    def take(_logger: object, level: str, event: Any) -> Any:
        logged.append({**event, "level": level})
        raise structlog.DropEvent

    class Libraries(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = record.levelname.lower()
            logged.append({"event": record.getMessage(), "level": level, "exc_info": record.exc_info})

    before = structlog.get_config()
    libraries = Libraries(logging.WARNING)
    logging.getLogger().addHandler(libraries)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, take],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    try:
        yield logged
    finally:
        structlog.configure(**before)
        logging.getLogger().removeHandler(libraries)


def check_log(
    logged: list[dict[str, Any]], expected_errors: frozenset[str], secrets: Sequence[str], *, may_trace: bool
) -> None:
    """No error that was not expected, no traceback, and nobody's number, token or key (C7)."""
    for event in logged:
        if event["level"] == "debug":
            continue
        assert event["level"] not in ("error", "critical") or event["event"] in expected_errors, event
        assert may_trace or event["event"] in expected_errors or not event.get("exc_info"), event
        text = repr(event)
        assert not any(secret in text for secret in secrets), event


async def _listen(line: Line, for_s: float | None) -> None:
    with trio.move_on_after(math.inf if for_s is None else for_s):
        await line.listen()
