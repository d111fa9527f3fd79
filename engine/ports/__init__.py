"""What adapters implement, each port with its guarantees.

For all of them: ``open_*`` gives a context manager; leave its block and the resource closes politely, be cancelled in
it and it closes at once. Foreign exceptions stop at the adapter, which raises those of :mod:`engine.errors`. What
queues returns at once and never waits.
"""

from __future__ import annotations

from engine.ports.agents import Agent, CountingAgent, Mode, Phrases, RealtimeAgent, counts_itself
from engine.ports.control import NO_CONTROL, CallControl
from engine.ports.models import (
    LanguageModel,
    ModelVendor,
    PatientVendor,
    RawModel,
    RealtimeModel,
    RealtimeVendor,
    patience_of,
)
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
from engine.ports.speech import Synthesizer, SynthesizerVendor, Transcriber, TranscriberVendor
from engine.ports.telephony import (
    Ability,
    Answer,
    CallStatus,
    Codec,
    Dial,
    IncomingCall,
    IncomingText,
    Provider,
    ProviderLink,
    Relay,
    TextCodec,
    WebhookKind,
    WebhookRequest,
)
from engine.ports.tools import Acted, Action, CallTools, Tool, ToolRound, ToolScope, ToolSource

__all__ = [
    "NO_CONTROL",
    "Ability",
    "Acted",
    "Action",
    "Agent",
    "Answer",
    "Append",
    "AuditRow",
    "CallControl",
    "CallStatus",
    "CallTools",
    "Codec",
    "Conflict",
    "CountingAgent",
    "Dial",
    "Found",
    "Gone",
    "IncomingCall",
    "IncomingText",
    "LanguageModel",
    "MessageRow",
    "Mode",
    "ModelVendor",
    "Outcome",
    "Owner",
    "PatientVendor",
    "Phrases",
    "Provider",
    "ProviderLink",
    "RawModel",
    "RealtimeAgent",
    "RealtimeModel",
    "RealtimeVendor",
    "RecordStore",
    "Rekey",
    "Relay",
    "Remove",
    "Replace",
    "ResourceKind",
    "SessionRow",
    "Synthesizer",
    "SynthesizerVendor",
    "TextCodec",
    "Tool",
    "ToolRound",
    "ToolScope",
    "ToolSource",
    "TraceRow",
    "Transcriber",
    "TranscriberVendor",
    "WebhookKind",
    "WebhookRequest",
    "Write",
    "Written",
    "counts_itself",
    "patience_of",
]
