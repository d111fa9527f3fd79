"""What the tools on the store have in common: opening it, finding a session in it, and showing what it holds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import trio
from cyclopts import Parameter

from engine.assembly import erase_recordings, open_vault
from engine.cli.usage import NotThere, check_engine_url
from engine.converse.api import Api
from engine.dialogue.context import ContextFormat, ContextLimits
from engine.errors import OffhookError, SettingsError, StoreDown
from engine.observe.logs import configure_logs
from engine.observe.masking import mask_number, mask_text
from engine.ports.recordings import RecordingFailed
from engine.sessions.history import History
from engine.sessions.privacy import Privacy
from engine.settings import SessionSettings, Settings, load_settings
from engine.storage.identity import e164, stream_key
from engine.storage.journal import Journal
from engine.storage.keyring import KeyRing
from engine.storage.record import Stored
from engine.storage.vault import Vault

BY = "cli"
"""Who does it, for the audit log."""
API_S = 30.0
SCAN_PAGE = 100

Config = Annotated[Path | None, Parameter(help="Settings file; default ./offhook.toml if there is one.")]
Url = Annotated[str, Parameter(help="Ask the engine that runs there, with the API key in API_KEY.")]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON.")]
ShowNumbers = Annotated[bool, Parameter(help="Phone numbers as they are, not only their ends.")]
Name = Annotated[str, Parameter(help="A session's id, the id of a call or a stream of it, or the caller's number.")]

_SESSION_ID = re.compile(r"s_[0-9a-f]{32}")
_PASSWORD = re.compile(r"(://[^/?:@]*):.*(?=@)")
"""Of an address, where somebody has written it down all the same."""
_NUMBER_KEYS = frozenset({"number", "user", "caller", "phone"})


@dataclass(frozen=True, slots=True)
class Tools:
    """The opened store, and what is done with it."""

    settings: Settings
    vault: Vault
    history: History
    privacy: Privacy
    recordings: KeptRecordings

    def number(self, text: str) -> str:
        """In E.164. Raises NotThere for what is no number."""
        return number_in(text, self.settings.sessions.default_region)

    async def find(self, name: str) -> Stored:
        """The session of this id, of this call or stream, or the latest of this number. Raises NotThere, StoreDown."""
        found = await self._find(name)
        if found is None:
            forgets = all(agent.scope == "call" for agent in self.settings.agents.values())
            hint = "; calls of the scope `call` are forgotten when they end, unless sessions.keep_calls is set"
            raise NotThere(
                f"there is no session {shown_name(name)} in the store, and no call or number of that name"
                f"{hint if forgets and not self.settings.sessions.keep_calls else ''}"
            )
        return found

    async def _find(self, name: str) -> Stored | None:
        number = "" if _SESSION_ID.fullmatch(name) else e164(name, self.settings.sessions.default_region)
        if number:
            sessions = await self.history.of_number(number)
            return sessions[-1] if sessions else None
        last = self.settings.sessions.retention
        return (
            await self.history.session(name)
            or await self.vault.load(stream_key(name), last=last)
            or await self._of_call(name)
        )

    async def _of_call(self, call_id: str) -> Stored | None:
        """By looking through all of them: a call's id is written in its messages alone."""
        after = ""
        while True:
            heads = await self.vault.sessions(after, limit=SCAN_PAGE)
            for head in heads:
                stored = await self.history.session(head.record.session_id)
                if stored is not None and any(entry.call_id == call_id for entry in stored.entries):
                    return stored
            if len(heads) < SCAN_PAGE:
                return None
            after = heads[-1].record.session_id


def on_store(config: Path | None, work: Callable[[Tools], Awaitable[int]]) -> int:
    """Opens the store of the settings, does the work with it, and returns its exit code.

    Raises SettingsError, NotThere, Unreachable.
    """

    async def opened(settings: Settings) -> int:
        async with open_vault(settings) as vault:
            history = History(vault, Nobody(), context_limits(settings.sessions))
            recordings = KeptRecordings(settings, vault)
            privacy = Privacy(vault, [LeftJournal(settings), recordings])
            return await work(Tools(settings, vault, history, privacy, recordings))

    return on_settings(config, opened)


def on_settings(config: Path | None, work: Callable[[Settings], Awaitable[int]]) -> int:
    """The same for work that opens the store itself."""
    configure_logs(level="critical")  # what goes wrong is told in the command's own words
    settings = load_settings(config)
    store = settings.store
    if store.kind == "memory":
        raise SettingsError(
            "store.kind: 'memory' keeps nothing outside of the running engine, so there is nothing to open; "
            "ask the engine with --url. Recordings of an earlier run under 'memory' are nobody's any more: "
            "remove them by hand"
        )
    if store.kind == "sqlite" and not Path(store.path).is_file():
        raise SettingsError(f"store.path: there is no file {store.path}; is it relative to another directory?")
    try:
        return trio.run(work, settings)
    except StoreDown as exc:
        raise Unreachable(f"{exc}; look at {where(settings)}") from exc


