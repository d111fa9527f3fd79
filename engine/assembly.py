"""The composition root: settings to adapters to a running engine. The only importer of adapters."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import httpx
import structlog
import trio

from adapters import catalog
from adapters.providers.link import open_link
from adapters.providers.twilio import TwilioConfig, TwilioProvider
from adapters.providers.vonage import VonageConfig, VonageProvider
from engine import __version__
from engine.calls.call import Surroundings
from engine.calls.registry import Registry
from engine.calls.supervisor import Supervisor
from engine.errors import SettingsError, SpeechFailed
from engine.events import FRAME_S, MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat
from engine.observe.labels import AudioDirection, AudioQueue, FrameDrop
from engine.observe.metrics import Metrics
from engine.observe.timeline import Watcher
from engine.ports import Agent, Phrases, Provider
from engine.runtime.lag import LagWatch
from engine.runtime.supervision import keep_running
from engine.runtime.ticker import Ticker
from engine.settings import AgentSettings, Settings
from engine.web.app import build_app, media_handlers
from engine.web.door import Door
from engine.web.limits import DoorLimits, pending_for
from engine.web.urls import LOOPBACK, PublicUrl

if TYPE_CHECKING:
    from adapters.models.script import Script
    from adapters.speech.embedded import EmbeddedSpeech
    from adapters.speech.voice_activity import VoiceActivity

log = structlog.get_logger()

ACTORS = ("registry", "ticker", "speech", "lag", "housekeeping")
SWITCH_INTERVAL_S = 0.0005
"""How long a worker thread may keep the interpreter from the event loop; Python's own 5 ms would be heard."""
LISTEN_BACKLOG = 1024
HOUSEKEEPING_S = 1.0


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
        self.metrics = Metrics(actors=ACTORS, version=__version__)
        self.url = ""
        """Where it listens, once it does."""
        self.has_given_up = False
        """An actor crashed too often: the engine drained, and the process should exit non-zero."""
        self._providers, self._closed_routes = _providers(settings, insecure=insecure_dev)
        self._agents: dict[str, Agent] = {}
        self._ticker = Ticker(on_crash=lambda exc: log.error("tick_crashed", exc_info=exc))
        self._lag = LagWatch(self.metrics.event_loop_lag_seconds.observe)
        self._stopping = trio.Event()
        self._on_started = on_started
        self.registry = Registry(capacity=settings.max_calls, metrics=self.metrics, token_s=settings.limits.token_s)
        around = Surroundings(
            settings.limits, self.metrics, partial(open_link, ticker=self._ticker), HttpClients(), list(watchers)
        )
        self.supervisor = Supervisor(self.registry, self._agents, settings, around)
        self.speech: EmbeddedSpeech | None = None
        """The embedded speech, once it has loaded."""
        self._unheard_frames = 0

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Until stopped and drained. Started, with its address, as soon as it listens; ``/readyz`` tells when it
        takes calls. Raises SettingsError when the address cannot be had or an agent cannot be made."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        listeners = await _listen(self.settings.server.host, self.settings.server.port)
        host, port = listeners[0].socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        failure: SettingsError | None = None
        # Actors outlive the connections and the calls in them, which let go by telling them.
        async with trio.open_nursery() as actors:
            self._keep(actors, "registry", self.registry.run)
            self._keep(actors, "ticker", self._ticker.run)
            # Without these two the engine is blind, but its calls go on.
            self._keep(actors, "lag", self._lag.run, is_vital=False)
            self._keep(actors, "housekeeping", self._housekeeping, is_vital=False)
            async with trio.open_nursery() as connections:
                await connections.start(self._door().serve, listeners)
                task_status.started(self.url)
                self._tell_closed_routes()
                try:
                    await self._make_agents(actors)
                except SettingsError as exc:
                    failure = exc
                else:
                    await self._serve_until_drained()
                connections.cancel_scope.cancel()
            actors.cancel_scope.cancel()
        if failure is not None:
            raise failure

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

    async def _serve_until_drained(self) -> None:
        self._on_started()
        self.supervisor.is_started = True
        is_ready, why = self.supervisor.ready
        log.info("engine_started", url=self.url, agents=list(self._agents), is_ready=is_ready, why=why)
        await self._stopping.wait()
        await self.supervisor.drain(self.settings.limits.drain_s)

    def _door(self) -> Door:
        server = self.settings.server
        urls = PublicUrl(server.public_url, server.trusted_proxies, server.host)
        app = build_app(
            self.supervisor,
            self._providers,
            self.metrics,
            urls,
            closed_routes=self._closed_routes,
            version=__version__,
        )
        limits = DoorLimits(
            body_bytes=server.max_body_bytes,
            connections=server.max_connections,
            pending=pending_for(self.registry.capacity),
        )
        media = media_handlers(self.supervisor, self._providers)
        return Door(app, media, self.metrics, limits, live_calls=lambda: len(self.registry.live_slots()))

    async def _make_agents(self, actors: trio.Nursery) -> None:
        """Every agent of the settings; the embedded speech is loaded if one of them needs it."""
        scripts = {name: _script(name, agent) for name, agent in self.settings.agents.items() if not agent.factory}
        for name, agent in self.settings.agents.items():
            if agent.factory:
                self._agents[name] = _agent_from_factory(name, agent)
        if not scripts:
            return
        self.speech = await load_speech(self.settings)
        self._keep(actors, "speech", self.speech.run)
        for name, script in scripts.items():
            embedded = catalog.EmbeddedAgent(name, script, self.speech)
            await embedded.prepare(self._line_formats())
            self._agents[name] = embedded
            actors.start_soon(self._prepare_answers, embedded)

    async def _prepare_answers(self, agent: catalog.EmbeddedAgent) -> None:
        """While calls are taken already: the first callers wait 70 ms longer for an answer than later ones."""
        try:
            await agent.prepare_answers(self._line_formats())
        except SpeechFailed as exc:
            log.warning("phrases_not_prepared", agent=agent.name, detail=str(exc))

    def _line_formats(self) -> list[AudioFormat]:
        formats = {
            "twilio": MULAW_8K,
            "vonage": {8000: PCM16_8K, 16000: PCM16_16K, 24000: PCM16_24K}[self.settings.vonage.rate_hz],
        }
        return [formats[provider.name] for provider in self._providers]

    def _keep(
        self, actors: trio.Nursery, name: str, run: Callable[[], Awaitable[None]], *, is_vital: bool = True
    ) -> None:
        """Run an actor, again if it crashes; given up, a vital one takes the engine into its drain."""
        restarts = self.metrics.actor_restarts_total.labels(actor=name)
        on_give_up = self._give_up if is_vital else lambda _: None

        async def keep() -> None:
            await keep_running(name, run, on_restart=lambda _: restarts.inc(), on_give_up=on_give_up)

        actors.start_soon(keep)

    def _give_up(self, actor: str) -> None:
        self.has_given_up = True
        if actor == "registry":
            self.registry.abandon()
        self.stop()

    async def _housekeeping(self) -> None:
        """Figures that nobody else would report."""
        metrics = self.metrics
        while True:
            self.supervisor.loop_lag_s = self._lag.worst_recent_s
            _ = self.supervisor.ready
            metrics.tasks_alive.set(trio.lowlevel.current_statistics().tasks_living)
            limiter = self.speech.limiter if self.speech else trio.to_thread.current_default_thread_limiter()
            metrics.worker_threads_in_use.set(limiter.borrowed_tokens)
            metrics.worker_threads_limit.set(limiter.total_tokens)
            metrics.playout_buffered.show()
            if self.speech is not None:
                self._note_hearing(self.speech.activity)
            await trio.sleep(HOUSEKEEPING_S)

    def _note_hearing(self, activity: VoiceActivity) -> None:
        self.metrics.audio_buffered_seconds.labels(queue=AudioQueue.TRANSCRIBER).set(activity.longest_queue_s)
        dropped = int(activity.dropped_s / FRAME_S)
        self.metrics.audio_frames_dropped_total.labels(direction=AudioDirection.IN, reason=FrameDrop.QUEUE_FULL).inc(
            dropped - self._unheard_frames
        )
        self._unheard_frames = dropped


