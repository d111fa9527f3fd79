"""What remembers: the store of the settings, the vault over it, the writer before it, and the sessions on top."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog
import trio

from engine.dialogue.context import ContextFormat, ContextLimits
from engine.errors import SettingsError, StoreDown
from engine.observe.metrics import Metrics
from engine.ports import Agent, RecordStore
from engine.sessions.around import Around
from engine.sessions.history import History
from engine.sessions.house import Sessions
from engine.sessions.privacy import Forgets
from engine.sessions.showing import Showing
from engine.sessions.webhooks import Webhooks
from engine.settings import SessionSettings, Settings
from engine.storage import disk
from engine.storage.journal import Journal
from engine.storage.keyring import KeyFile, KeyRing
from engine.storage.legacy import LegacyStore, adopt_all
from engine.storage.vault import Vault
from engine.storage.writer import Writer

log = structlog.get_logger()

DAY_S = 86_400.0
PURGE_EVERY_S = 3600.0
KEYS_EVERY_S = 5.0
CLOSE_S = 1.0
OPEN_S = 30.0
"""For a store that is locked by another process when the engine starts."""
CHECK_S = 1.0
SETTLE_S = 3.0
"""At the end, for what sessions hold to reach the store or the journal."""


@dataclass(frozen=True, slots=True)
class Remembering:
    """All that remembers, put together. The actors in it are run by whoever holds it."""

    store: RecordStore
    vault: Vault
    writer: Writer
    webhooks: Webhooks
    sessions: Sessions
    history: History
    forgetters: tuple[Forgets, ...]
    """Who has to forget a number before the store does, in the order in which words travel."""
    keys: KeyRing
    key_file: KeyFile | None
    region: str
    """What a number without a country code is read in."""

    async def settle(self) -> None:
        """Until what sessions hold is in the store or in the journal; at most ``SETTLE_S``."""
        with trio.move_on_after(SETTLE_S) as waiting:
            await self.sessions.settle()
            await self.writer.flush()
            await self.webhooks.wait_sent()
        if waiting.cancelled_caught:
            log.warning("not_settled", backlog=self.writer.backlog)

    async def try_store(self) -> None:
        """At the start: whether it can be reached, and whether the keys open it. What it says is in the log."""
        with trio.move_on_after(CHECK_S) as asking:
            try:
                await self.vault.open()
            except StoreDown as exc:
                if not self.vault.lacks_keys:
                    self.writer.begin_down(exc)
        if asking.cancelled_caught:
            log.warning("store_not_answering", kind=self.store.backend, within_s=CHECK_S)

    async def try_keys(self) -> None:
        """Find out whether the keys open the store, if it answers soon: ``vault.lacks_keys`` tells then."""
        with trio.move_on_after(CHECK_S), suppress(StoreDown):
            await self.vault.open()

    async def look_after(self) -> None:
        """An older program's sessions are taken over, expired ones are purged, and exchanged keys are put to use. Until
        cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._adopt)
            await self._keep_house()

    async def _adopt(self) -> None:
        """What an older program left in the store's table; as soon as the store can be reached."""
        store = self.store
        if not isinstance(store, LegacyStore):
            return
        while True:
            try:
                await adopt_all(store, self.vault, self.region, now=self.sessions.now())
                return
            except StoreDown:
                await trio.sleep(KEYS_EVERY_S)

    async def _keep_house(self) -> None:
        purged_at_s = trio.current_time()
        while True:
            await trio.sleep(KEYS_EVERY_S)
            self._take_new_keys()
            if self.vault.lacks_keys:
                await self.try_keys()
            if trio.current_time() - purged_at_s >= PURGE_EVERY_S:
                purged_at_s = trio.current_time()
                try:
                    log.info("sessions_purged", count=await self.vault.purge(self.sessions.now()))
                except StoreDown as exc:
                    log.warning("purge_failed", why=exc.why)

    def _take_new_keys(self) -> None:
        text = self.key_file.changed() if self.key_file else None
        if text is None:
            return
        try:
            self.keys.replace(text)
        except SettingsError as exc:
            log.error("encryption_keys_refused", why=str(exc))
        else:
            log.info("encryption_keys_exchanged")


@dataclass(frozen=True, slots=True)
class _Unsent:
    """Events that wait to be sent out, as one of those who have to forget a number."""

    webhooks: Webhooks

    async def forget(self, number: str) -> None:
        self.webhooks.forget(number)


