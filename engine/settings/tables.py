"""Every setting: its key, unit, default and what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import phonenumbers

from engine.machine import usable_cores


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
    api_requests_per_minute: int = _at_least(1, 120)
    """Of one key of the HTTP API."""
    api_wrong_keys_per_minute: int = _at_least(1, 30)
    """From one address; after that they are answered with 429 until a minute has passed."""


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
    first_token_s: float = _at_least(0.1, 4.0)
    """For a model to begin its answer, before it is asked again or another one is."""
    token_gap_s: float = _at_least(0.1, 3.0)
    """Between two pieces of a model's answer, likewise."""
    first_sound_s: float = _at_least(0.1, 2.5)
    """For a synthesizer to begin with a sentence, likewise."""
    sound_gap_s: float = _at_least(0.1, 1.5)
    """How far a synthesizer may fall behind its own speech, likewise."""
    vendor_answer_s: float = _at_least(0.5, 6.0)
    """For all tries of one answer to bring something, before the caller is told that there is none."""
    hearing_s: float = _at_least(1, 8.0)
    """Without an event of a recogniser while the caller makes sounds, before it is connected anew."""
    filler_s: float = _at_least(0.1, 2.0)
    """The caller's wait for an answer before a filler is said."""
    reply_s: float = _at_least(0.5, 7.0)
    """The caller's wait for an answer, or for more of it, before the call is given up with an apology. With a program
    as the agent's model, that program's ``timeout_s`` and ``close_s`` come on top, with a filler every 5 s."""
    finished_turn_s: float = _at_least(0.1, 0.4)
    """Silence that ends a turn whose words look finished."""
    unfinished_turn_s: float = _at_least(0.1, 1.2)
    drafts: bool = True
    """Think of an answer, and have its first words ready, while it is still waited whether the caller goes on; a draft
    is thrown away if so."""
    barge_in_words: int = _at_least(0, 0)
    """Words of the caller that stop the agent in the middle of a sentence; 0: the first sound does, and the agent goes
    on if it held no words. Where words come only once the caller is silent (transcription over HTTP, OpenAI Realtime),
    the agent talks on until then. A speech-to-speech vendor must not stop by itself: ``stops_itself = false`` for
    OpenAI Realtime; ElevenLabs Agents always does. A provider that hears (``relay``) decides by itself."""
    max_answer_s: float = _at_least(5, 60.0)
    """Of one answer; a model that goes on for longer is cut off there."""
    model_failures: int = _at_least(0, 1)
    """Answers in a row that may fail, each with a word of regret to the caller, before the call is given up."""
    token_s: float = _at_least(1, 60.0)
    """How long a media token is good for."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent."""

    script: str = "appointment_desk"
    """What the model ``script`` goes by: a script that ships with Offhook, or the path of a TOML file."""
    scope: str = field(default="call", metadata={"choices": ("call", "caller")})
    """How far it remembers: ``call``, one call or stream, forgotten at its end; ``caller``, all calls and texts of one
    number."""
    transcriber: tuple[str, ...] = ("embedded",)
    """Who hears: ``embedded``, or vendors, each a table ``[vendors.NAME]`` or a kind of vendor; the second and further
    ones take over when the one before fails."""
    synthesizer: tuple[str, ...] = ("embedded",)
    """Who speaks; likewise."""
    model: tuple[str, ...] = ("script",)
    """Who thinks: ``script``, or vendors; likewise."""
    realtime: tuple[str, ...] = ()
    """A speech-to-speech vendor that does all three in a call. Texts are still answered by ``model``."""
    relay: bool = False
    """The provider hears and speaks, and only text comes to us: Twilio's ConversationRelay. Calls of providers that
    cannot do so are refused."""
    instructions: str = ""
    """Who the agent is and what it is to do, for a model that is not a script."""
    instructions_file: str = ""
    """The same, from a file."""
    phrases: Mapping[str, str] = field(default_factory=dict)
    """What it says of its own accord: ``greeting``, ``returning``, ``filler``, ``goodbye``, ...; over the script's."""
    tools: tuple[str, ...] = ("hang_up",)
    """What its model may call: built in are ``hang_up``, ``transfer``, ``send_text``, ``press_digits``, ``remember``,
    ``recall`` and ``hand_over``; others are tables ``[tools.NAME]``."""
    transfers: Mapping[str, str] = field(default_factory=dict)
    """Whom it may connect callers to: a name to a number in E.164 or a SIP address."""
    warm_transfers: str = "never"
    """Whether the model may say what whoever picks up is told before they are joined with the caller, who is back where
    nobody does: ``never``, ``if_able`` (without a word where the provider cannot) or ``always``."""
    failure_transfer: str = ""
    """One of ``transfers``: who takes the call when it would end with an apology."""
    factory: str = ""
    """``package.module:function`` of an agent that is not embedded; called with the agent's name and ``options``."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """Something that models may call: an HTTP endpoint, a Python callable, or all that a server of the Model Context
    Protocol offers."""

    description: str = ""
    """What it is for, in words for the model."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON Schema of one object: what the model is to give."""
    url: str = ""
    """An HTTP endpoint: it is sent the arguments as JSON, and answers with JSON or text."""
    method: str = field(default="POST", metadata={"choices": ("GET", "POST", "PUT", "PATCH", "DELETE")})
    """With GET and DELETE the arguments are in the query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of requests to ``url`` or to an MCP server; ``${NAME}`` stands for a variable of the environment."""
    secret_variable: str = ""
    """The environment variable with the key that signs requests to ``url``, as events are signed."""
    tells_caller: bool = False
    """Tell ``url``, or an MCP server, the caller's number. It is the call's own, whatever the model says."""
    allow_private: bool = False
    """``url`` may be inside private networks, and without TLS."""
    python: str = ""
    """A Python callable, ``package.module:function``; its signature and docstring say what the model is told."""
    mcp: tuple[str, ...] = ()
    """An MCP server: its address (streamable HTTP), or a program with its arguments (stdio)."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Of an MCP server's program; ``${NAME}`` as in ``headers``."""
    only: tuple[str, ...] = ()
    """Of an MCP server's tools, those that are offered; empty: all."""
    timeout_s: float = _at_least(0.1, 5.0, at_most=15.0)
    """For one call. An answer that takes longer than ``limits.reply_s`` is given up, whatever its tools may take."""


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
class TelnyxSettings:
    account_sid: str = ""
    """Id of the account; it and ``application_id`` are for calls that we make."""
    application_id: str = ""
    """Id of the TeXML application."""
    api_url: str = "https://api.telnyx.com"


