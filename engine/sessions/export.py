"""A session as a document: JSON for programs, Markdown for people. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import msgspec

from engine.dialogue.history import Entry
from engine.events import Memory, Role
from engine.observe.masking import mask_number
from engine.storage.record import SessionRecord, Stored

SCHEMA = "offhook/session"
SCHEMA_VERSION = 1
"""Of the JSON document; rises when a field changes its meaning or goes."""

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&])")
_AT_START = re.compile(r"^(\d{0,9})([-+=.)])(?=[\s=+-]|$)")
"""What would begin a list or underline a heading."""
_INVISIBLE = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233, *range(8234, 8239)), " ")
"""Control characters, and those that turn the direction of a text around."""


def session_document(stored: Stored, *, with_number: bool = False) -> dict[str, Any]:
    """All of a session as plain JSON values: its record, what is known besides its messages, and the messages.

    Without ``with_number`` the caller's number is masked: the document is for those who may read histories, not for
    those who look for callers.
    """
    record = stored.record if with_number else _masked(stored.record)
    fields: dict[str, Any] = msgspec.to_builtins(record)
    memory = fields.pop("memory")
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "session": fields,
        "memory": memory,
        "messages": [msgspec.to_builtins(entry) for entry in stored.entries],
        "unreadable": stored.unreadable,
    }


def as_json(stored: Stored, *, with_number: bool = False) -> str:
    return json.dumps(session_document(stored, with_number=with_number), ensure_ascii=False, indent=2) + "\n"


def as_markdown(stored: Stored, *, with_number: bool = False) -> str:
    """A transcript: who said what when, over what, and what became of it. Times in UTC.

    Whatever a caller said is text in it: it makes no heading, link or markup of its own.
    """
    record = stored.record
    lines = [f"# Session {_plain(record.session_id)}", "", *_about(record, with_number=with_number)]
    if stored.unreadable:
        lines.append(f"- Messages that could not be read: {stored.unreadable}")
    lines += _known(record.memory)
    for day, entries in groupby(stored.entries, key=lambda entry: utc(entry.at).split()[0]):
        lines += ["", f"## {day}"]
        for entry in entries:
            lines += ["", *_message(entry)]
    return "\n".join(lines) + "\n"


def utc(at: float) -> str:
    """``2026-11-21 07:30:00``; a time that is none stands as it is."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f} "


def _masked(record: SessionRecord) -> SessionRecord:
    if not record.number:
        return record
    masked = mask_number(record.number)
    return replace(record, key=record.key.replace(record.number, masked), number=masked)


def _about(record: SessionRecord, *, with_number: bool) -> list[str]:
    number = record.number if with_number else mask_number(record.number)
    rows = {
        "Caller": number or "not known",
        "Agent": record.agent,
        "Begun": f"{utc(record.started_at)} UTC",
        "Last message": f"{utc(record.last_at)} UTC",
        "Ended": f"{utc(record.ended_at)} UTC ({record.end_reason})" if record.ended_at is not None else "",
        "Messages in all": str(record.message_count),
        "Branched from": record.parent,
    }
    return [f"- {name}: {_plain(value)}" for name, value in rows.items() if value]


def _known(memory: Memory) -> list[str]:
    rows = [f"- {_plain(name)}: {_plain(value)}" for name, value in memory.entities.items()]
    rows += [f"- {_plain(item.content)} ({item.kind})" for item in memory.items]
    if memory.summary:
        rows = [_plain(memory.summary), "", *rows]
    return ["", "## What is known", "", *rows] if rows else []


def _message(entry: Entry) -> list[str]:
    who = {Role.CALLER: "Caller", Role.AGENT: f"Agent {entry.agent}", Role.SYSTEM: "Note"}[entry.role]
    marks = [str(entry.modality)]
    marks += ["opening"] if entry.is_opening else []
    marks += ["interrupted"] if entry.interrupted else []
    if entry.edited_at is not None:
        marks.append(f"edited {utc(entry.edited_at)}")
    lines = [f"**{utc(entry.at).partition(' ')[2]} {_plain(who)}** ({', '.join(marks)})", ""]
    lines += _quoted(entry.text)
    if entry.original is not None:
        lines += [">", "> Before it was edited:", ">", *(f"> {line}" for line in _quoted(entry.original))]
    return lines


def _quoted(text: str) -> list[str]:
    return [f"> {plain}" for line in text.splitlines() if (plain := _plain(line))] or [">"]


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, in one line."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(text.translate(_INVISIBLE).split()))
    return _AT_START.sub(lambda match: f"{match[1] or ''}\\{match[2]}", escaped)