@asynccontextmanager
async def remembering(
    settings: Settings,
    agents: Mapping[str, Agent],
    metrics: Metrics,
    new_http_client: Callable[[], httpx.AsyncClient],
    *,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[Remembering]:
    """Opens the store; a server that cannot be reached now is tried again later. Raises SettingsError."""
    keys, key_file = _keys(settings)
    async with AsyncExitStack() as stack, _open_journal(settings, keys) as journal:
        store = await _opened(stack, settings, now)
        vault = _vault(store, keys, settings, metrics, now)
        writer = Writer(vault, journal, metrics, operation_s=settings.store.operation_s)
        webhooks = Webhooks(settings.webhooks, settings.secrets.webhook_secret, metrics, now=now)
        around = Around(
            settings.sessions,
            agents,
            vault,
            writer,
            Showing(metrics, context_limits(settings.sessions), keeps_trace=settings.sessions.trace),
            metrics,
            webhooks.tell,
            now,
            settings.store.load_s,
        )
        sessions = Sessions(around, settings, agents)
        history = History(vault, sessions, context_limits(settings.sessions), now=now)
        region = settings.sessions.default_region
        forgetters = (sessions, writer, _Unsent(webhooks))
        if not keys.is_encrypting:
            log.warning("store_not_encrypted", kind=store.backend, see="ENCRYPTION_KEYS")
        yield Remembering(store, vault, writer, webhooks, sessions, history, forgetters, keys, key_file, region)


@asynccontextmanager
async def open_vault(settings: Settings, metrics: Metrics | None = None) -> AsyncIterator[Vault]:
    """The configured store for a tool of its own. Raises SettingsError, StoreDown."""
    if settings.store.kind == "memory":
        raise SettingsError("store.kind: with 'memory' there is nothing to open outside the engine; use --url")
    keys, _ = _keys(settings)
    async with open_store(settings, must_connect=True) as store:
        vault = _vault(store, keys, settings, metrics or Metrics(stores=(settings.store.kind,)), time.time)
        await vault.open()
        yield vault


async def check_store(settings: Settings) -> None:
    """Raises SettingsError for a server that is there and of no use to this program: a newer schema, a wrong password.
    One that does not answer within ``CHECK_S`` is tried again by whoever needs it."""
    if settings.store.kind in ("postgresql", "redis"):
        with trio.move_on_after(CHECK_S), suppress(StoreDown):
            async with open_store(settings, must_connect=True):
                pass


async def migrate_store(settings: Settings) -> int:
    """Bring the configured store to this program's tables, the sessions that an older program left in them included.
    Returns how many of these there were. Raises SettingsError, StoreDown."""
    async with open_store(settings, must_connect=True) as store:
        keys, _ = _keys(settings)
        vault = _vault(store, keys, settings, Metrics(stores=(settings.store.kind,)), time.time)
        await vault.open()
        if not isinstance(store, LegacyStore):
            return 0
        return await adopt_all(store, vault, settings.sessions.default_region, now=time.time())


def open_store(
    settings: Settings, *, must_connect: bool = False, now: Callable[[], float] = time.time
) -> AbstractAsyncContextManager[RecordStore]:
    """Raises SettingsError: at once for a kind whose packages are not installed, else on entering."""
    store, secrets = settings.store, settings.secrets
    # Each kind brings packages of its own, which only its users need to have.
    match store.kind:
        case "memory":
            from adapters.stores.memory import open_memory  # noqa: PLC0415

            return open_memory(now=now)
        case "sqlite":
            from adapters.stores.sql import open_sqlite  # noqa: PLC0415

            return open_sqlite(store.path, table=store.table, now=now)
        case "postgresql":
            _needs("psycopg", store.kind)
            from adapters.stores.sql import open_postgresql  # noqa: PLC0415

            url = secrets.database_url or store.url
            if not url:
                raise SettingsError("store.url: expected PostgreSQL's address, here or in DATABASE_URL")
            return open_postgresql(url, table=store.table, now=now, must_connect=must_connect)
        case _:
            _needs("coredis", store.kind)
            from adapters.stores.redis import open_redis  # noqa: PLC0415

            return open_redis(
                store.host,
                store.port,
                database=store.database,
                password=secrets.redis_password,
                prefix=store.table,
                now=now,
                must_connect=must_connect,
            )


async def _opened(stack: AsyncExitStack, settings: Settings, now: Callable[[], float]) -> RecordStore:
    """The store, which whoever has its file just now may hold up for a while. Raises SettingsError."""
    until_s = trio.current_time() + OPEN_S
    while True:
        try:
            return await stack.enter_async_context(open_store(settings, now=now))
        except StoreDown as exc:
            if trio.current_time() >= until_s:
                raise SettingsError(f"store.kind: {settings.store.kind} cannot be opened ({exc.why})") from None
            log.warning("store_not_opened", kind=settings.store.kind, why=exc.why)
            await trio.sleep(1.0)


@asynccontextmanager
async def _open_journal(settings: Settings, keys: KeyRing) -> AsyncIterator[Journal | None]:
    """What keeps turns while the store is down; None if the settings want none, or the store keeps nothing itself.
    Raises SettingsError for a place where no file can be."""
    limits = settings.store
    if limits.kind == "memory" or not limits.journal:
        yield None
        return
    if not disk.may_be_written(Path(limits.journal)):
        raise SettingsError(f"store.journal: expected a file that can be written, or none at all, got {limits.journal}")
    journal = Journal(Path(limits.journal), keys, max_bytes=limits.journal_max_bytes, operation_s=limits.operation_s)
    try:
        yield journal
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await journal.aclose()


def context_limits(settings: SessionSettings) -> ContextLimits:
    return ContextLimits(settings.window, settings.max_chars, ContextFormat(settings.context_format))


def _needs(package: str, kind: str) -> None:
    from importlib.util import find_spec  # noqa: PLC0415

    if find_spec(package) is None:
        raise SettingsError(f"store.kind: {kind!r} needs more packages: pip install 'offhook[{kind}]'")


def _keys(settings: Settings) -> tuple[KeyRing, KeyFile | None]:
    secrets = settings.secrets
    file = KeyFile(Path(secrets.encryption_keys_file)) if secrets.encryption_keys_file else None
    return KeyRing.parse(secrets.encryption_keys), file


def _vault(store: RecordStore, keys: KeyRing, settings: Settings, metrics: Metrics, now: Callable[[], float]) -> Vault:
    sessions = settings.sessions
    return Vault(
        store,
        keys,
        metrics,
        ttl_s=sessions.ttl_days * DAY_S,
        retention=sessions.retention,
        operation_s=settings.store.operation_s,
        now=now,
    )
