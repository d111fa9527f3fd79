"""What adapters implement, each port with its guarantees.

For all of them: ``open_*`` gives a context manager; leave its block and the resource closes politely, be cancelled in
it and it closes at once. Foreign exceptions stop at the adapter, which raises those of :mod:`engine.errors`. What
queues returns at once and never waits.
"""

from __future__ import annotations

from engine.ports.agents import Agent, Phrases
from engine.ports.models import LanguageModel
from engine.ports.ownership import Owner, ResourceKind
from engine.ports.records import (
    Append,
    AuditRow,
    Conflict,
    Found,
    Gone,
    MessageRow,
    Outcome,
    RecordStore,
    Rekey,
    Remove,
    Replace,
    SessionRow,
    TraceRow,
    Write,
    Written,
)
from engine.ports.speech import Synthesizer, Transcriber
from engine.ports.telephony import (
    Answer,
    CallStatus,
    Codec,
    IncomingCall,
    IncomingText,
    Provider,
    ProviderLink,
    WebhookKind,
    WebhookRequest,
)

__all__ = [
    "Agent",
    "Answer",
    "Append",
    "AuditRow",
    "CallStatus",
    "Codec",
    "Conflict",
    "Found",
    "Gone",
    "IncomingCall",
    "IncomingText",
    "LanguageModel",
    "MessageRow",
    "Outcome",
    "Owner",
    "Phrases",
    "Provider",
    "ProviderLink",
    "RecordStore",
    "Rekey",
    "Remove",
    "Replace",
    "ResourceKind",
    "SessionRow",
    "Synthesizer",
    "TraceRow",
    "Transcriber",
    "WebhookKind",
    "WebhookRequest",
    "Write",
    "Written",
]
