"""What the tests prove of each adapter, as tables in the README.

``python -m tests.contract.matrix`` runs every test that is marked with ``proves`` and writes the tables; it fails if a
test fails. ``--check`` runs none, and fails if a cell is proven by no test or the README says something else.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.catalog import KINDS, Role
from engine.phone.phone import SIDES
from tests.contract.proof import CALLS, CELLS, MARK, Column, Proof, proofs_of

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- matrix -->", "<!-- /matrix -->"
RELAY = "conversation-relay"
DASH = "\N{EN DASH}"
PROVIDERS = (*SIDES, RELAY)
WIRES: Mapping[tuple[Role, str], Sequence[str]] = {
    (Role.SYNTHESIZER, "elevenlabs"): ("elevenlabs", "elevenlabs stream-input", "elevenlabs HTTP"),
    (Role.MODEL, "elevenlabs_agents"): ("elevenlabs_agents in text",),
}
"""Adapters with more than one, the default first, and one that has a name of its own here."""


def _rows(role: Role) -> tuple[str, ...]:
    return tuple(row for kind in KINDS[role] for row in WIRES.get((role, kind), (kind,)))


GROUPS: Mapping[str, Sequence[str]] = {
    "hears": _rows(Role.TRANSCRIBER),
    "speaks": _rows(Role.SYNTHESIZER),
    "thinks": _rows(Role.MODEL),
    "all three": _rows(Role.REALTIME),
    "carries the call": PROVIDERS,
}
COLUMNS: Mapping[str, str] = {
    Column.OFFICIAL: "official client works with the fake",
    Column.OURS: "ours does",
    Column.BARGE_IN: "barge-in",
    Column.RECONNECT: "reconnect in mid call",
    Column.CANCELLED: "cancelled at every step leaves nothing",
    Column.DEADLINE: "deadline keeps its promise",
}
COMBINATIONS: Mapping[str, str] = {
    "speechmatics+openai+elevenlabs": "Speechmatics + OpenAI + ElevenLabs",
    "deepgram_flux+anthropic+cartesia": "Deepgram Flux + Anthropic + Cartesia",
    "openai_realtime": "OpenAI Realtime",
    "elevenlabs_agents": "ElevenLabs Agents",
    "conversation-relay+openai": "ConversationRelay + OpenAI",
    "conversation-relay+anthropic": "ConversationRelay + Anthropic",
}
CARRIERS = ("twilio", "vonage", "telnyx", "plivo")


@dataclass(frozen=True)
class Note:
    """To some cells of a column. ``is_dash``: there is nothing to prove, and the text says why."""

    column: str
    rows: Collection[str]
    text: str
    is_dash: bool = True


NOTES: Sequence[Note] = (
    Note(
        Column.OFFICIAL,
        ("elevenlabs",),
        "ElevenLabs' package has no client for multi-stream-input; the fake keeps to its document.",
    ),
    Note(Column.OFFICIAL, ("program",), "A program of your own, over its standard input and output."),
    Note(
        Column.OFFICIAL,
        (RELAY,),
        "Twilio's package has no client for this socket; the document that opens it is the one that it writes.",
    ),
    Note(
        Column.OFFICIAL,
        ("elevenlabs_agents in text",),
        "The client speaks; the socket and its messages are the same.",
        is_dash=False,
    ),
    Note(
        Column.RECONNECT,
        PROVIDERS,
        "The provider has lost the media socket, and connects the caller once more within ten seconds.",
        is_dash=False,
    ),
)
INTRODUCTION = (
    "What the tests prove of each adapter, against fakes on the real wires. `python -m tests.contract.matrix` runs them"
    " and writes this."
)
CALL_NOTE = Note("", (), "ConversationRelay is Twilio's.")


class Proofs:
    """A pytest plugin that keeps the marked tests, and what became of them."""

    def __init__(self) -> None:
        self.by_test: dict[str, tuple[Proof, ...]] = {}
        self.unproven: dict[str, str] = {}
        """Tests that failed, or did not run to their end."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        marked = [item for item in items if item.get_closest_marker(MARK)]
        config.hook.pytest_deselected(items=[item for item in items if not item.get_closest_marker(MARK)])
        items[:] = marked
        self.by_test = {item.nodeid: tuple(proofs_of(item)) for item in marked}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.unproven[report.nodeid] = report.outcome

    @property
    def proven(self) -> frozenset[Proof]:
        return frozenset(
            proof for test, proofs in self.by_test.items() if test not in self.unproven for proof in proofs
        )