@dataclass(frozen=True, slots=True)
class PlivoSettings:
    auth_id: str = ""
    api_url: str = "https://api.plivo.com"


@dataclass(frozen=True, slots=True)
class SignalWireSettings:
    project_id: str = ""
    api_url: str = ""
    """Of the space, such as ``https://example.signalwire.com``; empty: nothing is asked over REST."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Twilio's ConversationRelay, which hears and speaks itself. Empty: what Twilio takes by itself."""

    language: str = ""
    """Such as ``en-US``."""
    voice: str = ""
    tts_provider: str = ""
    transcription_provider: str = ""
    speech_model: str = ""
    interruptible: str = field(default="", metadata={"choices": ("", "none", "dtmf", "speech", "any")})
    """What cuts speech off."""
    interrupt_sensitivity: str = field(default="", metadata={"choices": ("", "low", "medium", "high")})
    hints: str = ""
    """Words to expect, separated by commas."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further attributes of ``<ConversationRelay>``, under Twilio's own names."""


@dataclass(frozen=True, slots=True)
class OutboundSettings:
    """Calls that we make. None, and nowhere to, until it is said otherwise: a stolen key would be paid by you."""

    enabled: bool = False
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Our numbers to call from, in E.164, each to its provider; the first one unless another is asked for."""
    allow: tuple[str, ...] = ()
    """How the numbers that may be called begin, in E.164, such as ``+4930``; empty: none. ``+1`` alone also means the
    islands of the Caribbean, which are dear."""
    deny: tuple[str, ...] = ()
    """Beginnings that may not, over ``allow``. Premium numbers, numbers of shared cost and the like never may."""
    calls_per_minute: int = _at_least(1, 30)
    max_calls: int = _at_least(1, 10)
    """At once, ringing ones included; they count among ``limits.max_calls``."""
    ring_s: float = _at_least(5, 30.0, at_most=120.0)
    """Before nobody is there."""
    detect_machine: bool = False
    """Find out whether an answering machine picked up, unless the request says otherwise."""
    voicemail: str = ""
    """What is left on an answering machine after its beep; empty: nothing, it is hung up on."""


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """Recording of calls: the caller on the left channel, the agent on the right. Off until it is said otherwise."""

    enabled: bool = False
    agents: tuple[str, ...] = ()
    """Whose calls; empty: everybody's. Calls that a provider hears itself (``relay``) are not recorded."""
    directory: str = "recordings"
    """Where the files go, each in a folder that stands for the caller, under the id of its call."""
    bucket: str = ""
    """Instead of the directory: a bucket of S3 or what speaks as it does. Keys: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and, if there is one, AWS_SESSION_TOKEN."""
    endpoint: str = ""
    """Of such a store; empty: Amazon's."""
    region: str = "us-east-1"
    prefix: str = ""
    """Before every key in the bucket, such as ``calls/``."""
    announce: str = ""
    """Said before the greeting. A call in which it cannot be said is not recorded."""


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
    load_s: float = _at_least(0.01, 0.25)
    """For reading a session at the start of a call, which then goes on without its memory: the caller waits for all of
    it, and should not for more than 0.3 s."""
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
    twilio_shared_keys: str = field(default="", repr=False)
    """Twilio's shared keys for signing webhooks, each ``id:secret``, separated by commas or spaces."""
    vonage_signature_secret: str = field(default="", repr=False)
    vonage_private_key: str = field(default="", repr=False)
    """PEM; for hanging up over Vonage's REST API."""
    telnyx_public_key: str = field(default="", repr=False)
    """Base64, from the portal; checks webhooks."""
    telnyx_api_key: str = field(default="", repr=False)
    plivo_auth_token: str = field(default="", repr=False)
    signalwire_signing_key: str = field(default="", repr=False)
    signalwire_api_token: str = field(default="", repr=False)
    encryption_keys: str = field(default="", repr=False)
    """Keys of the store, each ``id:base64 of 32 bytes``, separated by commas or spaces. The first one seals, all open;
    ``offhook store new-key`` makes one."""
    encryption_keys_file: str = ""
    """Read again when it changes, so that keys can be exchanged while calls go on."""
    api_keys: str = field(default="", repr=False)
    """Keys of the HTTP API, each ``name:scope+scope:key``, separated by commas or spaces. Scopes: ``turn``,
    ``history``, ``admin``, ``privacy``, ``metrics``, ``calls``."""
    webhook_secret: str = field(default="", repr=False)
    """Signs the events that are sent."""
    aws_access_key_id: str = field(default="", repr=False)
    """For recordings in a bucket."""
    aws_secret_access_key: str = field(default="", repr=False)
    aws_session_token: str = field(default="", repr=False)
    database_url: str = field(default="", repr=False)
    redis_password: str = field(default="", repr=False)
    vendor_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By environment variable, of the vendors that are used and of tools."""


@dataclass(frozen=True, slots=True)
class Settings:
    server: Server = Server()
    limits: Limits = Limits()
    log: LogSettings = LogSettings()
    speech: SpeechSettings = SpeechSettings()
    twilio: TwilioSettings = TwilioSettings()
    vonage: VonageSettings = VonageSettings()
    telnyx: TelnyxSettings = TelnyxSettings()
    plivo: PlivoSettings = PlivoSettings()
    signalwire: SignalWireSettings = SignalWireSettings()
    relay: RelaySettings = RelaySettings()
    outbound: OutboundSettings = OutboundSettings()
    recording: RecordingSettings = RecordingSettings()
    sessions: SessionSettings = SessionSettings()
    store: StoreSettings = StoreSettings()
    webhooks: WebhookSettings = WebhookSettings()
    vendors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Speech and language vendors: ``kind`` (the name of the table, if it is one), ``key_variable`` (where the key is,
    if not in the usual variable), and what the kind takes; ``offhook vendors`` lists it."""
    tools: Mapping[str, ToolSettings] = field(default_factory=dict)
    """What models may call besides what is built in."""
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
        wanted = digits_of(dialled)
        return next((agent for number, agent in self.lines.items() if digits_of(number) == wanted), self.first_agent)


def digits_of(number: str) -> str:
    """A number's digits with its country code, where one can be told: +1 (555) 010-0000 equals 15550100000."""
    text = number.strip()
    try:
        parsed = phonenumbers.parse(text if text.startswith("+") else f"+{text}", None)
    except phonenumbers.NumberParseException:
        return "".join(filter(str.isdigit, text)) or text.lower()
    return f"{parsed.country_code}{parsed.national_number}"
