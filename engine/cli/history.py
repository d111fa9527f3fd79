"""``offhook history``: what was said, out of the store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from engine.cli.tools import (
    BY,
    Config,
    Json,
    Name,
    ShowNumbers,
    Tools,
    masked,
    on_store,
    plain,
    print_json,
)
from engine.cli.usage import NotThere
from engine.dialogue.history import Entry
from engine.events import Role
from engine.observe.masking import mask_number
from engine.sessions.export import as_json, as_markdown, session_document, utc
from engine.sessions.history import MAX_HITS
from engine.storage.record import Stored

Message = Annotated[str, Parameter(help="The id of a message, as `show` prints it.")]


def show(
    session: Name, /, *, config: Config = None, json_output: Json = False, show_numbers: ShowNumbers = False
) -> int:
    """See the help in ``engine.cli``."""

    async def work(tools: Tools) -> int:
        stored = await tools.find(session)
        if json_output:
            print_json(session_document(stored, with_number=show_numbers), show_numbers=show_numbers)
        else:
            print(masked("\n".join(_lines_of(stored, with_number=show_numbers)), show_numbers=show_numbers))
        return 0

    return on_store(config, work)


def search(
    words: Annotated[str, Parameter(help="All of these words.")],
    /,
    *,
    session: Annotated[str, Parameter(help="Only in this session.")] = "",
    limit: Annotated[int, Parameter(help="How many at most.")] = 20,
    config: Config = None,
    json_output: Json = False,
    show_numbers: ShowNumbers = False,
) -> int:
    """See the help in ``engine.cli``."""
    if not words.strip():
        raise NotThere("expected words to look for")
    if not 1 <= limit <= MAX_HITS:
        raise NotThere(f"--limit: expected 1 to {MAX_HITS}, got {limit}")

    async def work(tools: Tools) -> int:
        within = (await tools.find(session)).record.session_id if session else ""
        found = await tools.history.search(words, session_id=within, limit=limit)
        if json_output:
            hits = [{"session_id": hit.session_id, "message": hit.entry} for hit in found.hits]
            print_json({"hits": hits, "is_complete": found.is_complete}, show_numbers=show_numbers)
            return 0 if hits else 1
        for hit in found.hits:
            print(masked(f"{hit.session_id}  {_line_of(hit.entry)}", show_numbers=show_numbers))
        if not found.hits:
            print("nothing was found", file=sys.stderr)
        if not found.is_complete:
            print("not everything could be looked through; name a session with --session")
        return 0 if found.hits else 1

    return on_store(config, work)


def export(
    session: Name,
    /,
    *,
    format: Annotated[Literal["json", "markdown"], Parameter(help="What it is written as.")] = "markdown",  # noqa: A002 - the option's word
    out: Annotated[Path | None, Parameter(help="Write it to this file and not to the terminal.")] = None,
    config: Config = None,
    show_numbers: ShowNumbers = False,
) -> int:
    """See the help in ``engine.cli``."""

    async def work(tools: Tools) -> int:
        text = _document(await tools.find(session), format, show_numbers=show_numbers)
        if out is None:
            print(text, end="")
            return 0
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise NotThere(f"--out: {out} cannot be written ({exc.strerror})") from None
        return 0

    return on_store(config, work)


def edit(
    session: Name,
    message: Message,
    text: Annotated[str, Parameter(help="What it is to say.")],
    /,
    *,
    config: Config = None,
    json_output: Json = False,
) -> int:
    """See the help in ``engine.cli``."""

    async def work(tools: Tools) -> int:
        session_id = (await tools.find(session)).record.session_id
        try:
            entry = await tools.history.edit(session_id, message, text, BY)
        except ValueError as exc:
            raise NotThere(str(exc)) from None
        if entry is None:
            raise _no_message(session_id, message)
        if json_output:
            print_json({"session_id": session_id, "message": entry}, show_numbers=True)
        else:
            print(f"edited {message} of {session_id}; the original is kept beside it")
        return 0

    return on_store(config, work)


def branch(session: Name, message: Message, /, *, config: Config = None, json_output: Json = False) -> int:
    """See the help in ``engine.cli``."""

    async def work(tools: Tools) -> int:
        session_id = (await tools.find(session)).record.session_id
        record = await tools.history.branch(session_id, message, BY)
        if record is None:
            raise _no_message(session_id, message)
        if json_output:
            print_json({"session_id": record.session_id, "parent": record.parent}, show_numbers=True)
        else:
            print(f"{record.session_id} goes on after {record.parent}")
        return 0

    return on_store(config, work)


def _no_message(session_id: str, message: str) -> NotThere:
    return NotThere(f"there is no message {message!r} in {session_id}; `offhook history show` prints their ids")


def _document(stored: Stored, form: str, *, show_numbers: bool) -> str:
    """Numbers that were said are masked in it, too."""
    if form == "markdown":
        return masked(as_markdown(stored, with_number=show_numbers), show_numbers=show_numbers)
    if show_numbers:
        return as_json(stored, with_number=True)
    document = plain(session_document(stored), show_numbers=False)
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def _lines_of(stored: Stored, *, with_number: bool) -> list[str]:
    record, memory = stored.record, stored.record.memory
    number = record.number if with_number else mask_number(record.number)
    head = f"session {record.session_id}  scope {record.scope}  agent {record.agent}  caller {number or 'not known'}"
    counts = f"{record.message_count} messages, {record.calls} calls, {record.texts} texts"
    lines = [head, f"from {utc(record.started_at)} to {utc(record.last_at)}: {counts}"]
    lines += [f"ended {utc(record.ended_at)}: {record.end_reason}"] if record.ended_at is not None else []
    lines += [f"branched from {record.parent}"] if record.parent else []
    lines += [f"{stored.unreadable} messages cannot be read"] if stored.unreadable else []
    lines += [f"summary: {memory.summary}"] if memory.summary else []
    lines += [f"known: {name}: {value}" for name, value in memory.entities.items()]
    lines += [f"known: {item.content} ({item.kind}, {item.confidence:.0%})" for item in memory.items]
    return [*lines, *map(_line_of, stored.entries)]


def _line_of(entry: Entry) -> str:
    who = "caller" if entry.role is Role.CALLER else f"{entry.agent or 'agent'}"
    marks = [str(entry.modality)]
    marks += ["interrupted"] if entry.interrupted else []
    marks += [f"edited {utc(entry.edited_at)}"] if entry.edited_at is not None else []
    return f"{utc(entry.at)}  {entry.entry_id}  {who} ({', '.join(marks)}): {entry.text}"
