"""Twilio's side of a ConversationRelay call: it hears and speaks for the caller, and takes from an engine only what the
real one takes. Speech is text here; it takes as long to be said as it has letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

import httpx
import orjson
import trio

from engine.phone.errors import CallFailed, CallRefused, LineLost, TooSlow, WebhookRefused
from engine.phone.side import Callee
from engine.phone.twilio import ACCOUNT, VOICE_PATH, read_response, sign
from engine.runtime.sockets import open_socket

CHARS_PER_S: Final = 15.0
MAX_UNIDENTIFIED: Final = 10
"""In a row, after which the socket is closed with 1007."""
_KEYS: Final = frozenset("0123456789w#*")
_FIELDS: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "text": (frozenset({"token"}), frozenset({"last", "lang", "interruptible", "preemptible"})),
    "play": (frozenset({"source"}), frozenset({"loop", "preemptible", "interruptible"})),
    "sendDigits": (frozenset({"digits"}), frozenset()),
    "language": (frozenset(), frozenset({"ttsLanguage", "transcriptionLanguage"})),
    "end": (frozenset(), frozenset({"handoffData"})),
}
"""Type of message to its fields: those that must be there, and those that may."""
_ATTRIBUTES: Final = frozenset(
    {
        "url",
        "language",
        "ttsLanguage",
        "transcriptionLanguage",
        "ttsProvider",
        "voice",
        "transcriptionProvider",
        "speechModel",
        "profanityFilter",
        "dtmfDetection",
        "welcomeGreeting",
        "welcomeGreetingInterruptible",
        "interruptible",
        "preemptible",
        "partialPrompts",
        "hints",
        "intelligenceService",
        "reportInputDuringAgentSpeech",
        "elevenlabsTextNormalization",
        "interruptSensitivity",
        "debug",
        "backgroundNoiseReduction",
        "speechTimeout",
        "deepgramSmartFormat",
        "ignoreBackchannel",
        "events",
    }
)


class RelaySocket(Protocol):
    """The part of ``engine.runtime.sockets.Socket`` that a call uses."""

    @property
    def close_code(self) -> int | None: ...

    async def receive(self) -> str | bytes: ...

    async def send(self, *messages: str | bytes) -> None: ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None: ...


class RelayCall:
    """One call. ``run`` reads the socket until it is gone."""

    def __init__(self, socket: RelaySocket, call_id: str, parameters: Mapping[str, str], callee: Callee) -> None:
        self.call_id = call_id
        self.violations: Counter[str] = Counter()
        """What the engine sent that Twilio does not take, and how often."""
        self.digits = ""
        """Keys that the engine pressed."""
        self.heard: list[str] = []
        """Utterances of the agent, each as far as it was said."""
        self.end = ""
        """Who ended the call, once it is over: ``caller``, ``agent``, ``twilio 1007``, ``engine 1000``."""
        self._socket = socket
        self._parameters = parameters
        self._callee = callee
        self._over = trio.Event()
        self._unidentified = 0
        self._text = ""
        """Of the utterance under way."""
        self._is_whole = True
        self._began_s = 0.0
        self._changed = trio.Event()
        self._interruptible = True

    # --- the caller -----------------------------------------------------------------------------------------

    async def say(self, text: str, *partial: str) -> None:
        """Say this, into what the agent is saying if it is; ``partial`` is what is understood of it before. Raises
        LineLost."""
        await self._interrupt()
        for words in partial:
            await self._tell({"type": "prompt", "voicePrompt": words, "lang": "en-US", "last": False})
        await self._tell({"type": "prompt", "voicePrompt": text, "lang": "en-US", "last": True})

    async def press(self, digits: str) -> None:
        for digit in digits:
            await self._tell({"type": "dtmf", "digit": digit})

    async def wait_for_reply(self, *, within_s: float = 10.0) -> str:
        """Until the next utterance of the agent has been said whole: it. Raises TooSlow, LineLost."""
        with trio.move_on_after(within_s):
            while not (self._text and self._is_whole):
                self._check_line()
                await self._changed.wait()
            await trio.sleep(self._remaining_s())
            said, self._text = self._text, ""
            self.heard.append(said)
            return said
        raise TooSlow(f"nothing was said whole within {within_s} s")

    async def wait_until_speaking(self, *, within_s: float = 10.0) -> None:
        """Until the agent has begun to say something. Raises TooSlow, LineLost."""
        with trio.move_on_after(within_s):
            while not self._text:
                self._check_line()
                await self._changed.wait()
            return
        raise TooSlow(f"nothing was said within {within_s} s")

    async def wait_until_over(self, *, within_s: float = 60.0) -> str:
        """Until the call has ended: ``end``. Raises TooSlow."""
        with trio.move_on_after(within_s):
            await self._over.wait()
            return self.end
        raise TooSlow(f"the call went on for more than {within_s} s")

    async def hang_up(self) -> None:
        """Twilio just closes the socket."""
        if not self.end:
            self._ended("caller")
            await self._socket.aclose()

    # --- the wire -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """The first message."""
        await self._tell(
            {
                "type": "setup",
                "sessionId": "VX" + self.call_id[2:],
                "accountSid": ACCOUNT,
                "parentCallSid": "",
                "callSid": self.call_id,
                "from": self._callee.caller,
                "to": self._callee.dialled,
                "forwardedFrom": "",
                "callType": "PSTN",
                "callerName": "",
                "direction": "inbound",
                "callStatus": "RINGING",
                "customParameters": dict(self._parameters),
            }
        )

    async def run(self) -> None:
        """Until the socket is gone."""
        try:
            while not self.end:
                await self._take(await self._socket.receive())
        except trio.EndOfChannel:
            self._ended(f"engine {self._socket.close_code}")

    async def _take(self, message: str | bytes) -> None:
        why = _fault_of(message)
        if why:
            self.violations[f"64107: {why}"] += 1
            self._unidentified += 1
            if self._unidentified >= MAX_UNIDENTIFIED:
                self._ended("twilio 1007")
                await self._socket.aclose(1007, "too many unidentified messages")
                return
            await self._tell({"type": "error", "description": f"Invalid message received: {message!r:.200}"})
            return
        self._unidentified = 0
        await self._obey(orjson.loads(message))

    async def _obey(self, data: dict[str, Any]) -> None:
        match data["type"]:
            case "text":
                self._speak(data["token"], is_last=data.get("last", False))
            case "sendDigits":
                self.digits += data["digits"]
            case "end":
                await trio.sleep(self._remaining_s())  # what was sent before is said
                self._ended("agent")
                await self._socket.aclose()

    def _speak(self, token: str, *, is_last: bool) -> None:
        now = trio.current_time()
        if self._text and self._is_whole:  # a new one; the last one was said, or is by now
            self.heard.append(self._text)
            self._text = ""
        if not self._text:
            self._began_s = now
        self._text += token
        self._is_whole = is_last
        self._changed.set()
        self._changed = trio.Event()

    async def _interrupt(self) -> None:
        """If something is being said, it ends here."""
        if not self._text or (self._is_whole and self._remaining_s() <= 0):
            return
        spoken_s = trio.current_time() - self._began_s
        said = self._text[: round(spoken_s * CHARS_PER_S)]
        self.heard.append(said)
        self._text, self._is_whole = "", True
        cut = {"type": "interrupt", "utteranceUntilInterrupt": said, "durationUntilInterruptMs": round(spoken_s * 1000)}
        await self._tell(cut)

    def _remaining_s(self) -> float:
        return max(0.0, self._began_s + len(self._text) / CHARS_PER_S - trio.current_time()) if self._text else 0.0

    async def _tell(self, message: Mapping[str, object]) -> None:
        self._check_line()
        try:
            await self._socket.send(orjson.dumps(message).decode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise LineLost("the call is over") from None

    def _check_line(self) -> None:
        if self.end:
            raise LineLost(f"the call is over: {self.end}")

    def _ended(self, how: str) -> None:
        if not self.end:
            self.end = how
            self._over.set()
            self._changed.set()


@asynccontextmanager
async def relay_call(callee: Callee, call_id: str = "CA" + "7" * 32) -> AsyncIterator[RelayCall]:
    """A call to an engine whose answer is a ConversationRelay. Leaving the block hangs up. What the block raises comes
    out as it is, in no group. Raises CallRefused, CallFailed."""
    url, parameters = await _answer(callee, call_id)
    signature = {"X-Twilio-Signature": sign(callee.secret, url, {})} if callee.secret else {}
    headers = [(name.encode(), value.encode()) for name, value in signature.items()]
    failure: Exception | None = None
    async with open_socket(url, headers=headers) as socket, trio.open_nursery() as nursery:
        call = RelayCall(socket, call_id, parameters, callee)
        await call.open()
        nursery.start_soon(call.run)
        try:
            yield call
            await call.hang_up()
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery that would group it
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _answer(callee: Callee, call_id: str) -> tuple[str, dict[str, str]]:
    form = {
        "CallSid": call_id,
        "AccountSid": ACCOUNT,
        "From": callee.caller,
        "To": callee.dialled,
        "CallStatus": "ringing",
        "Direction": "inbound",
    } | dict(callee.extra)
    signed_url = urljoin(callee.public_url or callee.base_url, VOICE_PATH)
    headers = {"X-Twilio-Signature": sign(callee.secret, signed_url, form)} if callee.secret else {}
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(urljoin(callee.base_url, VOICE_PATH), data=form, headers=headers)
    if response.status_code != 200:
        raise WebhookRefused(VOICE_PATH, response.status_code, response.content)
    return read_relay(response.content)


def read_relay(document: bytes) -> tuple[str, dict[str, str]]:
    """The relay's address and parameters. Raises CallRefused with the sentence said, CallFailed for anything that
    Twilio would not run."""
    said = []
    for verb in read_response(document):
        match verb.tag:
            case "Connect":
                return _read_relay(verb)
            case "Say":
                said.append((verb.text or "").strip())
            case "Hangup":
                raise CallRefused(" ".join(said))
            case _:
                raise CallFailed(f"the answer holds <{verb.tag}>")
    raise CallRefused(" ".join(said))


def _read_relay(connect: ElementTree.Element) -> tuple[str, dict[str, str]]:
    if [child.tag for child in connect] != ["ConversationRelay"]:
        raise CallFailed("<Connect> must hold exactly one <ConversationRelay>")
    relay = connect[0]
    if unknown := relay.attrib.keys() - _ATTRIBUTES:
        raise CallFailed(f"<ConversationRelay> has an unknown attribute {min(unknown)}")
    url = relay.get("url", "")
    if urlsplit(url).scheme not in ("ws", "wss"):
        raise CallFailed("<ConversationRelay url> is not a WebSocket address")
    parameters: dict[str, str] = {}
    for child in relay:
        if child.tag not in ("Parameter", "Language"):
            raise CallFailed(f"<ConversationRelay> holds <{child.tag}>")
        if child.tag == "Parameter":
            parameters[child.attrib["name"]] = child.attrib["value"]
    return url, parameters


def _fault_of(message: str | bytes) -> str:  # noqa: PLR0911 - a fault each
    """What is wrong with a message of the engine, or nothing."""
    if not isinstance(message, str):
        return "a binary message"
    try:
        data = orjson.loads(message)
    except ValueError:
        return "not JSON"
    if not isinstance(data, dict) or data.get("type") not in _FIELDS:
        return "unidentified"
    needed, allowed = _FIELDS[data["type"]]
    fields = data.keys() - {"type"}
    if missing := needed - fields:
        return f"{data['type']} without {min(missing)}"
    if extra := fields - needed - allowed:
        return f"{data['type']} with {min(extra)}"
    if data["type"] == "language" and not fields:
        return "language without a language"
    return _bad_value(data)


def _bad_value(data: dict[str, Any]) -> str:
    for name, value in data.items():
        is_flag = name in ("last", "interruptible", "preemptible")
        kind: type = bool if is_flag else int if name == "loop" else str
        if type(value) is not kind:
            return f"{data['type']} with {name} of another type"
    if data["type"] == "sendDigits" and not set(data["digits"]) <= _KEYS:
        return "sendDigits of other keys"
    return ""
