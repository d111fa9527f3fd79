"""offhook.toml and the environment, as frozen, typed values.

Order: command-line flag, then environment, then file, then default. A key ``x`` in the table ``[limits]`` is
``OFFHOOK_LIMITS_X`` in the environment. Secrets come from the environment only, under the names that the providers'
own tools use, or from the file that ``NAME_FILE`` points to.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import cattrs
import phonenumbers
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError

from engine.errors import SettingsError
from engine.machine import usable_cores

T = TypeVar("T")
DEFAULT_FILE = "offhook.toml"
PREFIX = "OFFHOOK_"
NOT_OURS = frozenset({"OFFHOOK_REQUIRE_SERVERS", "OFFHOOK_PROMETHEUS_URL", "OFFHOOK_DASHBOARDS"})
"""Variables of the tests and of the Grafana provisioning, which may share an environment with the engine."""


def _at_least(minimum: float, default: Any, *, at_most: float | None = None) -> Any:
    return field(default=default, metadata={"minimum": minimum, "maximum": at_most})


@dataclass(frozen=True, slots=True)
class Server:
    host: str = "127.0.0.1"
    port: int = _at_least(0, 8080, at_most=65535)
    """0 picks a free one."""
    public_url: str = ""
    """How providers reach us, such as ``https://calls.example.com``: they sign this address, so it is never guessed.
    Empty is for callers on this machine."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of proxies whose X-Forwarded-For is believed."""
    max_connections: int = _at_least(8, 2000)
    max_body_bytes: int = _at_least(1024, 64 * 1024)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a call and the process may take. Seconds unless the name says otherwise."""

    max_calls: int = _at_least(0, 0)
    """Calls at once; 0 means 15 for each core, what the embedded speech carries."""
    calls_per_minute_per_caller: int = _at_least(1, 60)
    start_s: float = _at_least(0.1, 5.0)
    """From the media socket's upgrade to its start message."""
    open_s: float = _at_least(0.1, 6.0)
    """To connect everything a call needs."""
    close_s: float = _at_least(0.05, 0.9)
    """For polite closes after the end of a call; then by force."""
    drain_s: float = _at_least(0, 1800.0)
    """After SIGTERM, for live calls to end by themselves."""
    goodbye_s: float = _at_least(0, 5.0)
    """For the last sentence of a call that is ended by us."""
    max_call_s: float = _at_least(1, 7200.0)
    silence_s: float = _at_least(1, 8.0)
    """Without a word from either side, before the caller is asked whether they are still there."""
    silence_prompts: int = _at_least(0, 2)
    """How often that is asked before hanging up."""
    no_progress_s: float = _at_least(1, 45.0)
    """Without a finished say of either side, before the call is given up with an apology."""
    media_ping_s: float = _at_least(1, 10.0)
    """Without audio from the provider, before its socket is pinged."""
    media_timeout_s: float = _at_least(1, 15.0)
    filler_s: float = _at_least(0.1, 2.0)
    """The caller's wait for an answer before a filler is said."""
    reply_s: float = _at_least(0.5, 7.0)
    """The caller's wait for an answer, or for more of it, before the call is given up with an apology."""
    finished_turn_s: float = _at_least(0.1, 0.4)
    """Silence that ends a turn whose words look finished."""
    unfinished_turn_s: float = _at_least(0.1, 1.2)
    token_s: float = _at_least(1, 60.0)
    """How long a media token is good for."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent."""

    script: str = "appointment_desk"
    """A script that ships with Offhook, or the path of a TOML file."""
    scope: str = field(default="call", metadata={"choices": ("call", "caller")})
    """How far it remembers: ``call``, one call or stream, forgotten at its end; ``caller``, all calls and texts of one
    number."""
    factory: str = ""
    """``package.module:function`` of an agent that is not embedded; called with the agent's name and ``options``."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TwilioSettings:
    account_sid: str = ""
    api_url: str = "https://api.twilio.com"


@dataclass(frozen=True, slots=True)
class VonageSettings:
    application_id: str = ""
    api_url: str = "https://api.nexmo.com"
    rate_hz: int = field(default=16000, metadata={"choices": (8000, 16000, 24000)})


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str = field(default="info", metadata={"choices": ("debug", "info", "warning", "error")})
    format: str = field(default="auto", metadata={"choices": ("auto", "json", "console")})


@dataclass(frozen=True, slots=True)
class SpeechSettings:
    """The embedded speech."""

    worker_threads: int = _at_least(0, 0, at_most=256)
    """How many calls recognise or synthesise at the same instant; 0 means one for each core."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What is remembered, and what of it a model is shown."""

    default_region: str = "US"
    """What a number without a country code is read in."""
    retention: int = _at_least(2, 50)
    """Messages kept of a session; older ones are gone, the summary and the facts stay."""
    window: int = _at_least(1, 10)
    """Messages that a model is shown."""
    max_chars: int = _at_least(20, 200)
    """Of each message, what a model is shown. The store keeps all of it."""
    context_format: str = field(default="messages", metadata={"choices": ("messages", "text", "summary")})
    """``messages``: one by one; ``text``: as one text; ``summary``: a summary and the last words."""
    ttl_days: float = _at_least(0.0001, 30.0)
    """After its last turn, how long a session is kept."""
    keep_calls: bool = False
    """Keep what agents of the scope ``call`` heard as history; without it nothing of a call outlives it."""
    idle_s: float = _at_least(1, 900.0)
    """Without a turn, before a session leaves the memory of the process."""
    trusted_attestations: tuple[str, ...] = ("A",)
    """What the provider must say of a caller's number before stored memory is spoken to who calls under it."""
    trusted_lines: tuple[str, ...] = ()
    """Dialled numbers whose carrier vouches for the caller's; calls to them need no attestation."""
    texts_per_minute_per_caller: int = _at_least(1, 20)
    text_answer_s: float = _at_least(0.2, 5.0)
    """How long an SMS webhook waits for the answer; a later one goes out over the provider's REST API."""
    turn_s: float = _at_least(1, 30.0)
    """For a model's whole answer to a text."""
    trace: bool = True
    """Keep what each model was shown and what came back, for ``offhook trace`` and ``validate``."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where sessions are kept."""

    kind: str = field(default="sqlite", metadata={"choices": ("memory", "sqlite", "postgresql", "redis")})
    path: str = "offhook.db"
    """SQLite's file."""
    url: str = ""
    """PostgreSQL's address without its password, such as ``postgresql://offhook@localhost/offhook``; DATABASE_URL in
    the environment may give all of it."""
    table: str = "sessions"
    """SQLite's and PostgreSQL's table of sessions; the names of the others begin with it. Redis' keys, too."""
    host: str = "127.0.0.1"
    port: int = _at_least(1, 6379, at_most=65535)
    database: int = _at_least(0, 0)
    """Redis' number of it. Its password comes from REDIS_PASSWORD."""
    operation_s: float = _at_least(0.1, 5.0)
    """For one operation."""
    load_s: float = _at_least(0.01, 0.3)
    """For reading a session at the start of a call, which then goes on without its memory."""
    journal: str = "offhook.journal"
    """The file that keeps turns while the store is down; empty: they are lost then."""
    journal_max_bytes: int = _at_least(4096, 16 * 1024 * 1024)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Events of sessions, sent to an address of yours."""

    url: str = ""
    """Empty: none are sent."""
    events: tuple[str, ...] = ()
    """Which ones; empty: all."""
    queue: int = _at_least(1, 1000)
    retries: int = _at_least(0, 5)
    allow_private: bool = False
    """Also to addresses inside private networks, and without TLS."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Keys, from the environment only; hidden from repr."""

    twilio_auth_token: str = field(default="", repr=False)
    vonage_signature_secret: str = field(default="", repr=False)
    vonage_private_key: str = field(default="", repr=False)
    """PEM; for hanging up over Vonage's REST API."""
    encryption_keys: str = field(default="", repr=False)
    """Keys of the store, each ``id:base64 of 32 bytes``, separated by commas or spaces. The first one seals, all open;
    ``offhook store new-key`` makes one."""
    encryption_keys_file: str = ""
    """Read again when it changes, so that keys can be exchanged while calls go on."""
    api_keys: str = field(default="", repr=False)
    """Keys of the HTTP API, each ``name:scope+scope:key``, separated by commas or spaces. Scopes: ``turn``,
    ``history``, ``admin``, ``privacy``, ``metrics``."""
    webhook_secret: str = field(default="", repr=False)
    """Signs the events that are sent."""
    database_url: str = field(default="", repr=False)
    redis_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    server: Server = Server()
    limits: Limits = Limits()
    log: LogSettings = LogSettings()
    speech: SpeechSettings = SpeechSettings()
    twilio: TwilioSettings = TwilioSettings()
    vonage: VonageSettings = VonageSettings()
    sessions: SessionSettings = SessionSettings()
    store: StoreSettings = StoreSettings()
    webhooks: WebhookSettings = WebhookSettings()
    agents: Mapping[str, AgentSettings] = field(default_factory=lambda: {"desk": AgentSettings()})
    lines: Mapping[str, str] = field(default_factory=dict)
    """Dialled number to agent."""
    default_agent: str = ""
    """Who answers any other number; empty means the first agent."""
    secrets: Secrets = Secrets()

    @property
    def max_calls(self) -> int:
        return self.limits.max_calls or 15 * usable_cores()

    @property
    def first_agent(self) -> str:
        return self.default_agent or next(iter(self.agents))

    def agent_for(self, dialled: str) -> str:
        """The agent that answers a dialled number, however it is spelt (B8)."""
        wanted = _digits(dialled)
        return next((agent for number, agent in self.lines.items() if _digits(number) == wanted), self.first_agent)


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from ``path``, else from ./offhook.toml if there is one, with the environment over them.

    Raises SettingsError naming the file or variable, the key and what was expected.
    """
    environ = os.environ if environ is None else environ
    raw = _read_file(path)
    if "secrets" in raw:
        raise SettingsError("secrets: keys come from the environment, never from the settings file")
    _overlay_environment(raw, environ)
    settings: Settings = _structure(raw, Settings)
    settings = _with_secrets(settings, environ)
    _check_references(settings)
    _check_lines(settings.lines)
    _check_addresses(settings)
    return settings


def with_server(settings: Settings, *, host: str | None = None, port: int | None = None) -> Settings:
    """The settings with what flags say of ``[server]`` over them; None leaves a key as it is. Raises SettingsError."""
    was = settings.server
    server = replace(was, host=was.host if host is None else host, port=was.port if port is None else port)
    _check_ranges(server, "server")
    return replace(settings, server=server)


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        path = Path(DEFAULT_FILE)
        if not path.exists():
            return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read ({exc.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: not valid TOML: {exc}") from None


# --- environment --------------------------------------------------------------------------------------------

_TABLES: Mapping[str, type] = {
    "server": Server,
    "limits": Limits,
    "log": LogSettings,
    "speech": SpeechSettings,
    "twilio": TwilioSettings,
    "vonage": VonageSettings,
    "sessions": SessionSettings,
    "store": StoreSettings,
    "webhooks": WebhookSettings,
}


def _overlay_environment(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name in NOT_OURS:
            continue
        table, _, key = name.removeprefix(PREFIX).lower().partition("_")
        if table not in _TABLES or not key:
            raise SettingsError(f"{name}: expected {PREFIX}TABLE_KEY with one of the tables {', '.join(_TABLES)}")
        types = get_type_hints(_TABLES[table])
        if key not in types:
            raise SettingsError(f"{name}: there is no setting {table}.{key}{_hint(key, types)}")
        target = raw.setdefault(table, {})
        if not isinstance(target, dict):
            raise SettingsError(f"{table}: expected a table")
        target[key] = _from_text(name, text, types[key])


def _from_text(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        raise SettingsError(f"{name}: expected {_name_of(kind)}, got {text!r}") from None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise SettingsError(f"{name}: expected true or false, got {text!r}")
        return text.lower() == "true"
    if get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _with_secrets(settings: Settings, environ: Mapping[str, str]) -> Settings:
    values = {item.name: _secret(item.name.upper(), environ) for item in fields(Secrets)}
    twilio = settings.twilio
    if not twilio.account_sid and environ.get("TWILIO_ACCOUNT_SID"):
        twilio = TwilioSettings(environ["TWILIO_ACCOUNT_SID"], twilio.api_url)
    vonage = settings.vonage
    if not vonage.application_id and environ.get("VONAGE_APPLICATION_ID"):
        vonage = VonageSettings(environ["VONAGE_APPLICATION_ID"], vonage.api_url, vonage.rate_hz)
    parts = {item.name: getattr(settings, item.name) for item in fields(Settings)}
    return Settings(**parts | {"secrets": Secrets(**values), "twilio": twilio, "vonage": vonage})


def _secret(name: str, environ: Mapping[str, str]) -> str:
    if environ.get(name):
        return environ[name]
    path = environ.get(f"{name}_FILE")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"{name}_FILE: the file it names cannot be read") from None


# --- typing and checking ------------------------------------------------------------------------------------


def _structure(raw: dict[str, Any], kind: type[T]) -> T:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for plain in (int, float, str, bool):
        converter.register_structure_hook(plain, _strictly)
    converter.register_structure_hook_func(lambda t: t is Any, lambda value, _: value)
    try:
        settings = converter.structure(raw, kind)
    except ClassValidationError as group:
        raise SettingsError("; ".join(_explain(group, kind, ""))) from None
    except (TypeError, AttributeError):
        raise SettingsError("the settings must be a table of tables") from None
    _check_ranges(settings, "")
    return settings


def _strictly(value: Any, kind: type) -> Any:
    """No silent conversion: "8080" is no port, true is no number."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {_name_of(kind)}, got {value!r:.60}")
    return value


