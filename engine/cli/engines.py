"""The engines that test conversations are held with: one of their own in this process, or one that runs already."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from engine.assembly import Engine
from engine.cli.call import SECRETS, CallersVoice, embedded_voice
from engine.converse.runner import NotHeld, Target
from engine.converse.script import AgentOf, Script
from engine.errors import SettingsError
from engine.events import Modality
from engine.phone.conversation import Voice
from engine.phone.telnyx import new_keys
from engine.phone.texts import Inbox, open_inbox
from engine.settings import Settings, load_settings

READY_S = 120.0
"""For the embedded speech to load."""
DRAIN_S = 5.0
UNLIMITED = 100_000

_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""A key that TOML takes without quotes."""

OpenVoice = Callable[[], AbstractAsyncContextManager[Voice]]


class KeepingTarget(Target, Protocol):
    @property
    def kept(self) -> str:
        """Where the user finds what was said."""
        ...


@dataclass
class _There:
    """An engine that somebody else runs."""

    url: str
    api_key: str
    secrets: Mapping[str, str]
    public_url: str
    kept: str
    voice: Voice | None = None
    inbox: Inbox | None = None

    @asynccontextmanager
    async def open_voice(self) -> AsyncIterator[Voice]:
        if self.voice is None:
            async with embedded_voice() as self.voice:
                pass
        yield self.voice

    async def restart(self) -> None:
        raise SettingsError("only an engine that was started for the conversation can be started again: leave --url")


@asynccontextmanager
async def running_engine(script: Script, url: str, public_url: str = "") -> AsyncIterator[KeepingTarget]:
    """Raises NotHeld when the script wants what cannot be done there."""
    for number, turn in enumerate(script.turns):
        if turn.restart:
            raise NotHeld(
                f"{script.file}: turns[{number}].restart: only an engine that was started for the conversation can be "
                "started again; leave --url"
            )
    yield _There(
        url,
        os.environ.get("API_KEY", ""),
        {provider: os.environ.get(variable, "") for provider, variable in SECRETS.items()},
        public_url,
        f"under the number {script.caller} at {url}",
    )


# --- an engine of its own -----------------------------------------------------------------------------------


class _Here:
    """An engine in this process, that can be started again."""

    api_key = public_url = ""

    def __init__(
        self,
        nursery: trio.Nursery,
        config: Path,
        environ: Mapping[str, str],
        inbox: Inbox,
        open_voice: OpenVoice | None,
    ) -> None:
        self.inbox: Inbox | None = inbox
        self.secrets = {provider: environ[variable] for provider, variable in SECRETS.items()}
        self.kept = f"{config} (offhook trace --config, or offhook serve --config)"
        self._nursery = nursery
        self._config = config
        self._environ = environ
        self._open_voice = open_voice
        self._engine = Engine(self._settings(), insecure_dev=True)
        self._ended = trio.Event()

    @property
    def url(self) -> str:
        return self._engine.url

    @asynccontextmanager
    async def open_voice(self) -> AsyncIterator[Voice]:
        if self._open_voice is not None:
            async with self._open_voice() as voice:
                yield voice
        elif self._engine.speech is not None:
            yield CallersVoice(self._engine.speech)
        else:
            async with embedded_voice() as voice:
                yield voice

    async def start(self) -> None:
        """Until it takes calls. Raises SettingsError."""
        await self._nursery.start(self._run)
        with trio.move_on_after(READY_S) as waiting:
            while not self._engine.supervisor.ready[0]:  # noqa: ASYNC110 - readiness is asked for, as a load balancer does
                await trio.sleep(0.02)
        if waiting.cancelled_caught:
            raise SettingsError(f"the engine is not ready: {self._engine.supervisor.ready[1]}")

    async def stop(self) -> None:
        self._engine.stop()
        await self._ended.wait()

    async def restart(self) -> None:
        await self.stop()
        self._engine = Engine(self._settings(), insecure_dev=True)
        self._ended = trio.Event()
        await self.start()

    async def _run(self, *, task_status: trio.TaskStatus[str]) -> None:
        engine, ended = self._engine, self._ended
        try:
            await engine.run(task_status=task_status)
        finally:
            ended.set()

    def _settings(self) -> Settings:
        return load_settings(self._config, self._environ)


