"""Holds a test conversation with an engine, turn by turn, and judges it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import trio

from engine.converse.api import Api, ApiFailed
from engine.converse.judge import faults
from engine.converse.lines import Line, SmsLine, TextLine, open_voice_line
from engine.converse.report import Exchange, Report
from engine.converse.script import Script, Stretch, Turn
from engine.converse.witness import Witness
from engine.dialogue.history import TraceWhat
from engine.errors import OffhookError, SettingsError
from engine.events import Modality
from engine.phone.conversation import Voice
from engine.phone.phone import open_phone
from engine.phone.side import Callee
from engine.phone.texts import Inbox
from engine.storage.record import Scope

ANSWER_S = 40.0
"""For one answer over HTTP."""
CLEAN_UP_S = 5.0
PATIENCE_S = 20.0
"""For one answer in a call to begin."""


class NotHeld(SettingsError):
    """The conversation is not one for this engine. ``lacks_agents``: it would be, if the engine had the agents that the
    script names."""

    def __init__(self, message: str, *, lacks_agents: bool = False) -> None:
        super().__init__(message)
        self.lacks_agents = lacks_agents


class Target(Protocol):
    """The engine that is talked to."""

    @property
    def url(self) -> str:
        """Where it is, now."""
        ...

    @property
    def api_key(self) -> str: ...

    @property
    def secrets(self) -> Mapping[str, str]:
        """By provider, the key that signs its webhooks; an empty one leaves them unsigned."""
        ...

    @property
    def public_url(self) -> str: ...

    @property
    def inbox(self) -> Inbox | None:
        """Where SMS arrive that it sends later, if that is known."""
        ...

    def open_voice(self) -> AbstractAsyncContextManager[Voice]:
        """Mouth and ear for spoken calls. Raises SettingsError."""
        ...

    async def restart(self) -> None:
        """Stop it, and start it on the same store. Raises SettingsError when that cannot be done from here."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    provider: str = "twilio"
    keep: bool = False
    """Leave what was said in the engine's store."""
    patience_s: float = PATIENCE_S


async def converse(
    script: Script, target: Target, options: Options, on_turn: Callable[[Exchange], None] = lambda _: None
) -> Report:
    """The whole conversation. ``on_turn`` is called after each turn.

    What goes wrong in it stands in the report. Raises SettingsError for what keeps it from being held at all; NotHeld
    where that is what the engine is.
    """
    report = Report(script.name, script.description, turns=len(script.turns))
    began_s = trio.current_time()
    async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as client:
        talk = _Talk(script, target, options, client, report, on_turn)
        await talk.prepare()
        try:
            await talk.run()
        except NotHeld:
            raise
        except OffhookError as exc:
            report.problems.append(str(exc) or type(exc).__name__)
        finally:
            report.seconds = trio.current_time() - began_s
    return report


