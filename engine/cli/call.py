"""``offhook call``: a caller for any running engine, over the wire of a provider."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol

import httpx
import trio
from cyclopts import Parameter

from engine.cli.usage import NotThere, check_engine_url
from engine.errors import OffhookError, SettingsError
from engine.events import MULAW_8K, AudioFormat
from engine.phone.call import PhoneCall
from engine.phone.conversation import Line, Turn, Voice, hold_conversation
from engine.phone.errors import CallRefused, WebhookRefused
from engine.phone.phone import SIDES, Phone, open_phone
from engine.phone.side import Callee, ProviderSide
from engine.phone.wav import BadWav, read_wav, write_wav
from engine.settings import Settings

OpenVoice = Callable[[], AbstractAsyncContextManager[Voice]]
"""Raises SettingsError when the embedded speech is not installed."""
ProviderName = Literal["twilio", "vonage", "telnyx", "plivo", "signalwire"]
SECRETS = {
    "twilio": "TWILIO_AUTH_TOKEN",
    "vonage": "VONAGE_SIGNATURE_SECRET",
    "telnyx": "TELNYX_PRIVATE_KEY",
    "plivo": "PLIVO_AUTH_TOKEN",
    "signalwire": "SIGNALWIRE_SIGNING_KEY",
}
"""Environment variables with the keys that sign webhooks. Of Telnyx' the engine has only the public half."""
PROBE_S = 5.0
"""For the engine to show that it is there."""
CALLERS_PITCH = 0.86
"""The caller borrows the embedded agent's voice, lowered, so that the two can be told apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``offhook call`` was asked to do."""

    url: str
    provider: str
    lines: tuple[Line, ...]
    out: Path | None
    calls: int
    caller: str
    dialled: str
    secret: str
    public_url: str
    patience_s: float

    def out_of(self, number: int) -> Path | None:
        """The file of one call, counted from 1."""
        if self.out is None or self.calls == 1:
            return self.out
        return self.out.with_stem(f"{self.out.stem}-{number}")


@dataclass(slots=True)
class Result:
    """One call, told afterwards."""

    number: int
    call_id: str = ""
    ok: bool = False
    problem: str = ""
    end: str = ""
    seconds: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    violations: dict[str, int] = field(default_factory=dict)
    gaps_ms: float = 0.0
    last_words: str = ""
    """What the provider says when the engine has let go of the line without being able to speak."""


def call_command(open_voice: OpenVoice) -> Callable[..., int]:
    """The command, for cyclopts; returns the exit code."""

    def call(
        url: Annotated[str, Parameter(help="Address of the engine, such as http://127.0.0.1:8080.")],
        /,
        *,
        provider: Annotated[ProviderName, Parameter(name="--as", help="The provider whose wire is spoken.")] = "twilio",
        say: Annotated[
            tuple[str, ...], Parameter(help="Say this after the greeting; may be given several times.")
        ] = (),
        wav: Annotated[tuple[Path, ...], Parameter(help="Play this file, mono 16-bit PCM, after what is said.")] = (),
        dtmf: Annotated[str, Parameter(help="Press these keys at the end.")] = "",
        out: Annotated[
            Path | None, Parameter(help="Write what the caller heard to this WAV file; with --calls, one for each.")
        ] = None,
        calls: Annotated[int, Parameter(help="So many callers at once, all with the same lines.")] = 1,
        caller: Annotated[str, Parameter(name="--from", help="The caller's number.")] = "+15005550006",
        dialled: Annotated[str, Parameter(name="--to", help="The dialled number.")] = "+15005550001",
        public_url: Annotated[
            str, Parameter(help="The engine's server.public_url, if it has one: webhooks are signed for it.")
        ] = "",
        patience_s: Annotated[float, Parameter(help="Seconds to wait for an answer.")] = 15.0,
        json_output: Annotated[bool, Parameter(name="--json", help="End with one line of JSON.")] = False,
    ) -> int:
        """See the help in ``engine.cli``."""
        lines = (*(Line(text=text) for text in say), *(Line(wav=path) for path in wav))
        plan = Plan(
            url=url.rstrip("/"),
            provider=provider,
            lines=(*lines, Line(keys=dtmf)) if dtmf else lines,
            out=out,
            calls=calls,
            caller=caller,
            dialled=dialled,
            secret=os.environ.get(SECRETS[provider], ""),
            public_url=public_url,
            patience_s=patience_s,
        )
        problem = _problem_of(plan)
        if problem:
            print(problem, file=sys.stderr)
            return 2
        tell: Callable[[str], None] = (lambda _: None) if json_output else print
        try:
            results = trio.run(place_calls, plan, open_voice, tell)
        except SettingsError as exc:
            print(exc, file=sys.stderr)
            return 2
        if json_output:
            print(json.dumps({"ok": all(r.ok for r in results), "calls": [asdict(result) for result in results]}))
        return 0 if all(result.ok for result in results) else 1

    return call