@asynccontextmanager
async def own_engine(
    script: Script,
    *,
    keep: bool = False,
    open_voice: OpenVoice | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> AsyncIterator[KeepingTarget]:
    """An engine made for the script, on a store in a directory of its own, which is gone afterwards unless it is to be
    kept. ``settings``: tables of them over those made here. ``open_voice``: instead of the embedded speech. Raises
    SettingsError."""
    directory = Path(tempfile.mkdtemp(prefix="offhook-converse-"))
    try:
        config = directory / "offhook.toml"
        environ = _new_secrets(script)
        async with open_inbox() as inbox:
            tables = settings_for(script, directory, inbox.url)
            for table, values in (settings or {}).items():
                tables[table] = tables.get(table, {}) | dict(values)
            config.write_text(as_toml(tables), encoding="utf-8")
            async with _in_no_group() as nursery:
                engine = _Here(nursery, config, environ, inbox, open_voice)
                await engine.start()
                try:
                    yield engine
                finally:
                    with trio.move_on_after(DRAIN_S, shield=True):
                        await engine.stop()
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _in_no_group() -> AsyncIterator[trio.Nursery]:
    """A nursery out of which one error comes as it is. What still runs at the end of the block is cancelled."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def _new_secrets(script: Script) -> dict[str, str]:
    """Signing keys; and for SMS over Vonage the key of an application, which takes a moment to make."""
    made = dict.fromkeys((*SECRETS.values(), "TELNYX_API_KEY", "SIGNALWIRE_API_TOKEN"), secrets.token_hex(16))
    made["TELNYX_PRIVATE_KEY"], made["TELNYX_PUBLIC_KEY"] = new_keys()
    if any(script.modality(turn) is Modality.SMS for turn in script.turns):
        made["VONAGE_PRIVATE_KEY"] = _new_private_key()
    return made


def _new_private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def settings_for(script: Script, directory: Path, inbox_url: str) -> dict[str, dict[str, Any]]:
    """Settings, by table: on loopback, on SQLite, with nothing that would hold up a test."""
    agents = script.agents or {"desk": AgentOf(script="appointment_desk")}
    return {
        "server": {"port": 0},
        "limits": {"drain_s": DRAIN_S, "calls_per_minute_per_caller": UNLIMITED},
        "store": {
            "load_s": 3.0,  # what is remembered is what is tested, not how busy this machine is
            "kind": "sqlite",
            "path": str(directory / "offhook.db"),
            "journal": str(directory / "offhook.journal"),
        },
        "sessions": {
            "texts_per_minute_per_caller": UNLIMITED,
            "trusted_lines": [script.dialled],
            **script.sessions,
        },
        "twilio": {"account_sid": f"AC{secrets.token_hex(16)}", "api_url": inbox_url},
        "vonage": {"application_id": str(uuid.uuid4()), "api_url": inbox_url},
        "telnyx": {"api_url": inbox_url},
        "plivo": {"auth_id": f"MA{secrets.token_hex(9).upper()}", "api_url": inbox_url},
        "signalwire": {"project_id": str(uuid.uuid4()), "api_url": inbox_url},
        **_agents(agents, script),
    }


def settings_of_agents(script: Script) -> str:
    """What stands in the settings of an engine that has the script's agents, as TOML."""
    tables: dict[str, Mapping[str, object]] = {"sessions": script.sessions} if script.sessions else {}
    tables |= _agents(script.agents, script)
    default = "" if script.over is Modality.TEXT else f"default_agent = {json.dumps(script.first_agent)}\n\n"
    return default + as_toml(tables)


def _agents(agents: Mapping[str, AgentOf], script: Script) -> dict[str, dict[str, object]]:
    """A table for each."""
    return {
        f"agents.{name if _BARE.fullmatch(name) else json.dumps(name)}": _agent(agent, script)
        for name, agent in agents.items()
    }


def _agent(agent: AgentOf, script: Script) -> dict[str, Any]:
    """Paths in a script are relative to it."""
    beside = Path(script.file).parent / agent.script
    path = str(beside.resolve()) if agent.script.endswith(".toml") and beside.is_file() else agent.script
    made = {"script": path} if path else {"factory": agent.factory, "options": agent.options}
    return {"scope": str(script.scope)} | made


def as_toml(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Tables of plain values as TOML."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)  # texts, numbers and booleans are written alike