class HttpClients:
    """Makes one client a call, on one TLS context for the process: a context of its own would cost each call 40 ms of
    the event loop."""

    def __init__(self) -> None:
        self._context = ssl.create_default_context()

    def __call__(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._context, trust_env=False, timeout=5.0)


async def load_speech(settings: Settings) -> EmbeddedSpeech:
    """The embedded speech. Raises SettingsError when its packages are not installed."""
    from adapters.speech.embedded import EmbeddedSpeech  # noqa: PLC0415 - numpy and onnxruntime are an extra

    return await EmbeddedSpeech.load(worker_threads=settings.speech.worker_threads)


def check_agents(settings: Settings) -> list[tuple[str, str]]:
    """Agents that cannot be made, and why: their scripts are read and their factories called, as at a start."""
    wrong: list[tuple[str, str]] = []
    for name, agent in settings.agents.items():
        try:
            if agent.factory:
                _agent_from_factory(name, agent)
            else:
                _script(name, agent)
        except SettingsError as exc:
            wrong.append((name, str(exc)))
    return wrong


def _script(name: str, settings: AgentSettings) -> Script:
    """Raises SettingsError naming the agent whose script cannot be used."""
    try:
        return catalog.agent_script(settings.script)
    except SettingsError as exc:
        raise SettingsError(f"agents.{name}.script: {exc}") from None


