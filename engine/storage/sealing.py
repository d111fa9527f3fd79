"""Domain values <-> the rows of a record store: names become fingerprints, bodies are sealed under their place."""

from __future__ import annotations

import hmac

from engine.dialogue.history import Entry, TraceEvent
from engine.ports import AuditRow, MessageRow, SessionRow, TraceRow
from engine.storage.codec import AUDITS, ENTRIES, RECORDS, TRACES, AuditEvent, clean
from engine.storage.keyring import KeyRing, Unreadable
from engine.storage.record import SessionRecord


class Sealing:
    """With one index key. Everything that opens a row raises Unreadable."""

    def __init__(self, keys: KeyRing, index_key: bytes, ttl_s: float) -> None:
        self._keys = keys
        self._index_key = index_key
        self._ttl_s = ttl_s

    # --- names ----------------------------------------------------------------------------------------------

    def key(self, key: str) -> str:
        return self._hashed("key", key)

    def subject(self, number: str) -> str:
        """Empty for no number."""
        return self._hashed("subject", number) if number else ""

    def _hashed(self, what: str, name: str) -> str:
        text = f"{what}:{name}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._index_key, text, "sha256").hex()

    # --- heads ----------------------------------------------------------------------------------------------

    def head(self, record: SessionRecord, version: int) -> SessionRow:
        subject = self.subject(record.number)
        return SessionRow(
            session_id=record.session_id,
            key=self.key(record.key),
            subject=subject,
            version=version,
            started_at=record.started_at,
            last_at=record.last_at,
            expires_at=record.last_at + (record.keep_s or self._ttl_s),
            body=self._keys.seal(RECORDS.encode(record), _head_place(subject, record.session_id)),
        )

    def record(self, row: SessionRow) -> SessionRecord:
        record = RECORDS.decode(self._keys.open(row.body, _head_place(row.subject, row.session_id)))
        if record.session_id != row.session_id:
            raise Unreadable("another session's")
        return record

    def record_under(self, key: str, row: SessionRow) -> SessionRecord:
        """That of a row that was found by this key. A row that was given another one's key does not open."""
        record = self.record(row)
        if record.key != key:
            raise Unreadable("another key's")
        return record

    # --- what belongs to them -------------------------------------------------------------------------------

    def message(self, session_id: str, entry: Entry) -> MessageRow:
        body = self._keys.seal(ENTRIES.encode(entry), _message_place(session_id, entry.entry_id))
        return MessageRow(entry.entry_id, entry.at, body, "" if self._keys.is_encrypting else clean(entry.text))

    def entry(self, session_id: str, row: MessageRow) -> Entry:
        return ENTRIES.decode(self._keys.open(row.body, _message_place(session_id, row.message_id)))

    def trace(self, session_id: str, event: TraceEvent) -> TraceRow:
        return TraceRow(event.at, self._keys.seal(TRACES.encode(event), _trace_place(session_id)))

    def event(self, session_id: str, row: TraceRow) -> TraceEvent:
        return TRACES.decode(self._keys.open(row.body, _trace_place(session_id)))

    def audit(self, event: AuditEvent) -> AuditRow:
        return AuditRow(event.at, self._keys.seal(AUDITS.encode(event), _AUDIT_PLACE))

    def audited(self, row: AuditRow) -> AuditEvent:
        return AUDITS.decode(self._keys.open(row.body, _AUDIT_PLACE))

    def is_current(self, row: SessionRow | MessageRow | TraceRow | AuditRow) -> bool:
        """Its body is under the first key."""
        return self._keys.is_current(row.body)


def quarantine_key(session_id: str) -> str:
    return f"quarantine:{session_id}"


def retired_key(session_id: str) -> str:
    return f"ended:{session_id}"


_AUDIT_PLACE = "audit"


def _head_place(subject: str, session_id: str) -> str:
    return f"head/{subject}/{session_id}"


def _message_place(session_id: str, message_id: str) -> str:
    # The session's id is unique, and its head is tied to the number: no need for the number here.
    return f"message/{session_id}/{message_id}"


def _trace_place(session_id: str) -> str:
    return f"trace/{session_id}"
