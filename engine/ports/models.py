"""The mind of one call: a language model, or a speech-to-speech model that hears and speaks as well."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import trio

from engine.events import (
    CallInfo,
    Context,
    ModelPart,
    RealtimeEvent,
    ReplyPart,
    SessionInfo,
    ToolResult,
)
from engine.ports.ownership import Owner


class LanguageModel(Protocol):
    """The mind of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ReplyPart]]:
        """The answer to the last message of the context. The channel raises ModelFailed."""
        ...


class RawModel(Protocol):
    """A vendor's language model, before tools and second tries: one request for each reply."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ModelPart]]:
        """The answer to the last message of the context, or to the results of its ``exchanges``; where ``said`` is not
        empty, the rest of it. Text comes piece by piece as the vendor streams it, ``ToolCall`` whole, ``Usage`` last.

        Asked once; the channel raises ModelFailed, whose ``why`` tells whether asking again is of use. Leaving the
        block closes the request at once."""
        ...


class ModelVendor(Protocol):
    """A language model of the settings. Shared by all calls; keeps nothing of any."""

    name: str
    """Metric label, and the vendor in the ledger."""

    def open(self, session: SessionInfo, owner: Owner) -> AbstractAsyncContextManager[RawModel]:
        """For one call, or for one written turn. Asks nothing of the vendor yet. ``owner`` is for what lies beneath it.
        Every request logs ``session.session_id``."""
        ...


@runtime_checkable
class PatientVendor(ModelVendor, Protocol):
    """A language model that takes longer than most: a program, a model on a machine of one's own."""

    patience_s: float
    """How long it is waited for, before its answer begins and between two pieces of it, in the place of
    ``limits.first_token_s``, ``token_gap_s`` and ``vendor_answer_s``. Once that is over it is not asked again."""


def patience_of(vendors: Sequence[ModelVendor], usual_s: float) -> float:
    """Seconds in which these, each after the one before, are to bring something of an answer. ``usual_s``: for those
    that have no patience of their own, all together."""
    patient_s = [vendor.patience_s for vendor in vendors if isinstance(vendor, PatientVendor)]
    return sum(patient_s) + (usual_s if len(patient_s) < len(vendors) else 0.0)


class RealtimeModel(Protocol):
    """A speech-to-speech model in one call: ear, mind and voice over one connection. One task receives."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def send(self, audio: bytes) -> None:
        """Caller audio in the line's format, as it came (20 ms). Queues at most 2 s, then drops the oldest."""
        ...

    async def receive(self) -> RealtimeEvent:
        """Raises ModelFailed when nothing more can come."""
        ...

    def say(self, text: str) -> None:
        """Have it say these words next, in its own voice: an opening, a prompt, a goodbye."""
        ...

    def told(self, text: str) -> None:
        """Something that the caller typed: keys pressed, a text. It answers that."""
        ...

    def interrupt(self, heard_s: float) -> None:
        """The caller cut in, having heard so many seconds of the current reply: it is cancelled, and the model
        remembers no more of it than that. Harmless when nothing is being said."""
        ...

    def heard_on(self, text: str) -> None:
        """After ``interrupt``: what cut in was no words, and these words of what was cancelled have been heard since.
        It says nothing to that."""
        ...

    def tool_results(self, results: Sequence[ToolResult]) -> None:
        """Answers to tool calls, each once; it goes on speaking when it has all that it asked for."""
        ...


class RealtimeVendor(Protocol):
    """A speech-to-speech model of the settings. Shared by all calls; keeps nothing of any."""

    name: str
    renew_after_s: float
    """The vendor ends a connection at some age; before this one it is to be renewed. Infinite: never."""

    def open(
        self, call: CallInfo, session: SessionInfo, context: Context, owner: Owner
    ) -> AbstractAsyncContextManager[RealtimeModel]:
        """One connection, tried once, ready to hear when the block begins. ``context``: instructions, tools, and what
        was said before, for a session that goes on. It says nothing until it is told to. Raises ModelFailed. The
        caller sets the deadline."""
        ...
