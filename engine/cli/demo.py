"""``offhook demo``: one spoken call at a whole engine, over the provider's real wire, on this machine alone."""

from __future__ import annotations

import json as json_text
import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trio
from rich.console import Console
from rich.markup import escape

from engine.assembly import Engine
from engine.cli.call import SECRETS, CallersVoice, ProviderName
from engine.cli.serve import until_signalled
from engine.errors import OffhookError, SettingsError
from engine.observe.logs import configure_logs
from engine.observe.timeline import Moment, What
from engine.phone import conversation as phone
from engine.phone.phone import place_call
from engine.phone.side import Callee
from engine.phone.telnyx import new_keys
from engine.settings import AgentSettings, Secrets, Settings, StoreSettings

LINES = (
    "What are your opening hours?",
    "I would like to book a check-up for next Tuesday at ten thirty.",
    "My name is Anna Miller.",
    "Yes, please.",
    "No, that is all, thank you.",
)
WHOLE_DEMO_S = 240.0
READY_S = 120.0
ALIKE = 0.6
"""Share of an answer's words that must be recognised in what reached the caller's ear."""
MULAW = "mu-law, 8 kHz"
WIRES = {
    "twilio": MULAW,
    "vonage": "16-bit PCM, 16 kHz",
    "telnyx": MULAW,
    "plivo": MULAW,
    "signalwire": MULAW,
}


@dataclass
class Turn:
    """One exchange, as the caller had it."""

    heard: str
    """What the engine recognised of what the caller said."""
    said: str
    """What the agent answered."""
    response_ms: int | None
    """From the caller's last sound to the agent's first, at the caller's ear."""
    recognised: str
    """The answer as recognised in the audio that reached the caller's ear."""


@dataclass
class Proof:
    """What the demo claims, and whether it held."""

    answered: bool = False
    greeting: str = ""
    turns: list[Turn] = field(default_factory=list)
    resources_opened: int = 0
    resources_left: int = -1
    released_ms: float | None = None
    problems: list[str] = field(default_factory=list)


def demo(
    *, provider: ProviderName = "twilio", say: list[str] | None = None, keep: bool = False, json: bool = False
) -> int:
    """Answer one spoken test call, here and now.

    Parameters
    ----------
    provider
        Whose wire the call comes over.
    say
        What the caller says, a sentence each time; the default books an appointment.
    keep
        Leave the engine running afterwards, and tell how to call it.
    json
        End with one line of JSON.
    """
    configure_logs(level="error")
    console = Console(stderr=json, highlight=False)
    proof = trio.run(_demo, provider, tuple(say or LINES), keep, console, json)
    return 1 if proof.problems else 0


async def _demo(provider: ProviderName, lines: tuple[str, ...], keep: bool, console: Console, json: bool) -> Proof:
    key, keys = _keys(provider)
    show = _Show(console)
    engine = Engine(_settings(keys), watchers=[show])
    proof = Proof()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        show.line(f"[bold]offhook demo[/]: {provider} wire ({WIRES[provider]}), embedded speech, {engine.url}")
        with trio.move_on_after(WHOLE_DEMO_S) as whole:
            await _until_ready(engine, show)
            baseline = _descriptors()
            try:
                await _call(engine, Callee(engine.url, secret=key), provider, lines, show, proof)
            except OffhookError as exc:
                proof.problems.append(str(exc))
            await _prove(engine, show, proof, baseline)
        if whole.cancelled_caught:
            proof.problems.append(f"the demo did not end within {WHOLE_DEMO_S:.0f} s")
        for problem in proof.problems:
            show.line(f"[bold red]failed[/]: {escape(problem)}")
        if json:
            print(json_text.dumps(_as_json(proof)), flush=True)
        if keep:
            show.line(f"\nThe engine stays at {engine.url}; Ctrl-C ends it. From another terminal:")
            variable = SECRETS[provider]
            show.line(f'  {variable}={key} offhook call {engine.url} --as {provider} --say "When are you open?"')
            await until_signalled(engine)
        engine.stop()
    return proof


def _keys(provider: ProviderName) -> tuple[str, Secrets]:
    """What the caller's webhooks are signed with, and what the engine checks them by."""
    if provider == "telnyx":
        private, public = new_keys()
        return private, Secrets(telnyx_public_key=public)
    key = secrets.token_hex(16)
    named: dict[str, Any] = {SECRETS[provider].lower(): key}
    return key, Secrets(**named)


def _settings(keys: Secrets) -> Settings:
    settings = Settings(agents={"desk": AgentSettings()}, store=StoreSettings(kind="memory"))
    server = replace(settings.server, port=0)
    store = StoreSettings(kind="memory")  # nothing of a demo stays
    return replace(settings, server=server, secrets=keys, store=store)


async def _until_ready(engine: Engine, show: _Show) -> None:
    start = trio.current_time()
    with trio.move_on_after(READY_S) as waiting:
        while not engine.supervisor.ready[0]:  # noqa: ASYNC110 - readiness is asked for, as a load balancer does
            await trio.sleep(0.05)
    if waiting.cancelled_caught:
        raise SettingsError("the embedded speech did not load in time")
    show.line(f"[dim]speech loaded in {trio.current_time() - start:.1f} s[/]\n")


# --- the call -----------------------------------------------------------------------------------------------