def _agent_from_factory(name: str, settings: AgentSettings) -> Agent:
    """Raises SettingsError whatever goes wrong in the factory, or when what it makes is no agent."""
    where = f"agents.{name}.factory: {settings.factory!r}"
    try:
        agent = catalog.agent_from_factory(name, settings.factory, settings.options)
    except SettingsError:
        raise
    except Exception as exc:  # the edge to somebody else's code
        raise SettingsError(f"{where} failed ({type(exc).__name__}: {exc})") from exc
    wanted = [*Agent.__annotations__, *(member for member in vars(Agent) if not member.startswith("_"))]
    missing = [member for member in wanted if not hasattr(agent, member)]
    if missing:
        raise SettingsError(f"{where}: expected an agent, got {type(agent).__name__} without {', '.join(missing)}")
    if not isinstance(agent.phrases, Phrases):
        raise SettingsError(f"{where}: expected Phrases in its phrases, got {type(agent.phrases).__name__}")
    return agent


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    """Raises SettingsError naming the address that cannot be had."""
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=LISTEN_BACKLOG)
    except OSError as exc:
        raise SettingsError(f"server.port: cannot listen on {host} port {port}: {exc.strerror or exc}") from None


def _providers(settings: Settings, *, insecure: bool) -> tuple[list[Provider], dict[str, str]]:
    """The providers whose keys are set; and for every path of the others the sentence that says what is missing."""
    secrets, public_url = settings.secrets, settings.server.public_url.rstrip("/")
    candidates: list[tuple[Provider, str, str]] = [
        (
            TwilioProvider(
                TwilioConfig(
                    auth_token=secrets.twilio_auth_token,
                    account_sid=settings.twilio.account_sid,
                    api_base=settings.twilio.api_url,
                ),
                insecure=insecure,
            ),
            secrets.twilio_auth_token,
            "TWILIO_AUTH_TOKEN",
        ),
        (
            VonageProvider(
                VonageConfig(
                    signature_secret=secrets.vonage_signature_secret,
                    application_id=settings.vonage.application_id,
                    private_key=secrets.vonage_private_key,
                    api_base=settings.vonage.api_url,
                    rate_hz=settings.vonage.rate_hz,
                    event_url=f"{public_url}/vonage/event" if public_url else "",
                ),
                insecure=insecure,
            ),
            secrets.vonage_signature_secret,
            "VONAGE_SIGNATURE_SECRET",
        ),
    ]
    are_open: list[Provider] = []
    closed: dict[str, str] = {}
    for provider, key, variable in candidates:
        if key or insecure:
            are_open.append(provider)
        else:
            why = f"{provider.name} is not configured: set {variable} in the environment and start again."
            closed |= dict.fromkeys((*provider.webhooks, provider.media_path), why)
    return are_open, closed


def configured_providers(settings: Settings) -> Mapping[str, bool]:
    """Provider to whether its routes would open."""
    return {
        "twilio": bool(settings.secrets.twilio_auth_token),
        "vonage": bool(settings.secrets.vonage_signature_secret),
    }
