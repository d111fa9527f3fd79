"""``offhook trace`` and ``offhook validate``: what happened in a session, and whether the model was shown all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from engine.cli.tools import (
    Config,
    Json,
    Name,
    ShowNumbers,
    Tools,
    Url,
    context_limits,
    counted,
    find_over,
    on_store,
    open_api,
    plain,
    print_json,
)
from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.events import Modality
from engine.observe.logs import configure_logs
from engine.sessions.tracing import Problem, Report, as_dict, as_text, examine
from engine.settings import Settings, load_settings
from engine.storage.record import Scope, SessionRecord, Stored

VIOLATED = 1

Tell = Callable[[Report], int]


def trace(
    session: Name,
    /,
    *,
    config: Config = None,
    url: Url = "",
    json_output: Json = False,
    show_numbers: ShowNumbers = False,
) -> int:
    """See the help in ``engine.cli``."""

    def tell(report: Report) -> int:
        if json_output:
            print_json(as_dict(report), show_numbers=show_numbers)
        else:
            # Masked before it is laid out: a number may stand on two lines then.
            print(
                as_text(report if show_numbers else msgspec.convert(plain(report, show_numbers=False), Report)), end=""
            )
        return 0

    return _examined(session, config, url, tell)


def validate(
    session: Name,
    /,
    *,
    config: Config = None,
    url: Url = "",
    json_output: Json = False,
) -> int:
    """See the help in ``engine.cli``."""

    def tell(report: Report) -> int:
        if json_output:
            problems = [msgspec.to_builtins(problem) for problem in report.problems]
            found = {"session_id": report.session_id, "is_valid": report.is_ok, "turns": report.turns}
            print_json(found | {"problems": problems}, show_numbers=False)
        else:
            _show(report)
        return 0 if report.is_ok else VIOLATED

    return _examined(session, config, url, tell)


def _show(report: Report) -> None:
    for problem in report.problems:
        print(f"{problem.rule:<16} {_place(problem)}{f': {problem.detail}' if problem.detail else ''}")
    asked = len(report.exchanges)
    verdict = "in order" if report.is_ok else f"{len(report.problems)} found wrong"
    if report.is_ok and report.messages and not asked:
        verdict = "so nothing that could be checked (sessions.trace keeps them)"
    counts = f"{counted(report.turns, 'turn')}, {counted(asked, 'request')} to models"
    print(f"session {report.session_id}: {counts}, {verdict}")


def _place(problem: Problem) -> str:
    return f"turn {problem.turn_id}" if problem.turn_id else "the session"


def _examined(session: str, config: Path | None, url: str, tell: Tell) -> int:
    configure_logs(level="error")
    if url:
        return trio.run(_examined_over, url, session, load_settings(config), tell)

    async def examined(tools: Tools) -> int:
        stored = await tools.find(session)
        traces = await tools.vault.traces(stored.record.session_id)
        return tell(examine(stored, traces, context_limits(tools.settings.sessions)))

    return on_store(config, examined)


async def _examined_over(url: str, name: str, settings: Settings, tell: Tell) -> int:
    async with open_api(url) as api:
        session_id = await find_over(api, name, settings.sessions.default_region)
        session = await api.session(session_id) or {}
        traces = _events_of(await api.trace(session_id))
        return tell(examine(_stored_of(session), traces, context_limits(settings.sessions)))


# --- as the HTTP API has it ---------------------------------------------------------------------------------


def _stored_of(session: dict[str, Any]) -> Stored:
    """As far as a report needs it."""
    record = SessionRecord(
        session["session_id"],
        "",
        Scope(session["scope"]),
        session["started_at"],
        session["last_at"],
        session["agent"],
        Modality(session["modality"]),
        message_count=session["message_count"],
    )
    return Stored(record, 1, tuple(map(_entry_of, session["messages"])), session["unreadable"])


def _entry_of(message: dict[str, Any]) -> Entry:
    return msgspec.convert(message | {"entry_id": message["message_id"]}, Entry)


def _events_of(trace: dict[str, Any]) -> list[TraceEvent]:
    """What is not known here, from a newer engine, is left out."""
    known = frozenset(TraceWhat)
    return [
        TraceEvent(item["at"], TraceWhat(item["what"]), item["fields"])
        for item in trace["events"]
        if item["what"] in known
    ]