async def _call(  # noqa: PLR0917 - what the one call needs
    engine: Engine, callee: Callee, provider: ProviderName, lines: tuple[str, ...], show: _Show, proof: Proof
) -> None:
    assert engine.speech is not None  # noqa: S101 - it is ready
    seen = 0

    def turn_is_over(turn: phone.Turn) -> None:
        nonlocal seen
        moments, seen = show.moments[seen:], len(show.moments)
        if not turn.said:
            proof.greeting = turn.heard
            return
        heard, said = (_texts(moments, what) for what in (What.HEARD, What.SAID))
        exchange = Turn(heard, said, None if turn.response_ms is None else round(turn.response_ms), turn.heard)
        proof.turns.append(exchange)
        _judge(exchange, proof)
        show.line(f"         [dim]{exchange.response_ms} ms from the caller's last sound to the answer's first[/]")

    async with place_call(provider, callee, report_end=True) as call:
        show.begin()
        voice = CallersVoice(engine.speech)
        script = [phone.Line(text=line) for line in lines]
        try:
            await phone.hold_conversation(call, script, voice, on_turn=turn_is_over)
        finally:
            proof.answered = bool(proof.greeting)
            proof.problems += [f"the wire: {what} ({count}x)" for what, count in call.violations.items()]
        show.line(f"{show.clock()}  [dim]the {'agent' if call.is_over else 'caller'} hangs up[/]\n")


def _texts(moments: list[Moment], what: What) -> str:
    return " ".join(str(moment.fields["text"]) for moment in moments if moment.what is what)


def _judge(turn: Turn, proof: Proof) -> None:
    if not turn.said:
        proof.problems.append(f"no answer to {turn.heard!r}")
    elif _likeness(turn.said, turn.recognised) < ALIKE:
        proof.problems.append(f"the agent said {turn.said!r}, the caller's ear got {turn.recognised!r}")


def _likeness(said: str, recognised: str) -> float:
    words: Callable[[str], Counter[str]] = lambda text: Counter(  # noqa: E731 - two uses, one line each
        word.strip(".,?!'-").lower() for word in text.replace("-", " ").split()
    )
    wanted = words(said)
    return sum((wanted & words(recognised)).values()) / max(1, sum(wanted.values()))


# --- the proof ----------------------------------------------------------------------------------------------


async def _prove(engine: Engine, show: _Show, proof: Proof, baseline: int) -> None:
    """Nothing of the call is left: ledger, registry, gauges, descriptors."""
    with trio.move_on_after(5.0):
        while show.count(What.CALL_RELEASED) == 0 or _descriptors() > baseline:  # noqa: ASYNC110 - asked from outside
            await trio.sleep(0.02)
    show.closed()
    released = show.last(What.CALL_RELEASED)
    open_now = sum(
        sample.value
        for family in engine.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "offhook_resources_open"
    )
    left = int(open_now) + len(engine.registry.live_calls()) + max(0, _descriptors() - baseline)
    if released is None:
        proof.problems.append("the call was not released")
        return
    proof.resources_opened = int(str(released["opened"]))
    proof.resources_left = left + int(str(released["left"]))
    proof.released_ms = float(str(released["released_ms"]))
    show.line(
        f"released in {proof.released_ms:.0f} ms: {proof.resources_opened} resources opened, "
        f"[bold]{proof.resources_left} left[/]; live calls {len(engine.registry.live_calls())}; "
        f"open files {_descriptors()} (before the call {baseline})"
    )
    if proof.resources_left:
        proof.problems.append(f"{proof.resources_left} resources are left")


def _descriptors() -> int:
    """Open file descriptors of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _as_json(proof: Proof) -> dict[str, object]:
    return {
        "answered": proof.answered and not proof.problems,
        "greeting": proof.greeting,
        "turns": [
            {"heard": turn.heard, "said": turn.said, "response_ms": turn.response_ms, "recognised": turn.recognised}
            for turn in proof.turns
        ],
        "resources_opened": proof.resources_opened,
        "resources_left": proof.resources_left,
        "released_ms": proof.released_ms,
        "problems": proof.problems,
    }


class _Show:
    """Watches the call, and prints it as it goes on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.moments: list[Moment] = []
        self._began_s = 0.0

    def __call__(self, moment: Moment) -> None:
        self.moments.append(moment)
        fields = moment.fields
        if moment.what is What.HEARD:
            self.line(f"{self.clock()}  [green]caller[/]  {escape(str(fields['text']))}")
        elif moment.what is What.SAID:
            cut = "  [dim](interrupted)[/]" if fields["interrupted"] else ""
            self.line(f"{self.clock()}  [cyan]agent [/]  {escape(str(fields['text']))}{cut}")

    def closed(self) -> None:
        """What was closed, told after the call: it is closed while the caller still listens to the last words."""
        for moment in self.moments:
            if moment.what is What.RESOURCE_CLOSED:
                fields = moment.fields
                self.line(
                    f"  [dim]closed {fields['kind']} ({fields['vendor']}): {fields['how']}, {fields['close_ms']} ms[/]"
                )

    def begin(self) -> None:
        self._began_s = trio.current_time()

    def clock(self) -> str:
        return f"[dim]{trio.current_time() - self._began_s:5.1f} s[/]"

    def line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)
        sys.stdout.flush()

    def count(self, what: What) -> int:
        return sum(moment.what is what for moment in self.moments)

    def last(self, what: What) -> dict[str, object] | None:
        return next((dict(moment.fields) for moment in reversed(self.moments) if moment.what is what), None)
