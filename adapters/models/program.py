"""A command-line program as a brain: a process for each turn, shown the conversation, whose output is the answer.

It runs in a process group of its own, and the group is gone when the reply's block has been left: after its time, first
asked (SIGTERM), then killed; when nobody wants its answer any more, killed at once. What it started is killed with it,
unless it has moved to another group.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from adapters.models.continuing import Continuing
from adapters.models.shown import GO_ON, shown, to_json
from engine.dialogue.context import transcript
from engine.errors import ModelFailed, SettingsError, Why
from engine.events import Context, ModelPart, Role, SessionInfo
from engine.ports import Owner
from engine.runtime.background import beside
from engine.runtime.network import Network
from engine.runtime.outlet import Outlet, filled

log = structlog.get_logger()

ROOM = 64
"""Parts of an answer that have come and were not taken; then the vendor waits."""
ANSWER_BYTES = 256 * 1024
STDERR_BYTES = 2 * 1024
"""The end of it, kept for the log."""
PIECE_BYTES = 4 * 1024
LINGER_S = 0.2
"""How long what the program has started may write on after the program itself has ended."""
COMPLAINTS_S = 0.05
"""And how long the rest of what it wrote to stderr is waited for."""
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER", "LOGNAME")
"""Of our environment; nothing else but what the settings name."""
_STDIN = ("text", "json", "none")
_PLACE = re.compile(r"\{(text|history|json|instructions|session_id)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramConfig:
    """``[vendors.NAME]`` of kind ``program``."""

    command: tuple[str, ...]
    """The program and its arguments; no shell. In them ``{text}`` stands for the caller's last words, ``{history}`` for
    the conversation as text, ``{json}`` as JSON, ``{instructions}`` and ``{session_id}`` for these."""
    name: str = "program"
    """Metric label."""
    stdin: str = "text"
    """What it reads: the conversation as ``text`` or ``json``, or ``none``."""
    timeout_s: float = 30.0
    """For a whole answer."""
    close_s: float = 1.0
    """After that time: until every process of it is gone."""
    environment: tuple[str, ...] = ()
    """Names of variables of our environment that it may see, besides ``PATH``, ``HOME`` and the language."""
    directory: str = ""
    """Where it runs; where we do if empty."""


class ProgramModelVendor:
    """See ``engine.ports.PatientVendor``. Raises SettingsError. ``environ``: what variables are taken from."""

    def __init__(
        self, config: ProgramConfig, network: Network | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> None:
        if not config.command:
            raise SettingsError(f"vendors.{config.name}.command: a program is wanted")
        if config.stdin not in _STDIN:
            raise SettingsError(f"vendors.{config.name}.stdin: one of {', '.join(_STDIN)}, not {config.stdin!r}")
        self.name = config.name
        self.patience_s = config.timeout_s + config.close_s
        """See ``engine.ports.PatientVendor``: to its own time's end, and until it is gone."""
        self._config = config
        self._environ = environ

    @asynccontextmanager
    async def open(self, session: SessionInfo, owner: Owner) -> AsyncIterator[ProgramModel]:
        names = (*PASSED_ON, *self._config.environment)
        model = ProgramModel(
            self._config, session, {name: self._environ[name] for name in names if name in self._environ}
        )
        try:
            yield model
        finally:
            model.close()