class _Speech(Protocol):
    async def render(self, text: str, line: AudioFormat, *, pitch: float) -> bytes: ...

    async def recognise(self, audio: bytes, line: AudioFormat) -> str: ...


class CallersVoice:
    """The embedded speech as a caller's mouth and ear."""

    def __init__(self, speech: _Speech) -> None:
        self._speech = speech

    async def render(self, text: str, line: AudioFormat, /) -> bytes:
        return await self._speech.render(text, line, pitch=CALLERS_PITCH)

    async def recognise(self, audio: bytes, line: AudioFormat, /) -> str:
        return await self._speech.recognise(audio, line)


@asynccontextmanager
async def embedded_voice() -> AsyncIterator[Voice]:
    """The embedded speech as a caller's voice. Raises SettingsError when it is not installed."""
    from engine.assembly import load_speech  # noqa: PLC0415 - a second's work that --wav can do without

    yield CallersVoice(await load_speech(Settings()))


call = call_command(embedded_voice)
"""``offhook call``."""


def _problem_of(plan: Plan) -> str:
    """What can be known to be wrong before anybody is called; empty if nothing is."""
    try:
        check_engine_url(plan.url)
    except NotThere as exc:
        return str(exc)
    if not 1 <= plan.calls <= 1000:
        return "--calls: expected 1 to 1000"
    if not 0 < plan.patience_s <= 3600:
        return "--patience-s: expected more than 0, up to 3600"
    unknown = {key for line in plan.lines for key in line.keys} - set("0123456789*#ABCD")
    if unknown:
        return "--dtmf: expected keys out of 0-9, *, #, A-D"
    try:
        for line in plan.lines:
            if line.wav is not None:
                read_wav(line.wav, MULAW_8K)
    except BadWav as exc:
        return f"--wav: {exc}"
    return _problem_of_file(plan.out_of(1))


def _problem_of_file(out: Path | None) -> str:
    if out is None:
        return ""
    if out.is_dir():
        return f"--out: {out} is a directory"
    if not out.parent.is_dir():
        return f"--out: there is no directory {out.parent}"
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        return f"--out: {out} cannot be written"
    return ""


async def place_calls(plan: Plan, open_voice: OpenVoice, tell: Callable[[str], None]) -> list[Result]:
    """All calls of the plan side by side; ``tell`` gets a line for everything that happens.

    Raises SettingsError when there is something to say and no voice to say it with.
    """
    results = [Result(number) for number in range(1, plan.calls + 1)]
    nobody = await _probe(plan.url)  # before the voice, which takes seconds to load
    if nobody:
        tell(nobody)
        for result in results:
            result.problem = nobody
        return results
    async with AsyncExitStack() as stack:
        voice = await _voice_if_any(stack, plan, open_voice, tell)
        phone = await stack.enter_async_context(open_phone())
        async with trio.open_nursery() as nursery:
            for result in results:
                nursery.start_soon(_place_call, plan, phone, voice, result, tell)
    return results


