"""Twilio's end of a ConversationRelay call: it says what it is sent at a speaker's pace, and tells what it hears."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import trio

from engine.runtime.sockets import Socket
from tests.fakes.stage import Stage


@dataclass(eq=False)
class RelayCaller:
    socket: Socket
    call_id: str
    chars_per_s: float = 15.0
    utterances: list[str] = field(default_factory=lambda: [""])
    """What it was sent to say; the last one goes on until it is ended."""
    digits: list[str] = field(default_factory=list)
    ends: int = 0
    """How often it was told to end the call."""
    gone: trio.Event = field(default_factory=trio.Event)
    _began_s: float = 0.0
    """When it began to say the last of them."""

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(orjson.dumps({"type": kind, **fields}).decode())

    async def start(self, token: str) -> None:
        await self.send(
            "setup", sessionId="VX" + self.call_id[2:], callSid=self.call_id, customParameters={"token": token}
        )

    async def says(self, text: str, *, is_last: bool = True) -> None:
        await self.send("prompt", voicePrompt=text, lang="en-US", last=is_last)

    async def interrupts(self, heard: str, ms: float = 0) -> None:
        await self.send("interrupt", utteranceUntilInterrupt=heard, durationUntilInterruptMs=ms)

    async def played(self, text: str) -> None:
        await self.send("info", name="tokensPlayed", value=text)

    async def press(self, digit: str) -> None:
        await self.send("dtmf", digit=digit)

    @property
    def said(self) -> list[str]:
        """Whole utterances so far."""
        return [text.strip() for text in self.utterances[:-1]]

    def heard_so_far(self) -> str:
        """Of an utterance that is being said; empty if none is."""
        text = (self.utterances[-1] or self.utterances[-2 if len(self.utterances) > 1 else -1]).strip()
        chars = int((trio.current_time() - self._began_s) * self.chars_per_s)
        return text[:chars].rpartition(" ")[0] if chars < len(text) else ""

    async def listen(self) -> None:
        try:
            while True:
                self._take(orjson.loads(await self.socket.receive()))
        except trio.EndOfChannel:
            self.gone.set()

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "text", "token": str(token), "last": bool(is_last)}:
                if not self.utterances[-1]:
                    self._began_s = trio.current_time()
                self.utterances[-1] += token
                if is_last:
                    self.utterances.append("")
            case {"type": "sendDigits", "digits": str(digits)}:
                self.digits.append(digits)
            case {"type": "end", "handoffData": str()}:
                self.ends += 1
            case _:
                raise AssertionError(f"Twilio knows no such message: {message}")


@asynccontextmanager
async def relay_call(on: Stage, call_id: str = "CA" + "7" * 32) -> AsyncIterator[RelayCaller]:
    """An admitted call over a text socket; it hangs up at the end of the block."""
    async with on.socket(is_relay=True) as socket, trio.open_nursery() as nursery:
        caller = RelayCaller(socket, call_id)
        nursery.start_soon(caller.listen)
        await caller.start(await on.token(call_id))
        yield caller
        if not caller.gone.is_set():
            with suppress(trio.BrokenResourceError):
                await socket.aclose()
            await on.supervisor.registry.wait_empty()
        nursery.cancel_scope.cancel()