class ProgramModel:
    """A ``RawModel``. Knows no tools."""

    def __init__(self, config: ProgramConfig, session: SessionInfo, environment: Mapping[str, str]) -> None:
        self._config = config
        self._session = session
        self._environment = environment
        self._running = 0
        self._is_open = True

    @property
    def is_closed(self) -> bool:
        return not self._is_open and not self._running

    def close(self) -> None:
        self._is_open = False

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ModelPart]]:
        """See ``engine.ports.RawModel.open_reply``."""
        return filled(ROOM, partial(self._produce, context))

    async def _produce(self, context: Context, outlet: Outlet[ModelPart]) -> None:
        log.debug("model_request", session_id=self._session.session_id, call_id=self._session.call_id, **self._fields)
        process = await self._start(context)
        self._running += 1
        try:
            with trio.move_on_after(self._config.timeout_s) as time:
                await self._converse(process, context, outlet)
            if time.cancelled_caught:
                await self._ask_to_end(process)
                raise self._failed("no answer in time", Why.TIMEOUT)
        finally:
            await self._kill(process)
            self._running -= 1
        if process.returncode:
            raise self._failed(f"ended with status {process.returncode}", Why.FAILED)
        outlet.end()

    async def _start(self, context: Context) -> trio.Process:
        config = self._config
        try:
            return await trio.lowlevel.open_process(
                _filled_in(config.command, context),
                stdin=subprocess.DEVNULL if config.stdin == "none" else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self._environment),
                cwd=config.directory or None,
                start_new_session=True,
            )
        except OSError as exc:
            why = {errno.E2BIG: Why.TOO_LONG, errno.EAGAIN: Why.UNREACHABLE, errno.ENOMEM: Why.UNREACHABLE}
            raise self._failed(
                f"cannot be started ({errno.errorcode.get(exc.errno or 0, 'error')})",
                why.get(exc.errno or 0, Why.BAD_REQUEST),
            ) from exc

    async def _converse(self, process: trio.Process, context: Context, outlet: Outlet[ModelPart]) -> None:
        """Until it has said everything and ended."""
        overheard = trio.Event()
        async with beside(
            partial(self._show, process, context),
            partial(self._overhear, process, overheard),
            partial(self._sweep, process),
        ):
            await self._listen(process, Continuing(context.said), outlet)
            await process.wait()
            with trio.move_on_after(COMPLAINTS_S):
                await overheard.wait()

    async def _show(self, process: trio.Process, context: Context) -> None:
        if process.stdin is None:
            return
        text = as_json(context) if self._config.stdin == "json" else as_text(context).encode("utf-8", "replace")
        with suppress(trio.BrokenResourceError):  # it may do without
            await process.stdin.send_all(text)
        await process.stdin.aclose()

    async def _listen(self, process: trio.Process, continuing: Continuing, outlet: Outlet[ModelPart]) -> None:
        pipe = _there(process.stdout)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        count = 0
        while data := await pipe.receive_some(PIECE_BYTES):
            count += len(data)
            if count > ANSWER_BYTES:
                raise self._failed("it does not stop talking", Why.NONSENSE)
            if text := continuing.feed(decoder.decode(data)):
                await outlet.put(text)
        if text := continuing.feed(decoder.decode(b"", True)) + continuing.end():
            await outlet.put(text)

    async def _overhear(self, process: trio.Process, overheard: trio.Event) -> None:
        pipe = _there(process.stderr)
        end, count = b"", 0
        try:
            while data := await pipe.receive_some(PIECE_BYTES):
                count += len(data)
                end = (end + data)[-STDERR_BYTES:]
            overheard.set()
        finally:
            if end:
                text = end.decode("utf-8", "replace")
                log.debug("program_stderr", session_id=self._session.session_id, bytes=count, end=text, **self._fields)

    async def _sweep(self, process: trio.Process) -> None:
        """What the program left behind may hold its output open for ever."""
        await process.wait()
        await trio.sleep(LINGER_S)
        _signal(process, signal.SIGKILL)

    async def _ask_to_end(self, process: trio.Process) -> None:
        _signal(process, signal.SIGTERM)
        with trio.move_on_after(self._config.close_s / 2):
            await process.wait()

    async def _kill(self, process: trio.Process) -> None:
        _signal(process, signal.SIGKILL)
        with trio.CancelScope(deadline=trio.current_time() + self._config.close_s, shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    await pipe.aclose()

    def _failed(self, what: str, why: Why) -> ModelFailed:
        return ModelFailed(self._config.name, what, why=why)

    @property
    def _fields(self) -> dict[str, str]:
        return {"vendor": self._config.name}


def as_text(context: Context) -> str:
    """Instructions, what is known and who said what; the line of the answer is left to be written."""
    parts = [shown(context).system, transcript(message for message in context if message.role is not Role.SYSTEM)]
    if context.said:
        parts.append(f"Agent: {context.said}\n{GO_ON}")
    return "\n\n".join(part for part in parts if part) + "\nAgent: "


def as_json(context: Context) -> bytes:
    """The same as an object, in one line: ``session_id``, ``turn_id``, ``agent``, ``modality``, ``instructions`` (with
    what is known), ``messages`` (``role`` user or assistant, ``content``, ``interrupted``), and ``said``: how the
    answer began that is to be gone on with."""
    messages = [
        {"role": str(message.role), "content": message.text, "interrupted": message.interrupted}
        for message in context
        if message.role is not Role.SYSTEM
    ]
    value = {
        "session_id": context.session_id,
        "turn_id": context.turn_id,
        "agent": context.agent,
        "modality": str(context.modality),
        "instructions": shown(context).system,
        "messages": messages,
        "said": context.said,
    }
    return to_json(value) + b"\n"


def _filled_in(command: tuple[str, ...], context: Context) -> list[str]:
    last = next((message.text for message in reversed(context) if message.role is Role.CALLER), "")
    values = {"text": last, "session_id": context.session_id}
    if any("{history}" in argument or "{json}" in argument for argument in command):
        values |= {"history": as_text(context), "json": as_json(context).decode()}
    values["instructions"] = shown(context).system
    return [_argument(argument, values) for argument in command]


def _argument(template: str, values: Mapping[str, str]) -> str:
    text = _PLACE.sub(lambda place: values.get(place[1], place[0]), template)
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    # What a caller says is no option of the program's.
    return f" {text}" if text.startswith("-") and not template.startswith("-") else text


def _there(pipe: trio.abc.ReceiveStream | None) -> trio.abc.ReceiveStream:
    if pipe is None:
        raise RuntimeError("a pipe was asked for")
    return pipe


def _signal(process: trio.Process, number: signal.Signals) -> None:
    """To the whole group. A number of the group's own cannot have been given away while a member of it lives."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