async def _probe(url: str) -> str:
    """Why no call can come about there; empty if something answers HTTP."""
    async with httpx.AsyncClient(trust_env=False, timeout=PROBE_S) as client:
        try:
            await client.get(f"{url}/readyz")
        except httpx.TransportError as exc:
            return f"no engine answers at {url} ({type(exc).__name__})"
    return ""


async def _voice_if_any(
    stack: AsyncExitStack, plan: Plan, open_voice: OpenVoice, tell: Callable[[str], None]
) -> Voice | None:
    try:
        return await stack.enter_async_context(open_voice())
    except SettingsError as exc:
        if any(line.text for line in plan.lines):
            raise
        tell(f"what is heard cannot be written down: {exc}")
        return None


async def _place_call(
    plan: Plan, phone: Phone, voice: Voice | None, result: Result, tell: Callable[[str], None]
) -> None:
    callee = Callee(plan.url, plan.caller, plan.dialled, plan.secret, plan.public_url)
    side = SIDES[plan.provider](callee)
    result.call_id = side.call_id
    began_s = trio.current_time()
    say = _prefixed(tell, result.number, plan.calls)

    def now() -> str:
        return f"{trio.current_time() - began_s:7.2f} s"

    def turn_over(turn: Turn) -> None:
        result.turns.append(turn)
        say(f"{now()}  agent   {turn.heard or f'({turn.heard_s:.1f} s of speech)'}  [{turn.response_ms:.0f} ms]")

    try:
        async with phone.call(side, report_end=True) as call:
            say(f"{now()}  call    answered as {plan.provider}, {call.format.encoding} at {call.format.rate_hz} Hz")
            try:
                await hold_conversation(
                    call,
                    plan.lines,
                    voice,
                    patience_s=plan.patience_s,
                    on_said=lambda line: say(f"{now()}  caller  {line}"),
                    on_turn=turn_over,
                )
                await call.hang_up()
            finally:
                _note(call, result, plan)
        result.ok = not result.violations
        result.problem = "" if result.ok else "the engine broke the provider's rules"
    except WebhookRefused as exc:
        result.problem = str(exc) + _hint(exc, plan)
    except OffhookError as exc:
        result.problem = str(exc) or type(exc).__name__
    if result.end.startswith("engine"):
        result.last_words = await _last_words(phone, side)
    if result.last_words:
        say(f"{now()}  agent   {result.last_words}  [said by {plan.provider}]")
    for violation, count in result.violations.items():
        say(f"{now()}  wrong   {violation} ({count} times)")
    say(f"{now()}  call    " + (f"failed: {result.problem}" if result.problem else f"over, ended by {result.end}"))


async def _last_words(phone: Phone, side: ProviderSide) -> str:
    """A provider whose media socket was closed asks what becomes of the caller, and says what it is answered."""
    try:
        async with phone.call(side, again=True):
            return ""
    except CallRefused as refused:
        return refused.sentence
    except OffhookError:
        return ""


def _hint(refused: WebhookRefused, plan: Plan) -> str:
    """Which key to set where, if a key is what is missing."""
    variable = SECRETS[plan.provider]
    if variable in str(refused):  # it is the engine's that is not set
        return f" (where the engine runs; and the same key in {variable} here, to sign what this command sends)"
    if refused.status != 403:
        return ""
    if not plan.secret:
        return f" ({variable} is not set here: set it to the key that the engine has)"
    return f" (is {variable} here the key that the engine has, and --public-url its server.public_url?)"


def _note(call: PhoneCall, result: Result, plan: Plan) -> None:
    result.end = call.end or "dropped"
    result.violations = dict(call.violations)
    result.gaps_ms = round(sum(gap.length_s for gap in call.gaps) * 1000, 1)
    result.seconds = round((call.ended_at_s or trio.current_time()) - call.answered_at_s, 2)
    path = plan.out_of(result.number)
    if path is not None:
        write_wav(path, call.heard_audio, call.format)


def _prefixed(tell: Callable[[str], None], number: int, calls: int) -> Callable[[str], None]:
    if calls == 1:
        return tell
    width = len(str(calls))
    return lambda text: tell(f"[{number:>{width}}] {text}")
