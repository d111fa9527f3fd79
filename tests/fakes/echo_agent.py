"""An agent that echoes what it was shown, at once and without sockets: by its canary words a conversation is known.

``make_agent`` is for ``factory = "tests.fakes.echo_agent:make_agent"`` in the settings.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import trio

from engine.events import Context, MemoryItem, MemoryKind, Noted, ReplyPart, SessionInfo
from engine.ports import CallControl, LanguageModel, Owner, Phrases
from tests.fakes.agents import MemoryAgent, MemoryModel
from tests.fakes.vendors import Behaviour, answer_to

CHARS_PER_S = 1000.0
"""A sentence takes a few frames."""
FAST = Behaviour(onset_s=0.06, endpoint_s=0.06, final_s=0.0, first_token_s=0, first_audio_s=0, chars_per_s=CHARS_PER_S)
OVER = "Over."
"""Ends everything that the agent says, so that a listener knows when to speak, however slow the machine is."""
GREETING = f"Hello, this is the echo desk. {OVER}"
RETURNING = f"Welcome back to the echo desk. {OVER}"
CANARY = re.compile(r"\w*canary\w+")


def make_agent(name: str, options: Mapping[str, object]) -> EchoAgent:
    """``options``: ``pause_s``, before each answer."""
    return EchoAgent(name, pause_s=float(str(options.get("pause_s", 0))))


def canaries(text: str) -> set[str]:
    """The canary words in it."""
    return set(CANARY.findall(text))


class EchoAgent(MemoryAgent):
    def __init__(self, name: str = "desk", *, pause_s: float = 0.0) -> None:
        super().__init__(name, behaviour=replace(FAST, first_token_s=pause_s))
        self.phrases = Phrases(GREETING, RETURNING)

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        return self._part(EchoModel(self._behaviour))


class EchoModel(MemoryModel):
    """Says which turn this is, what was said, and every canary word in anything it was shown; and has the words of this
    turn remembered, in every way that there is."""

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        if self._behaviour.first_token_s:
            await trio.sleep(self._behaviour.first_token_s)
        shown = [(str(message.role), message.text) for message in context]
        parts: list[ReplyPart] = [*_noted(shown), *answer_to([("system", repr(context.memory)), *shown]), OVER]
        send, receive = trio.open_memory_channel[ReplyPart](len(parts))
        for part in parts:
            send.send_nowait(part)
        send.close()
        async with receive:
            yield receive


def _noted(shown: Sequence[tuple[str, str]]) -> list[Noted]:
    said = canaries(shown[-1][1])
    if not said:
        return []
    text = " ".join(sorted(said))
    return [Noted({"word": text}, (MemoryItem(MemoryKind.PREFERENCE, f"likes {text}"),), f"has heard {text}")]
