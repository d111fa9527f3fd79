"""A whole engine, from its settings to its drain."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from adapters.providers.link import open_link
from engine import __version__
from engine.assembly.agents import (
    Workshop,
    agent_from_factory,
    check_composed,
    load_activity,
    load_speech,
    needs_speech,
    script_of,
)
from engine.assembly.composed import ComposedAgent
from engine.assembly.housekeeping import Housekeeping
from engine.assembly.memory import SETTLE_S, Remembering, check_store, remembering
from engine.assembly.providers import line_formats, providers_of
from engine.assembly.recordings import recordings_of
from engine.assembly.tools import Tools, tool_labels
from engine.assembly.vendors import Vendors, vendor_labels
from engine.calls.call import Surroundings
from engine.calls.outbound.dialing import Dialing
from engine.calls.registry import Registry
from engine.calls.supervisor import Supervisor
from engine.errors import SettingsError, SpeechFailed, StoreDown
from engine.events import AudioFormat, CallInfo
from engine.observe.labels import WebhookEvent
from engine.observe.metrics import Metrics
from engine.observe.timeline import Watcher
from engine.ports import Agent
from engine.runtime.lag import LagWatch
from engine.runtime.network import Network
from engine.runtime.phrases import PhraseCache
from engine.runtime.supervision import keep_running
from engine.runtime.ticker import Ticker
from engine.sessions.call_session import CallSession
from engine.sessions.privacy import Forgets, Privacy
from engine.sessions.webhooks import check_webhooks
from engine.settings import Settings
from engine.settings.vendors import EMBEDDED
from engine.storage.identity import e164
from engine.vendors.around import Vendoring
from engine.vendors.breaker import Breakers
from engine.vendors.policy import Policy
from engine.web.app import build_app, media_handlers
from engine.web.calls import CallDesk
from engine.web.desk import Desk
from engine.web.door import Door
from engine.web.gate import Access
from engine.web.keys import parse_keys
from engine.web.limits import DoorLimits, pending_for
from engine.web.texts import TextDesk
from engine.web.urls import LOOPBACK, PublicUrl

if TYPE_CHECKING:
    from adapters.speech.embedded.speech import EmbeddedSpeech

log = structlog.get_logger()

ACTORS = (
    "registry",
    "ticker",
    "speech",
    "tools",
    "store",
    "sessions",
    "texts",
    "dialing",
    "recordings",
    "webhooks",
    "memory",
    "lag",
    "housekeeping",
)
SWITCH_INTERVAL_S = 0.0005
"""How long a worker thread may keep the interpreter from the event loop; Python's own 5 ms would be heard."""
LISTEN_BACKLOG = 1024
PREPARE_AGAIN_S, LONGEST_PAUSE_S = 5.0, 120.0
"""Between two tries to make phrases ready."""