def _explain(error: BaseException, kind: Any, path: str) -> list[str]:
    """Every leaf of a validation error as ``key: what was expected``."""
    lines: list[str] = []
    for exc in getattr(error, "exceptions", ()):
        notes = [note for note in getattr(exc, "__notes__", ()) if hasattr(note, "name") or hasattr(note, "index")]
        step = str(getattr(notes[0], "name", getattr(notes[0], "index", ""))) if notes else ""
        here = f"{path}.{step}" if path and step else path or step
        inner = _kind_at(kind, step)
        if hasattr(exc, "exceptions"):
            lines += _explain(exc, inner, here)
        elif isinstance(exc, ForbiddenExtraKeysError):
            known = [item.name for item in fields(exc.cl)]
            prefix = f"{here}." if here else ""
            lines += [f"{prefix}{key}: there is no such setting{_hint(key, known)}" for key in sorted(exc.extra_fields)]
        elif isinstance(exc, ValueError) and str(exc).startswith("expected"):
            lines.append(f"{here}: {exc}")
        else:
            lines.append(f"{here}: expected {_name_of(inner)}")
    return lines


def _kind_at(kind: Any, step: str) -> Any:
    if get_origin(kind) is not None:
        return get_args(kind)[-1]
    hints = get_type_hints(kind) if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__") else {}
    return hints.get(step, kind)


