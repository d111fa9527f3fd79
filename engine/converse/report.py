"""What came of a test conversation, to read and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.events import Memory, Modality


@dataclass(slots=True)
class Exchange:
    """One turn as it went, and what the engine knew in it."""

    number: int
    """From 1."""
    over: Modality
    said: str
    answer: str = ""
    """By the engine's own account where it gives one; else as ``heard``."""
    heard: str = ""
    """Over voice: the answer as it was recognised at the caller's ear."""
    greeting: str = ""
    """What the agent said first, when a call began with this turn."""
    ms: int | None = None
    """To the whole answer; over voice from the caller's last sound to the first of the answer."""
    agent: str = ""
    session_id: str = ""
    shown: Sequence[tuple[str, str]] = ()
    """Role and text of what the model was shown, if that was of interest."""
    memory: Memory = field(default_factory=Memory)
    restarted: bool = False
    new_call: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class Report:
    """One conversation."""

    name: str
    description: str = ""
    turns: int = 0
    """That the script has."""
    exchanges: list[Exchange] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Of the conversation as a whole."""
    seconds: float = 0.0
    kept: str = ""
    """Where what was said is kept, if it is."""

    @property
    def ok(self) -> bool:
        return not self.problems and len(self.exchanges) == self.turns and all(item.ok for item in self.exchanges)

    @property
    def session_ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item.session_id for item in self.exchanges if item.session_id))

    def all_problems(self) -> Iterator[str]:
        for item in self.exchanges:
            yield from (f"turn {item.number}: {problem}" for problem in item.problems)
        yield from self.problems

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "session_ids": list(self.session_ids),
            "turns": [_as_json(item) for item in self.exchanges],
            "problems": self.problems,
            "kept": self.kept,
        }

    def summary(self) -> str:
        """A line."""
        ids = self.session_ids
        sessions = f"session {ids[0]}" if len(ids) == 1 else f"{len(ids)} sessions"
        count = len(list(self.all_problems()))
        verdict = "ok" if self.ok else f"failed: {count} problem{'s' if count != 1 else ''}"
        return f"{self.name}: {len(self.exchanges)} of {self.turns} turns, {sessions}, {self.seconds:.1f} s, {verdict}"


def _as_json(item: Exchange) -> dict[str, Any]:
    return {
        "number": item.number,
        "over": str(item.over),
        "said": item.said,
        "answer": item.answer,
        "heard": item.heard,
        "greeting": item.greeting,
        "ms": item.ms,
        "agent": item.agent,
        "session_id": item.session_id,
        "shown": len(item.shown),
        "entities": dict(item.memory.entities),
        "new_call": item.new_call,
        "restarted": item.restarted,
        "ok": item.ok,
        "problems": item.problems,
    }


def show(report: Report, console: Console) -> None:
    """The table, turn by turn, and the summary line."""
    console.print(f"[bold]{escape(report.name)}[/]  {escape(report.description)}")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("", "over", "said", "answered", "ms", ""):
        table.add_column(column, justify="right" if column == "ms" else "left", overflow="fold")
    for item in report.exchanges:
        if item.restarted:
            table.add_row("", "", "[dim]the engine was stopped and started again[/]", "", "", "")
        if item.greeting:
            table.add_row("", str(item.over), "[dim](calls)[/]", escape(item.greeting), "", "")
        verdict = "[green]ok[/]" if item.ok else "\n".join(f"[bold red]{escape(text)}[/]" for text in item.problems)
        ms = "" if item.ms is None else str(item.ms)
        table.add_row(str(item.number), str(item.over), escape(item.said), escape(item.answer), ms, verdict)
    console.print(table)
    for problem in report.problems:
        console.print(f"[bold red]{escape(problem)}[/]", soft_wrap=True)
    console.print(f"[{'green' if report.ok else 'bold red'}]{escape(report.summary())}[/]", soft_wrap=True)
    if report.kept:
        console.print(f"kept: {escape(report.kept)}", soft_wrap=True)