class Nobody:
    """No session is live in a tool. One that is, elsewhere, finds out when it writes the next time."""

    def changed(self, session_id: str) -> None:
        pass


class LeftJournal:
    """What an engine has left behind while its store was down; it would be stored at the next start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def forget(self, number: str) -> None:
        """Raises Unreachable while an engine has it open."""
        store = self._settings.store
        if not store.journal or not await trio.Path(store.journal).exists():
            return
        keys = KeyRing.parse(self._settings.secrets.encryption_keys)
        journal = Journal(Path(store.journal), keys, store.journal_max_bytes, operation_s=store.operation_s)
        try:
            await journal.forget(number)
        except StoreDown as exc:
            raise Unreachable(
                f"store.journal {store.journal!r} cannot be changed ({exc.why}); if an engine runs, ask it with --url"
            ) from exc
        finally:
            with trio.move_on_after(store.operation_s, shield=True):
                await journal.aclose()


class KeptRecordings:
    """What an engine has recorded. One of a call that goes on is the engine's to erase: ask it with ``--url``."""

    def __init__(self, settings: Settings, vault: Vault) -> None:
        self.erased = 0
        self._settings = settings
        self._vault = vault

    async def forget(self, number: str) -> None:
        """Raises Unreachable, StoreDown."""
        await self._vault.open()
        recording = self._settings.recording
        try:
            self.erased += await erase_recordings(self._settings, self._vault.fingerprint(number))
        except RecordingFailed as exc:
            place = f"bucket {recording.bucket!r}" if recording.bucket else f"directory {recording.directory!r}"
            raise Unreachable(f"recording.{place}: what was recorded cannot be erased ({exc})") from exc


class Unreachable(OffhookError):
    """The store does not answer. The message names the settings that say where it is."""


def where(settings: Settings) -> str:
    """Where the store is, by the names of its settings and without secrets."""
    store = settings.store
    match store.kind:
        case "sqlite":
            return f"store.path {store.path!r}"
        case "postgresql":
            without_password = _PASSWORD.sub(r"\1", store.url)
            return "DATABASE_URL" if settings.secrets.database_url else f"store.url {without_password!r}"
        case "redis":
            return f"store.host {store.host!r} and store.port {store.port}"
    return "the memory of the running engine"


@asynccontextmanager
async def open_api(url: str) -> AsyncIterator[Api]:
    """A running engine's API, with the key in ``API_KEY``. Raises NotThere for what is no address."""
    check_engine_url(url)
    async with httpx.AsyncClient(trust_env=False, timeout=API_S) as client:
        yield Api(client, lambda: url.rstrip("/"), os.environ.get("API_KEY", ""))


async def find_over(api: Api, name: str, region: str) -> str:
    """The id of the session of this id, or the latest of this number. Raises NotThere, ApiFailed."""
    number = "" if _SESSION_ID.fullmatch(name) else e164(name, region)
    if not number:
        if await api.session(name) is None:
            raise NotThere(f"the engine has no session {name!r}; over --url calls are found by the caller's number")
        return name
    sessions = await api.sessions_of(number)
    if not sessions:
        raise NotThere(f"the engine has nothing of {mask_number(number)}")
    return str(sessions[0]["session_id"])


def context_limits(sessions: SessionSettings) -> ContextLimits:
    """What a model is shown by these settings."""
    return ContextLimits(sessions.window, sessions.max_chars, ContextFormat(sessions.context_format))


def number_in(text: str, region: str) -> str:
    number = e164(text, region)
    if not number:
        raise NotThere(f"{text!r} is no phone number; expected one such as +15550100000")
    return number


# --- showing ------------------------------------------------------------------------------------------------


def shown_name(name: str) -> str:
    """A name as somebody gave it, for a message: perhaps a number."""
    return repr(mask_text(name))


def plain(value: object, *, show_numbers: bool) -> Any:
    """Plain JSON values of a result, numbers masked in it unless they are asked for."""
    return msgspec.to_builtins(value) if show_numbers else _masked("", msgspec.to_builtins(value))


def print_json(value: object, *, show_numbers: bool) -> None:
    print(json.dumps(plain(value, show_numbers=show_numbers), ensure_ascii=False))


def masked(text: str, *, show_numbers: bool) -> str:
    return text if show_numbers else mask_text(text, limit=len(text) + 1)


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _masked(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(name, item) for item in value]
    if not isinstance(value, str):
        return value
    return mask_number(value) if name in _NUMBER_KEYS else masked(value, show_numbers=False)