def _check_ranges(settings: Any, path: str) -> None:
    for item in fields(settings):
        value = getattr(settings, item.name)
        here = f"{path}.{item.name}" if path else item.name
        if hasattr(value, "__dataclass_fields__"):
            _check_ranges(value, here)
        else:
            _check_range(item, value, here)


def _check_range(item: Field[Any], value: Any, here: str) -> None:
    minimum, maximum, choices = (item.metadata.get(key) for key in ("minimum", "maximum", "choices"))
    if choices is not None and value not in choices:
        raise SettingsError(f"{here}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    if minimum is not None and not value >= minimum:
        raise SettingsError(f"{here}: expected at least {minimum}, got {value!r}")
    if maximum is not None and value > maximum:
        raise SettingsError(f"{here}: expected at most {maximum}, got {value!r}")


def _check_references(settings: Settings) -> None:
    if not settings.agents:
        raise SettingsError("agents: expected at least one agent, such as [agents.desk]")
    known = ", ".join(settings.agents)
    if settings.default_agent and settings.default_agent not in settings.agents:
        raise SettingsError(f"default_agent: there is no agent {settings.default_agent!r}; there are: {known}")
    for number, agent in settings.lines.items():
        if agent not in settings.agents:
            raise SettingsError(f"lines.{number}: there is no agent {agent!r}; there are: {known}")


def _check_lines(lines: Mapping[str, str]) -> None:
    spelt: dict[str, str] = {}
    for number in lines:
        digits = _digits(number)
        if not digits.isdigit():
            raise SettingsError(f"lines.{number}: expected a phone number, such as +15550100000")
        if digits in spelt:
            raise SettingsError(f"lines.{number}: expected each number once, it is {spelt[digits]} too")
        spelt[digits] = number


def _check_addresses(settings: Settings) -> None:
    examples = {"server.public_url": "https://calls.example.com"} if settings.server.public_url else {}
    examples |= {"twilio.api_url": TwilioSettings().api_url, "vonage.api_url": VonageSettings().api_url}
    for key, example in examples.items():
        table, _, name = key.partition(".")
        url = getattr(getattr(settings, table), name)
        if not _is_address(url):
            raise SettingsError(f"{key}: expected an address such as {example}, got {url!r}")
    for proxy in settings.server.trusted_proxies:
        try:
            ipaddress.ip_address(proxy)
        except ValueError:
            raise SettingsError(f"server.trusted_proxies: expected IP addresses, got {proxy!r}") from None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is none
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname) and not parts.query and not parts.fragment


def _digits(number: str) -> str:
    """A number's digits with its country code, where one can be told: +1 (555) 010-0000 equals 15550100000."""
    text = number.strip()
    try:
        parsed = phonenumbers.parse(text if text.startswith("+") else f"+{text}", None)
    except phonenumbers.NumberParseException:
        return "".join(filter(str.isdigit, text)) or text.lower()
    return f"{parsed.country_code}{parsed.national_number}"


def _hint(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(known)}"


def _name_of(kind: Any) -> str:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return " or ".join(_name_of(part) for part in get_args(kind))
    if origin is tuple:
        return "a list of strings"
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    return names.get(kind, "a table")
