"""The README's tables are what the marks on the tests say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from adapters.catalog import KINDS
from tests.contract import ears, matrix, realtime_benches, synthesizers
from tests.contract.proof import CALLS, CELLS, Column, Proof, adapter_of, proofs_of


@pytest.fixture
def marked(request: pytest.FixtureRequest) -> frozenset[Proof]:
    """What all the marked tests of this run say; the run must be of the whole suite."""
    items = request.session.items
    collected = {str(item.path) for item in items}
    options = request.config.option
    if options.keyword or options.markexpr or not collected.issuperset(matrix.marked_files()):
        pytest.skip("not all marked tests are in this run; python -m tests.contract.matrix --check looks at them")
    return frozenset(proof for item in items for proof in proofs_of(item))


def test_every_kind_of_the_catalog_and_every_provider_has_its_row() -> None:
    for role, kinds in KINDS.items():
        for kind in kinds:
            rows = matrix.WIRES.get((role, kind), (kind,))
            assert any(set(rows) <= set(group) for group in matrix.GROUPS.values()), kind
    every = [row for group in matrix.GROUPS.values() for row in group]
    assert len(every) == len(set(every))
    assert set(matrix.PROVIDERS) == {"twilio", "vonage", "telnyx", "plivo", "signalwire", "conversation-relay"}


def test_every_cell_is_proven_or_excused_with_a_reason(marked: frozenset[Proof]) -> None:
    assert matrix.problems(marked) == []


def test_the_readme_says_what_the_marks_say(marked: frozenset[Proof]) -> None:
    readme = matrix.README.read_text(encoding="utf-8")
    assert matrix.written(readme, matrix.tables(marked)) == readme, "python -m tests.contract.matrix"


def whole() -> set[Proof]:
    """As if everything were proven that can be."""
    dashes = {(row, note.column) for note in matrix.NOTES if note.is_dash for row in note.rows}
    cells = {
        Proof(CELLS, row, column)
        for group in matrix.GROUPS.values()
        for row in group
        for column in matrix.COLUMNS
        if (row, column) not in dashes
    }
    calls = {
        Proof(CALLS, row, carrier)
        for row in matrix.COMBINATIONS
        for carrier in matrix.CARRIERS
        if carrier == "twilio" or matrix.RELAY not in row
    }
    return cells | calls


def test_a_cell_without_proof_is_named() -> None:
    cell, call = Proof(CELLS, "cartesia", Column.RECONNECT), Proof(CALLS, "openai_realtime", "vonage")
    assert matrix.problems(whole()) == []
    assert matrix.problems(whole() - {cell, call}) == [
        "not proven: cartesia: reconnect",
        "not proven: openai_realtime: vonage",
    ]


def test_a_proof_of_what_is_excused_or_is_not_there_is_named() -> None:
    excused, unknown = Proof(CELLS, "program", Column.OFFICIAL), Proof(CELLS, "cartesian", Column.OURS)
    assert matrix.problems(whole() | {excused, unknown}) == [
        "proven, and excused: program: official client",
        "there is no such cell: cartesian: ours",
    ]


def test_the_tables_hold_a_cell_for_each_and_the_number_of_its_note() -> None:
    made = matrix.tables(whole() - {Proof(CELLS, "cartesia", Column.OURS)})
    assert f"| `cartesia` | yes | {matrix.DASH} | yes | yes | yes | yes |" in made
    assert f"| `program` | {matrix.DASH} (2) | yes | yes | yes | yes | yes |" in made
    assert "| ConversationRelay + OpenAI | yes |" in made
    assert "\n(2) A program" in made


def test_what_stands_around_the_tables_stays() -> None:
    readme = f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n"
    assert matrix.written(readme, "new") == f"before\n{matrix.BEGIN}\nnew\n{matrix.END}\nafter\n"


def test_adapters_are_named_as_in_the_catalog() -> None:
    names = [adapter_of(kind) for kind in (*ears.EARS, *synthesizers.KINDS, *realtime_benches.KINDS)]
    assert len(set(names)) == len(names)
    assert {name.split()[0] for name in names} <= {kind for kinds in KINDS.values() for kind in kinds}


class Marked:
    """A test with these marks and parameters."""

    nodeid = "a test"

    def __init__(self, *marks: pytest.MarkDecorator) -> None:
        self._marks = [mark.mark for mark in marks]

    def iter_markers(self, _: str) -> Iterator[pytest.Mark]:
        yield from self._marks


def said_by(*marks: pytest.MarkDecorator) -> list[Proof]:
    item: Any = Marked(*marks)
    return list(proofs_of(item))


def test_a_mark_names_its_adapters() -> None:
    mark = pytest.mark.proves("ours", adapter=("cartesia", "plivo"))
    assert said_by(mark) == [Proof(CELLS, "cartesia", "ours"), Proof(CELLS, "plivo", "ours")]
    mark = pytest.mark.proves("whole call", adapter="openai_realtime", provider="vonage")
    assert said_by(mark) == [Proof(CALLS, "openai_realtime", "vonage")]


@pytest.mark.parametrize(
    "mark",
    [
        pytest.mark.proves("our", adapter="cartesia"),
        pytest.mark.proves("ours"),
        pytest.mark.proves("whole call", adapter="openai_realtime"),
    ],
)
def test_a_mark_that_says_nothing_is_refused(mark: pytest.MarkDecorator) -> None:
    with pytest.raises(pytest.UsageError, match="a test"):
        said_by(mark)