class _Talk:
    def __init__(  # noqa: PLR0917 - what the one conversation needs
        self,
        script: Script,
        target: Target,
        options: Options,
        client: httpx.AsyncClient,
        report: Report,
        on_turn: Callable[[Exchange], None],
    ) -> None:
        self._script = script
        self._target = target
        self._options = options
        self._client = client
        self._report = report
        self._on_turn = on_turn
        self._stream = f"converse-{secrets.token_hex(8)}"
        self._api = Api(client, lambda: target.url, target.api_key)
        self._witness = Witness(self._api, script.caller)
        self._groups: dict[str, list[Exchange]] = {}
        """What must be on one session each."""

    async def prepare(self) -> None:
        """Raises SettingsError when the engine cannot be asked about its callers, or knows this one already."""
        script = self._script
        if all(script.modality(turn) is Modality.TEXT for turn in script.turns):
            return
        try:
            known = await self._api.sessions_of(script.caller)
        except ApiFailed as exc:
            raise SettingsError(f"the engine cannot be asked about its sessions: {exc}") from None
        if known:
            raise SettingsError(
                f"{script.file}: caller: the engine has a session of this number already; take another one, "
                "or erase it with `offhook privacy delete`"
            )

    async def run(self) -> None:
        try:
            for stretch in self._script.stretches():
                if not await self._hold(stretch):
                    return
            await self._judge_whole()
        finally:
            await self._clean_up()

    # --- a stretch ------------------------------------------------------------------------------------------

    async def _hold(self, stretch: Stretch) -> bool:
        """False when the conversation cannot go on."""
        first = self._exchange(stretch.first, stretch.turns[0])
        said: Exchange | None = first
        try:
            if first.restarted:
                await self._target.restart()
            async with self._line(stretch) as line:
                first.greeting = line.greeting
                for offset, turn in enumerate(stretch.turns):
                    said = first if offset == 0 else self._exchange(stretch.first + offset, turn)
                    await self._turn(said, turn, self._sms_line() if turn.in_call else line)
                    said = None
        except NotHeld:
            raise
        except OffhookError as exc:
            problem = str(exc) or type(exc).__name__
            if said is None:
                self._report.problems.append(problem)
            else:
                said.problems.append(problem)
                self._over(said)
            return False
        return True

    def _exchange(self, number: int, turn: Turn) -> Exchange:
        over = self._script.modality(turn)
        return Exchange(number + 1, over, turn.say, new_call=turn.new_call, restarted=turn.restart)

    async def _turn(self, exchange: Exchange, turn: Turn, line: Line) -> None:
        try:
            said = await line.say(turn.say)
        except ApiFailed as exc:
            if exc.field == "agent":
                raise self._lacks_agent("the engine there has no agent of that name") from None
            raise
        exchange.answer, exchange.ms = said.answer, said.ms
        exchange.session_id, exchange.agent = said.session_id, said.agent
        if exchange.over is Modality.VOICE:
            exchange.heard = said.answer
        if turn.remembers or not (exchange.session_id and exchange.agent):
            await self._witness.tell(exchange, line.call_id, wants_shown=not isinstance(turn.remembers, dict))
        if exchange.agent and self._script.agents and exchange.agent not in self._script.agents:
            self._over(exchange)
            raise self._lacks_agent(f"the engine there answers as {exchange.agent!r}")
        self._groups.setdefault(self._group(exchange, line), []).append(exchange)
        exchange.problems += faults(turn, exchange)
        if exchange.over is Modality.VOICE and not exchange.heard:
            exchange.problems.append("nothing could be recognised at the caller's ear")
        self._over(exchange)

    def _lacks_agent(self, why: str) -> NotHeld:
        wanted = self._script.first_agent
        return NotHeld(f"{self._script.file}: this conversation is with the agent {wanted!r}: {why}", lacks_agents=True)

    def _over(self, exchange: Exchange) -> None:
        self._report.exchanges.append(exchange)
        self._on_turn(exchange)

    def _group(self, exchange: Exchange, line: Line) -> str:
        """Texts over HTTP belong to their stream; calls and SMS to the caller, or with the scope ``call`` calls each to
        themselves."""
        if exchange.over is Modality.TEXT or self._script.scope is Scope.CALL:
            return line.call_id or str(exchange.over)
        return "caller"

    @asynccontextmanager
    async def _line(self, stretch: Stretch) -> AsyncIterator[Line]:
        if stretch.over is Modality.TEXT:
            yield TextLine(self._api, self._stream, self._script.first_agent if stretch.first == 0 else "")
        elif stretch.over is Modality.SMS:
            yield self._sms_line()
        else:
            says = [turn.say for turn in stretch.turns if not turn.in_call]
            async with (
                self._target.open_voice() as voice,
                open_phone() as phone,
                open_voice_line(
                    phone, self._options.provider, self._callee(), voice, says, patience_s=self._options.patience_s
                ) as line,
            ):
                yield line

    def _sms_line(self) -> SmsLine:
        return SmsLine(self._options.provider, self._callee(), self._target.inbox)

    def _callee(self) -> Callee:
        provider, script, target = self._options.provider, self._script, self._target
        return Callee(
            target.url,
            caller=script.caller,
            dialled=script.dialled,
            secret=target.secrets.get(provider, ""),
            public_url=target.public_url,
            attestation="A",  # stored memory is spoken to nobody else
        )

    # --- the whole ------------------------------------------------------------------------------------------

    async def _judge_whole(self) -> None:
        problems = self._report.problems
        unknown = [str(item.number) for item in self._report.exchanges if not item.session_id]
        if unknown:
            problems.append(f"no session is known of turn {', '.join(unknown)}")
        ids_of = {
            group: tuple(dict.fromkeys(item.session_id for item in items if item.session_id))
            for group, items in self._groups.items()
        }
        problems += [
            f"the session id did not stay the same: {', '.join(ids)}" for ids in ids_of.values() if len(ids) > 1
        ]
        if len(self._report.session_ids) < sum(len(set(ids)) for ids in ids_of.values()):
            problems.append("calls that have nothing to do with each other were on one session")
        for session_id in self._report.session_ids:
            problems += await self._problems_of(session_id)

    async def _problems_of(self, session_id: str) -> list[str]:
        if await self._api.session(session_id) is None:
            return []  # scope `call`: gone with its call
        events = await self._witness.whole(session_id)
        problems = []
        for what, name in ((TraceWhat.CREATED, "created"), (TraceWhat.OPENING_SAID, "opened")):
            count = sum(event.what == what for event in events)
            if count > 1:
                problems.append(f"session {session_id} was {name} {count} times")
        validation = await self._api.validation(session_id)
        return problems + [f"validation: {text}" for text in violations_in(validation)]

    async def _clean_up(self) -> None:
        """Nothing of the conversation stays in somebody else's store."""
        if self._options.keep:
            return
        used = {item.over for item in self._report.exchanges}
        with trio.move_on_after(CLEAN_UP_S, shield=True):
            try:
                if any(over is not Modality.TEXT for over in used):
                    await self._api.erase(self._script.caller)
                if Modality.TEXT in used:
                    await self._api.reset(self._stream)
            except ApiFailed as exc:
                self._report.problems.append(f"what was said could not be removed: {exc}")


def violations_in(validation: Mapping[str, Any]) -> list[str]:
    """What ``GET /api/sessions/{id}/validation`` finds wrong, a line each."""
    return [f"{item['rule']} in turn {item['turn_id']}" for item in validation["problems"]]
