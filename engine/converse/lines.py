"""The ways to an agent: over the HTTP API, by SMS, by a spoken call. One line serves one stretch of a conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from engine.converse.api import Api
from engine.phone.call import PhoneCall
from engine.phone.conversation import Voice
from engine.phone.errors import TooSlow
from engine.phone.phone import SIDES, Phone
from engine.phone.side import Callee
from engine.phone.texts import Inbox, send_text


@dataclass(frozen=True, slots=True)
class Said:
    """What came back for one say."""

    answer: str
    ms: int
    session_id: str = ""
    """Where the line tells it."""
    agent: str = ""


class Line(Protocol):
    greeting: str
    """What the agent said first; empty over texts."""
    call_id: str
    """Of a call; else empty."""

    async def say(self, text: str, /) -> Said:
        """Raises OffhookError when no answer comes."""
        ...


class TextLine:
    """``POST /turn``. ``agent``: who is to answer from the first turn on; empty for whoever it is."""

    greeting = call_id = ""

    def __init__(self, api: Api, stream: str, agent: str = "") -> None:
        self._api = api
        self._stream = stream
        self._agent = agent

    async def say(self, text: str, /) -> Said:
        began_s = trio.current_time()
        agent, self._agent = self._agent, ""
        answered = await self._api.turn(text, stream=self._stream, agent=agent)
        return Said(answered.text, _ms_since(began_s), answered.session_id, answered.agent)


class SmsLine:
    """The provider's SMS webhook. Without an inbox an answer that comes later is not seen here."""

    greeting = call_id = ""

    def __init__(self, provider: str, callee: Callee, inbox: Inbox | None) -> None:
        self._provider = provider
        self._callee = callee
        self._inbox = inbox

    async def say(self, text: str, /) -> Said:
        began_s = trio.current_time()
        try:
            answer = await send_text(self._provider, self._callee, text, inbox=self._inbox)
        except TooSlow:
            if self._inbox is not None:
                raise
            answer = ""
        return Said(answer, _ms_since(began_s))


class VoiceLine:
    """One call, answered and greeted."""

    def __init__(self, call: PhoneCall, voice: Voice, audio: dict[str, bytes], patience_s: float) -> None:
        self.greeting = ""
        self.call_id = call.call_id
        self._call = call
        self._voice = voice
        self._audio = audio
        self._patience_s = patience_s

    async def hear_greeting(self) -> None:
        self.greeting, _ = await self._hear(self._call.answered_at_s)

    async def say(self, text: str, /) -> Said:
        await self._call.say(self._audio[text])
        answer, ms = await self._hear(self._call.last_said_s)
        return Said(answer, ms)

    async def _hear(self, asked_at_s: float) -> tuple[str, int]:
        starts_s = await self._call.wait_until_heard(within_s=self._patience_s, after_s=asked_at_s)
        audio = await self._call.heard_from(starts_s)
        return await self._voice.recognise(audio, self._call.format), round((starts_s - asked_at_s) * 1000)


@asynccontextmanager
async def open_voice_line(
    phone: Phone, provider: str, callee: Callee, voice: Voice, says: Sequence[str], *, patience_s: float
) -> AsyncIterator[VoiceLine]:
    """A call, as far as its greeting; leaving the block hangs up. Everything that will be said is spoken before the
    agent could be kept waiting for it.

    Raises CallFailed, CallRefused, TooSlow, LineLost, and what the voice raises.
    """
    side = SIDES[provider](callee)
    async with phone.call(side, report_end=True) as call:
        audio = {text: await voice.render(text, call.format) for text in dict.fromkeys(says)}
        line = VoiceLine(call, voice, audio, patience_s)
        await line.hear_greeting()
        yield line


def _ms_since(began_s: float) -> int:
    return round((trio.current_time() - began_s) * 1000)