class Engine:
    """A whole engine. ``run`` it in a task; ``stop`` drains it, cancelling the task ends it at once.

    Raises SettingsError when made of settings that cannot work. ``insecure_dev`` accepts unsigned webhooks, on a
    loopback address only. ``watchers`` are told every moment of every call. ``on_started`` is called once everything is
    loaded, just before the first call is taken.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        insecure_dev: bool = False,
        watchers: Sequence[Watcher] = (),
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        if insecure_dev and settings.server.host not in LOOPBACK:
            raise SettingsError(f"server.host: --insecure-dev needs a loopback address, got {settings.server.host!r}")
        self.settings = settings
        self.metrics = Metrics(
            actors=ACTORS,
            version=__version__,
            stores=(settings.store.kind,),
            vendors=vendor_labels(settings),
            tools=tool_labels(settings),
        )
        self.url = ""
        """Where it listens, once it does."""
        self.has_given_up = False
        """An actor crashed too often: the engine drained, and the process should exit non-zero."""
        check_webhooks(settings.webhooks, settings.secrets.webhook_secret)
        self._access = Access(
            parse_keys(settings.secrets.api_keys),
            insecure=insecure_dev,
            per_minute=settings.server.api_requests_per_minute,
            wrong_per_minute=settings.server.api_wrong_keys_per_minute,
        )
        self._providers, self._closed_routes = providers_of(settings, insecure=insecure_dev)
        self._agents: dict[str, Agent] = {}
        self._ticker = Ticker(on_crash=lambda exc: log.error("tick_crashed", exc_info=exc))
        self._lag = LagWatch(self.metrics.event_loop_lag_seconds.observe)
        self._stopping = trio.Event()
        self._on_started = on_started
        self.registry = Registry(capacity=settings.max_calls, metrics=self.metrics, token_s=settings.limits.token_s)
        self._network = Network()
        self._breakers = Breakers(self.metrics)
        self._phrases = PhraseCache()
        self._new_http_client = self._network.client
        self.recordings = recordings_of(settings, self._new_http_client, self.metrics, self._fingerprint)
        around = Surroundings(
            settings.limits,
            self.metrics,
            partial(open_link, ticker=self._ticker),
            self._new_http_client,
            list(watchers),
            open_session=self._open_session,
            store=settings.store.kind,
            recordings=self.recordings if settings.recording.enabled else None,
            webhooks=lambda: settings.server.public_url.rstrip("/") or self.url,
            tell=self._tell_outside,
        )
        self.supervisor = Supervisor(self.registry, self._agents, settings, around)
        self.dialing = Dialing(
            self.registry,
            {provider.name: provider for provider in self._providers},
            settings,
            self.metrics,
            self._new_http_client,
            base_url=lambda: settings.server.public_url.rstrip("/") or self.url,
            tell=self._tell_outside,
        )
        self.supervisor.outbound = self.dialing
        self.speech: EmbeddedSpeech | None = None
        """The embedded speech, once it has loaded."""
        self.memory: Remembering | None = None
        """Once its store is open."""
        self._house = Housekeeping(self.supervisor, self._lag, self._breakers, self.metrics)

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Until stopped and drained. Started, with its address, as soon as it listens; ``/readyz`` tells when it
        takes calls. Raises SettingsError when the address cannot be had, the store is of no use, or an agent cannot be
        made."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        listeners = await _listen(self.settings.server.host, self.settings.server.port)
        host, port = listeners[0].socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        opening = remembering(self.settings, self._agents, self.metrics, self._new_http_client)
        try:
            async with opening as self.memory:
                self._house.memory = self.memory
                await self._run(listeners, self.memory, task_status)
        finally:
            for listener in listeners:  # still open if the store was of no use
                listener.socket.close()

    async def _run(
        self, listeners: list[trio.SocketListener], memory: Remembering, task_status: trio.TaskStatus[str]
    ) -> None:
        failure: SettingsError | None = None
        texts = TextDesk(memory.sessions, self.settings.sessions, self.metrics, self._new_http_client)
        # Actors outlive the connections and the calls in them, which let go by telling them.
        async with trio.open_nursery() as actors:
            self._keep(actors, "registry", self.registry.run)
            self._keep(actors, "ticker", self._ticker.run)
            # Without these the engine is blind or forgetful, but its calls go on.
            self._keep(actors, "store", memory.writer.run, is_vital=False, on_give_up=memory.writer.abandon)
            self._keep(actors, "sessions", memory.sessions.run, is_vital=False)
            self._keep(actors, "texts", texts.run, is_vital=False)
            self._keep(actors, "dialing", self.dialing.run, is_vital=False)
            if self.recordings is not None:
                self._keep(actors, "recordings", self.recordings.run, is_vital=False)
            self._keep(actors, "webhooks", memory.webhooks.run, is_vital=False)
            self._keep(actors, "memory", memory.look_after, is_vital=False)
            self._keep(actors, "housekeeping", self._house.run, is_vital=False)
            async with trio.open_nursery() as connections:
                await connections.start(self._door(memory, texts).serve, listeners)
                task_status.started(self.url)
                self._tell_closed_routes()
                try:
                    await check_store(self.settings)
                    await memory.try_store()
                    await self._make_agents(actors)
                except SettingsError as exc:
                    failure = exc
                else:
                    await self._serve_until_drained(actors)
                connections.cancel_scope.cancel()
            with trio.move_on_after(SETTLE_S):
                while texts.owed:  # noqa: ASYNC110 - answers that go out over REST; the last moment is not theirs alone
                    await trio.sleep(0.05)
            if self.recordings is not None:
                with trio.move_on_after(SETTLE_S):
                    await self.recordings.wait_written()
            await memory.settle()
            actors.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @property
    def agents(self) -> Mapping[str, Agent]:
        """By name, once they have been made."""
        return self._agents

    def stop(self) -> None:
        """Refuse new calls and let live ones finish, for at most ``limits.drain_s``."""
        self.supervisor.refuse_new()
        self._stopping.set()

    def _tell_closed_routes(self) -> None:
        tell = log.info if self._providers else log.warning  # with none open, nobody can call at all
        for why in dict.fromkeys(self._closed_routes.values()):
            tell("routes_closed", why=why)

    def cut(self) -> None:
        """For whoever cancels ``run`` next: its calls end as drained, not as crashed."""
        self.supervisor.cut()

    async def _serve_until_drained(self, actors: trio.Nursery) -> None:
        self._on_started()
        # What starting took was nobody's audio.
        self._keep(actors, "lag", self._lag.run, is_vital=False)
        self._house.note_lacks()
        self.supervisor.is_started = True
        is_ready, why = self.supervisor.ready
        log.info("engine_started", url=self.url, agents=list(self._agents), is_ready=is_ready, why=why)
        await self._stopping.wait()
        await self.dialing.settle()
        await self.supervisor.drain(self.settings.limits.drain_s)

    def _open_session(self, call: CallInfo, metrics: Metrics) -> AbstractAsyncContextManager[CallSession]:
        assert self.memory is not None  # noqa: S101 - calls come through the door, which opens later
        return self.memory.sessions.joined(call)

    def _fingerprint(self, number: str) -> str:
        """Raises StoreDown."""
        if self.memory is None:
            raise StoreDown("refused")
        return self.memory.vault.fingerprint(number)

    def _tell_outside(self, event: WebhookEvent, session_id: str, number: str, fields: Mapping[str, object]) -> None:
        if self.memory is not None:
            self.memory.webhooks.tell(event, session_id, number, fields)

    def _door(self, memory: Remembering, texts: TextDesk) -> Door:
        server = self.settings.server
        forgetters: list[Forgets] = [*memory.forgetters, texts, self.dialing]
        if self.recordings is not None:
            forgetters.append(self.recordings)
        privacy = Privacy(memory.vault, forgetters, now=memory.sessions.now)
        turn_s = self.settings.sessions.turn_s + self.settings.store.operation_s
        region = self.settings.sessions.default_region

        async def note(by: str, action: str, number: str, detail: str) -> None:
            await privacy.note(by, action, e164(number, region), detail)

        urls = PublicUrl(server.public_url, server.trusted_proxies, server.host)
        app = build_app(
            self.supervisor,
            self._providers,
            self.metrics,
            urls,
            closed_routes=self._closed_routes,
            version=__version__,
            desk=Desk(memory.sessions, memory.history, privacy, self.settings.sessions.default_region),
            access=self._access,
            texts=texts,
            calls=CallDesk(self.registry, self.dialing, self.settings, note),
            turn_s=turn_s,
        )
        limits = DoorLimits(
            body_bytes=server.max_body_bytes,
            connections=server.max_connections,
            pending=pending_for(self.registry.capacity),
            answer_s=turn_s + 1.0,
        )
        media = media_handlers(self.supervisor, self._providers)
        return Door(app, media, self.metrics, limits, live_calls=lambda: len(self.registry.live_slots()))

    async def _make_agents(self, actors: trio.Nursery) -> None:
        """Every agent of the settings; the embedded speech, or its voice activity alone, is loaded if one needs it."""
        settings = self.settings
        for name, agent in settings.agents.items():
            if not agent.factory:
                check_composed(name, settings, Vendors(settings, self._network))
        if needs_speech(settings):
            self.speech = await load_speech(settings, self._phrases)
            self._house.activity, self._house.speech_limiter = self.speech.activity, self.speech.limiter
            self._keep(actors, "speech", self.speech.run)
        elif activity := await load_activity(settings):
            self._house.activity = activity
            self._keep(actors, "speech", activity.run)
        around = Vendoring(self.metrics, self._breakers, Policy.of(settings.limits))
        vendors = Vendors(settings, self._network, self._house.activity)
        tools = Tools(settings, self.metrics, self._network)
        self._keep(actors, "tools", tools.run, is_vital=False)
        workshop = Workshop(settings, vendors, around, self.metrics, tools, self.speech, self._phrases)
        lines = line_formats(self._providers, settings)
        for name, agent in settings.agents.items():
            if agent.factory:
                self._agents[name] = agent_from_factory(name, agent)
                continue
            composed = workshop.agent(name)
            announced = [settings.recording.announce] if settings.recording.announce else []
            if await composed.prepare(lines, announced):
                actors.start_soon(self._prepare_again, composed, lines, announced)
            self._agents[name] = composed
            if self.speech is not None and composed.pipeline == EMBEDDED:
                actors.start_soon(self._prepare_answers, self.speech, name)

    async def _prepare_again(self, agent: ComposedAgent, lines: Sequence[AudioFormat], texts: Sequence[str]) -> None:
        """Its voice could not be had at the start: until there are clips, a caller hears nothing when it fails."""
        pause_s, left = PREPARE_AGAIN_S, True
        while left:
            await trio.sleep(pause_s)
            left = bool(await agent.prepare(lines, texts))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        log.info("phrases_prepared", agent=agent.name)

    async def _prepare_answers(self, speech: EmbeddedSpeech, name: str) -> None:
        """What a script says to all callers alike, while calls are taken already: the first ones wait 70 ms longer for
        an answer than later ones."""
        try:
            for line in line_formats(self._providers, self.settings):
                await speech.prepare(script_of(name, self.settings).fixed_phrases(), line)
        except SpeechFailed as exc:
            log.warning("answers_not_prepared", agent=name, detail=str(exc))

    def _keep(
        self,
        actors: trio.Nursery,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        is_vital: bool = True,
        on_give_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Run an actor, again if it crashes; given up, a vital one takes the engine into its drain."""
        restarts = self.metrics.actor_restarts_total.labels(actor=name)

        def give_up(actor: str) -> None:
            on_give_up()
            if is_vital:
                self._give_up(actor)

        async def keep() -> None:
            await keep_running(name, run, on_restart=lambda _: restarts.inc(), on_give_up=give_up)

        actors.start_soon(keep)

    def _give_up(self, actor: str) -> None:
        self.has_given_up = True
        if actor == "registry":
            self.registry.abandon()
        self.stop()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    """Raises SettingsError naming the address that cannot be had."""
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=LISTEN_BACKLOG)
    except OSError as exc:
        is_host = isinstance(exc, socket.gaierror) or exc.errno == errno.EADDRNOTAVAIL
        what = f"cannot listen on {host} port {port}: {exc.strerror or exc}"
        raise SettingsError(f"server.{'host' if is_host else 'port'}: {what}") from None