def marked_files() -> list[str]:
    return sorted(
        str(path)
        for path in (ROOT / "tests").rglob("test_*.py")
        if f"mark.{MARK}(" in path.read_text(encoding="utf-8") and path.name != "test_matrix.py"
    )


def look(*, run: bool) -> tuple[Proofs, int]:
    """What is marked, or what of it is so. With pytest's exit code."""
    proofs = Proofs()
    arguments = ["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *marked_files()]
    code = pytest.main(arguments if run else ["--collect-only", "-qq", "--no-summary", *arguments], plugins=[proofs])
    return proofs, int(code)


# --- judging --------------------------------------------------------------------------------------------------------


def problems(proven: Collection[Proof]) -> list[str]:
    """Cells without a proof and without a reason, reasons for what is proven, proofs of what there is not."""
    rows = [row for group in GROUPS.values() for row in group]
    cells = {Proof(CELLS, row, column) for row in rows for column in COLUMNS}
    dashes = {Proof(CELLS, row, note.column) for note in NOTES if note.is_dash for row in note.rows}
    calls = {Proof(CALLS, row, carrier) for row in COMBINATIONS for carrier in CARRIERS}
    no_calls = {call for call in calls if RELAY in call.row and call.column != "twilio"}
    known = cells | calls | {Proof(CELLS, row, column) for row in PROVIDERS for column in COLUMNS}
    return [
        *(
            f"not proven: {_named(cell)}"
            for cell in sorted(cells | calls, key=_named)
            if _is_open(cell, proven, dashes, no_calls)
        ),
        *(f"proven, and excused: {_named(cell)}" for cell in sorted((dashes | no_calls) & set(proven), key=_named)),
        *(f"excused, and there is none: {_named(cell)}" for cell in sorted(dashes - cells, key=_named)),
        *(f"there is no such cell: {_named(cell)}" for cell in sorted(set(proven) - known, key=_named)),
    ]


def _is_open(cell: Proof, proven: Collection[Proof], *excused: Collection[Proof]) -> bool:
    return cell not in proven and not any(cell in some for some in excused)


def _named(cell: Proof) -> str:
    return f"{cell.row}: {cell.column}"


# --- writing --------------------------------------------------------------------------------------------------------


def tables(proven: Collection[Proof]) -> str:
    """Both, and their notes."""
    notes = [*NOTES, CALL_NOTE]
    return "\n".join(
        [
            INTRODUCTION,
            "",
            *_table(["", "adapter", *COLUMNS.values()], _adapter_lines(proven, notes)),
            "",
            "Whole calls: a caller is heard, understood and answered, and nothing is left at either end.",
            "",
            *_table(["over", *map(str.capitalize, CARRIERS)], _call_lines(proven, notes)),
            "",
            *(
                f"({number}) {note.text}" + ("<br>" if note is not notes[-1] else "")
                for number, note in enumerate(notes, 1)
            ),
        ]
    )


def _adapter_lines(proven: Collection[Proof], notes: Sequence[Note]) -> Iterable[list[str]]:
    for group, rows in GROUPS.items():
        for row in rows:
            title = group if row == rows[0] else ""
            cells = [_cell(Proof(CELLS, row, str(column)) in proven, row, column, notes) for column in COLUMNS]
            yield [title, f"`{row}`" if " " not in row else f"`{row.split()[0]}`, {row.split(maxsplit=1)[1]}", *cells]


def _cell(is_proven: bool, row: str, column: str, notes: Sequence[Note]) -> str:
    number = next((str(n) for n, note in enumerate(notes, 1) if note.column == column and row in note.rows), "")
    return ("yes" if is_proven else DASH) + (f" ({number})" if number else "")


def _call_lines(proven: Collection[Proof], notes: Sequence[Note]) -> Iterable[list[str]]:
    for row, title in COMBINATIONS.items():
        yield [title, *("yes" if Proof(CALLS, row, on) in proven else f"{DASH} ({len(notes)})" for on in CARRIERS)]


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (head, ["---"] * len(head), *lines)]


def written(readme: str, made: str) -> str:
    """The README with this between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main(arguments: Sequence[str] = ()) -> int:
    is_check = "--check" in arguments
    proofs, code = look(run=not is_check)
    found = [f"{outcome}: {test}" for test, outcome in proofs.unproven.items()]
    found += problems(proofs.proven) if proofs.by_test else ["no tests were found"]
    readme = README.read_text(encoding="utf-8")
    new = written(readme, tables(proofs.proven))
    if is_check and new != readme:
        found.append("the README says something else: python -m tests.contract.matrix")
    elif not is_check and not found and code == 0:
        README.write_text(new, encoding="utf-8")
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found or code else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
