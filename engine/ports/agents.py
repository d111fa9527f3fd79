"""What an agent of the settings brings to its calls and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from engine.events import (
    AudioFormat,
    CallInfo,
    Context,
    Message,
    Recollection,
    SessionInfo,
)
from engine.ports.control import CallControl
from engine.ports.models import LanguageModel, RealtimeModel
from engine.ports.ownership import Owner
from engine.ports.speech import Synthesizer, Transcriber
from engine.ports.tools import CallTools


@dataclass(frozen=True, slots=True)
class Phrases:
    """What an agent says of its own accord, besides what its model answers."""

    greeting: str
    returning: str = "Welcome back. How can I help you?"
    """The greeting of a caller whose session has heard the opening, or anything else, before (C4)."""
    still_there: str = "Are you still there?"
    filler: str = "One moment, please."
    apology: str = "I am sorry, something went wrong on our side. Please call again later."
    goodbye: str = "Thank you for calling. Goodbye."
    drain: str = "I am sorry, we have to end this call now. Please call again. Goodbye."
    last_minute: str = "We have one minute left."
    sorry: str = "I am sorry, I could not think of an answer. Could you say that again?"
    """The model failed, and may not fail again."""
    say_again: str = "I am sorry, I did not hear you. Could you say that again?"
    """The caller's words were lost on the way."""
    not_connected: str = "I am sorry, I could not connect you."
    """A transfer failed, and the call goes on."""

    def all(self) -> tuple[str, ...]:
        return (
            self.greeting,
            self.returning,
            self.still_there,
            self.filler,
            self.apology,
            self.goodbye,
            self.drain,
            self.last_minute,
            self.sorry,
            self.say_again,
            self.not_connected,
        )


class Mode(StrEnum):
    """Who hears, thinks and speaks for an agent."""

    PIPELINE = "pipeline"
    """A transcriber, a language model and a synthesizer."""
    REALTIME = "realtime"
    """One speech-to-speech model."""
    RELAY = "relay"
    """A language model; the provider hears and speaks (``Provider.relay``)."""


class Agent(Protocol):
    """What one agent of the settings listens, thinks and speaks with. Shared by its calls; keeps nothing of any.

    The engine enters what ``open_*`` opens into the call's ledger. The ``owner`` handed over is for what lies beneath:
    an HTTP client, a socket.
    """

    name: str
    pipeline: str
    """Metric label: ``embedded`` or the vendors' combination from a closed set."""
    mode: Mode
    phrases: Phrases
    transcriber_vendor: str
    synthesizer_vendor: str
    model_vendor: str

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]: ...

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]: ...

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        """For a call, or for one written turn. ``control`` is for the agent's tools."""
        ...

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        """What is to be known of a conversation once these messages are out of sight: ``before`` is what was known
        without them. Made in the background. Raises VendorError. The caller sets the deadline."""
        ...

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the field's word
        """A fixed phrase as ready audio, if it was made beforehand: for when the vendor cannot speak."""
        ...


@runtime_checkable
class CountingAgent(Agent, Protocol):
    """An agent whose vendors' parts count and own themselves, each try by each vendor (``engine.vendors``). Where
    ``counts_vendors`` is true, a call enters none of them into its ledger and its figures again."""

    counts_vendors: bool


def counts_itself(agent: Agent) -> bool:
    # Not by isinstance: with a protocol that costs each written turn 0.2 ms on Python 3.11.
    return bool(getattr(agent, "counts_vendors", False))


@runtime_checkable
class PatientAgent(Agent, Protocol):
    """An agent whose models may take longer than most (``PatientVendor``)."""

    patience_s: float
    """So much longer than ``limits.reply_s`` a caller may have to wait for an answer, or for more of it."""


def patience_with(agent: Agent) -> float:
    """Seconds over ``limits.reply_s``."""
    return agent.patience_s if isinstance(agent, PatientAgent) else 0.0


@runtime_checkable
class RealtimeAgent(Agent, Protocol):
    """An agent of the mode REALTIME: what it would transcribe and synthesise with is not asked for in its calls. Its
    language model answers written turns."""

    def open_realtime(
        self,
        call: CallInfo,
        session: SessionInfo,
        context: Callable[[], Context],
        owner: Owner,
        control: CallControl,
    ) -> AbstractAsyncContextManager[RealtimeModel]:
        """For a call. ``context`` gives what was said up to the moment at which it is asked. Raises ModelFailed."""
        ...

    def use_tools(self, session: SessionInfo, control: CallControl) -> CallTools:
        """Its tools, for one call: what its speech-to-speech model calls comes to the call."""
        ...
