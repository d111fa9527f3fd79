"""What the HTTP API takes and gives, as types: they check what comes in and are the schemas of the document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.dialogue.history import Entry
from engine.events import MemoryItem
from engine.observe.masking import mask_number
from engine.storage.identity import MAX_CHARS
from engine.storage.record import Stored
from engine.web.desk import AuditEvent

_BLANKS = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
"""Written out, because readers of the document do not all mean the same by a blank."""
WORDS = rf"^[{_BLANKS}]*[^{_BLANKS}\x00][^\x00]*$"
ID = r"^[A-Za-z0-9_.:-]{1,128}$"
CALL_ID = r"^[A-Za-z0-9_:-]{1,128}$"
E164 = r"^\+[1-9][0-9]{6,14}$"
NAME = r"^[A-Za-z0-9_.-]+$"
NO_NUL = r"^[^\x00]*$"
EXPECTED = {
    CALL_ID: "expected 1 to 128 letters, digits and _ : -",
    E164: "expected a number in E.164, such as +15550100000",
    NAME: "expected names of letters, digits and _ . -",
    NO_NUL: "expected a text without NUL",
    WORDS: "expected something besides blanks, without NUL",
    ID: "expected 1 to 128 letters, digits and _ . : -",
}
"""What a pattern means, for people."""

_EXACT_ID = re.compile(ID.removesuffix("$"))
_EXACT_CALL_ID = re.compile(CALL_ID.removesuffix("$"))
_EXACT_E164 = re.compile(E164.removesuffix("$"))

Id = Annotated[str, Meta(pattern=ID)]
Number = Annotated[str, Meta(pattern=E164)]
LastWords = Annotated[str, Meta(max_length=2000, pattern=NO_NUL)]
Said = Annotated[str, Meta(min_length=1, max_length=4000, pattern=WORDS, examples=["What are your opening hours?"])]
Query = Annotated[str, Meta(min_length=1, max_length=200, pattern=WORDS, description="All of these words.")]
Limit = Annotated[int, Meta(ge=1, le=100, description="How many at most.")]


class Input(Struct, forbid_unknown_fields=True):
    """What somebody sends. A field that is not known is refused: a misspelt one would be silently without effect."""


class Nothing(Input):
    """No parameters."""


class PhonePath(Input):
    phone: Annotated[
        str,
        Meta(
            max_length=MAX_CHARS,
            description="A phone number in any spelling; without a country code it is one of the default region.",
            examples=["+15550100000"],
            extra_json_schema={"format": "phone"},
        ),
    ]


class SessionPath(Input):
    session_id: Id

    def __post_init__(self) -> None:
        _check_id("session_id", self.session_id)


class MessagePath(SessionPath):
    message_id: Id

    def __post_init__(self) -> None:
        _check_id("session_id", self.session_id)
        _check_id("message_id", self.message_id)


class SearchQuery(Input):
    q: Query
    session_id: Annotated[Id | UnsetType, Meta(description="Only in this session.")] = UNSET
    limit: Limit = 20

    def __post_init__(self) -> None:
        _check_id("session_id", self.session_id)


class MessagesQuery(Input):
    q: Query | UnsetType = UNSET


class LimitQuery(Input):
    limit: Limit = 100


class ExportQuery(Input):
    format: Literal["json", "markdown"] = "json"


class TurnBody(Input):
    text: Said
    stream_sid: Annotated[Id, Meta(description="Whose conversation this is.")] = "default"
    agent: Annotated[Id | UnsetType, Meta(description="Who is to answer; else whoever did last.")] = UNSET

    def __post_init__(self) -> None:
        _check_id("stream_sid", self.stream_sid)


class ResetBody(Input):
    stream_sid: Annotated[Id, Meta(description="Whose conversation ends.")] = "default"

    def __post_init__(self) -> None:
        _check_id("stream_sid", self.stream_sid)


class EditBody(Input):
    text: Said


class BranchBody(Input):
    message_id: Annotated[Id, Meta(description="The last message that the new session begins with.")]

    def __post_init__(self) -> None:
        _check_id("message_id", self.message_id)


class HandoverBody(Input):
    agent: Annotated[Id, Meta(description="Who answers from the next turn on.")]


class CallPath(Input):
    call_id: Annotated[str, Meta(pattern=CALL_ID, description="A call's id, or that of a call we were asked to make.")]

    def __post_init__(self) -> None:
        if not _EXACT_CALL_ID.fullmatch(self.call_id):
            raise ValueError(f"call_id: {EXPECTED[CALL_ID]}")


class OnceHeaders(Struct, rename={"key": "Idempotency-Key"}):
    key: Annotated[
        Id | UnsetType,
        Meta(
            description="The same key gives the same answer for a day, and no second call: on the engine that was "
            "asked, until it is started again."
        ),
    ] = UNSET

    def __post_init__(self) -> None:
        _check_id("Idempotency-Key", self.key)


Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=NAME)]
Value = Annotated[str, Meta(max_length=512, pattern=NO_NUL)]


class DialBody(Input, rename={"sender": "from"}):
    to: Annotated[str, Meta(pattern=E164, description="Who is called, in E.164.", examples=["+12025550143"])]
    sender: Annotated[
        Number | UnsetType, Meta(description="One of our numbers; else the first one, or the provider's first.")
    ] = UNSET
    agent: Annotated[Id | UnsetType, Meta(description="Who talks; else whoever answers our number.")] = UNSET
    provider: Annotated[Id | UnsetType, Meta(description="Over whom; else whoever our number is of.")] = UNSET
    detect_machine: Annotated[bool | UnsetType, Meta(description="Tell answering machines from people.")] = UNSET
    voicemail: Annotated[
        LastWords | UnsetType, Meta(description="Left on a machine after its beep; empty: it is hung up on.")
    ] = UNSET
    parameters: Annotated[dict[Word, Value], Meta(max_length=32, description="For the agent.")] = {}

    def __post_init__(self) -> None:
        for name, value in (("to", self.to), ("from", self.sender)):
            if value is not UNSET and not _EXACT_E164.fullmatch(value):
                raise ValueError(f"{name}: {EXPECTED[E164]}")
        _check_id("agent", self.agent)
        _check_id("provider", self.provider)


class HangUpBody(Input):
    say: Annotated[Said | UnsetType, Meta(description="Last words; without them the call ends at once.")] = UNSET


class SayBody(Input):
    text: Said


class TransferBody(Input):
    to: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=128,
            pattern=WORDS,
            description="One of the transfers of the call's agent, or a number that outbound.allow allows.",
            examples=["reception"],
        ),
    ]


def _check_id(name: str, value: str | UnsetType) -> None:
    """In Python a ``$`` lets a line break pass, in the document it does not."""
    if value is not UNSET and not _EXACT_ID.fullmatch(value):
        raise ValueError(f"{name}: {EXPECTED[ID]}")


# --- answers ------------------------------------------------------------------------------------------------


class ErrorAbout(Struct, frozen=True, omit_defaults=True):
    code: str
    message: str
    field: Annotated[str, Meta(description="What is at fault, if one field is.")] = ""


class Error(Struct, frozen=True):
    error: ErrorAbout


class TurnReply(Struct, frozen=True):
    session_id: str
    turn_id: str
    text: str
    agent: Annotated[str, Meta(description="Who answered.")]
    is_over: Annotated[bool, Meta(description="The agent has said goodbye.")]


class ResetReply(Struct, frozen=True):
    stream_sid: str
    was_there: Annotated[bool, Meta(description="There was a conversation to end.")]


class MessageView(Struct, frozen=True):
    message_id: str
    turn_id: str
    at: Annotated[float, Meta(description="Unix seconds.")]
    role: str
    text: str
    agent: str
    modality: str
    call_id: str
    interrupted: bool
    is_opening: bool
    response_ms: int | None
    original: Annotated[str | None, Meta(description="What it was before it was edited first.")]
    edited_at: float | None

    @classmethod
    def of(cls, entry: Entry) -> MessageView:
        return cls(
            message_id=entry.entry_id,
            turn_id=entry.turn_id,
            at=entry.at,
            role=entry.role,
            text=entry.text,
            agent=entry.agent,
            modality=entry.modality,
            call_id=entry.call_id,
            interrupted=entry.interrupted,
            is_opening=entry.is_opening,
            response_ms=entry.response_ms,
            original=entry.original,
            edited_at=entry.edited_at,
        )


class SessionView(Struct, frozen=True):
    """A session; times in Unix seconds."""

    session_id: str
    user: Annotated[str, Meta(description="The caller's number, or the end of it; empty if it is not known.")]
    scope: str
    started_at: float
    last_at: float
    ended_at: float | None
    end_reason: str
    agent: Annotated[str, Meta(description="Who handled the last turn.")]
    modality: Annotated[str, Meta(description="Of the last turn.")]
    message_count: Annotated[int, Meta(description="All there ever were.")]
    turns: int
    calls: int
    texts: int
    switches: Annotated[int, Meta(description="How often the modality changed.")]
    bridges: int
    handovers: int
    parent: Annotated[str, Meta(description="The session and message that it branched from.")]
    summary: str
    entities: dict[str, str]
    memory: list[MemoryItem]
    topics: dict[str, int]
    unreadable: Annotated[int, Meta(description="Messages that could not be decrypted.")]
    messages: Annotated[list[MessageView], Meta(description="The last ones, oldest first.")]

    @classmethod
    def of(cls, stored: Stored, *, with_number: bool = False) -> SessionView:
        """``with_number``: for whoever asked by the number; others see the end of it."""
        record = stored.record
        return cls(
            session_id=record.session_id,
            user=record.number if with_number else mask_number(record.number),
            scope=record.scope,
            started_at=record.started_at,
            last_at=record.last_at,
            ended_at=record.ended_at,
            end_reason=record.end_reason,
            agent=record.agent,
            modality=record.modality,
            message_count=record.message_count,
            turns=record.turns,
            calls=record.calls,
            texts=record.texts,
            switches=record.switches,
            bridges=record.bridges,
            handovers=record.handovers,
            parent=record.parent,
            summary=record.memory.summary,
            entities=dict(record.memory.entities),
            memory=list(record.memory.items),
            topics=dict(record.topics),
            unreadable=stored.unreadable,
            messages=[MessageView.of(entry) for entry in stored.entries],
        )


class CallerReply(Struct, frozen=True):
    number: str
    sessions: Annotated[list[SessionView], Meta(description="The latest first.")]


class MessagesReply(Struct, frozen=True):
    session_id: str
    messages: list[MessageView]


class Hit(Struct, frozen=True):
    session_id: str
    message: MessageView


class SearchReply(Struct, frozen=True):
    hits: Annotated[list[Hit], Meta(description="Newest first.")]
    is_complete: Annotated[bool, Meta(description="Everything was looked through.")]


class BranchReply(Struct, frozen=True):
    session_id: str
    parent: str


class HandoverReply(Struct, frozen=True):
    session_id: str
    agent: str


class TraceMoment(Struct, frozen=True):
    at: float
    what: str
    fields: Mapping[str, Any]


class TraceReply(Struct, frozen=True):
    session_id: str
    events: Annotated[list[TraceMoment], Meta(description="Oldest first.")]


class ProblemView(Struct, frozen=True):
    turn_id: str
    rule: Annotated[str, Meta(description="What the context broke.")]
    detail: str


class ValidationReply(Struct, frozen=True):
    session_id: str
    is_valid: bool
    turns: Annotated[int, Meta(description="How many were looked at.")]
    problems: list[ProblemView]


class AuditView(Struct, frozen=True):
    at: float
    by: str
    what: str
    subject: Annotated[str, Meta(description="A fingerprint of the number; the number is not kept.")]
    outcome: str
    detail: str

    @classmethod
    def of(cls, event: AuditEvent) -> AuditView:
        return cls(event.at, event.by, event.what, event.subject, event.outcome, event.detail)


class AuditReply(Struct, frozen=True):
    events: Annotated[list[AuditView], Meta(description="Newest first.")]


class DeleteReply(Struct, frozen=True):
    sessions: Annotated[int, Meta(description="How many were erased.")]


class CallView(Struct, frozen=True):
    id: Annotated[str, Meta(description="Of a call that we make, its own from the start; else the provider's.")]
    call_id: Annotated[str, Meta(description="The provider's id; empty until it is known.")]
    provider: str
    agent: str
    caller: Annotated[str, Meta(description="The end of the number at the other side.")]
    direction: Literal["inbound", "outbound"]
    state: Literal["queued", "ringing", "answered", "machine", "completed", "busy", "no_answer", "failed"]
    is_live: Annotated[bool, Meta(description="Its media is connected: it can be spoken to and transferred.")]
    answered_by: Annotated[str, Meta(description="human or machine, once that is known of a call we make.")]
    seconds: Annotated[float, Meta(description="Since it was connected; of one that is not, since it was made.")]


class CallsReply(Struct, frozen=True):
    calls: Annotated[list[CallView], Meta(description="Those that live now, the oldest first; then those that ring.")]


class DoneReply(Struct, frozen=True):
    id: str
    done: Annotated[Literal["ending", "said", "transferred"], Meta(description="What has been done, or begun.")]


class AboutReply(Struct, frozen=True):
    name: str
    version: str
    see: list[str]


class LiveCalls(Struct, frozen=True):
    active_count: int
    uuids: list[str]


class HealthReply(Struct, frozen=True):
    """``status``: ``ok``; ``degraded`` while calls go on without what ``lacks`` names (``store_down``, ``stt:deepgram``
    for a vendor in its role); else why no calls are taken."""

    status: str
    lacks: list[str]
    sessions: LiveCalls
    capacity: int
    draining: bool
    version: str
    uptime_s: float
