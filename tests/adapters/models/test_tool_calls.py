"""Tool calls in fragments, as OpenAI sends them and as others do."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.models.tool_calls import ToolCalls
from engine.errors import BadMessage


def delta(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**more, "function": function}


A, B = ("a", '{"x": 1}'), ("b", '{"y": 2}')


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        ([delta("a", "", index=0, id="1"), delta(None, '{"x"', index=0), delta(None, ": 1}", index=0)], [A]),
        ([delta("a", A[1], index=0, id="1"), delta("b", B[1], index=1, id="2")], [A, B]),
        ([delta("a", "", index=0, id="1"), delta("b", "", index=1, id="2"), delta(None, A[1], index=0),
          delta(None, B[1], index=1)], [A, B]),
        ([delta("a", A[1], index=0, id="1"), delta("b", B[1], index=0, id="2")], [A, B]),
        ([delta("a", A[1], index=0), delta("a", A[1], index=0)], [A, A]),
        ([delta("a", A[1]), delta("b", B[1])], [A, B]),
        ([delta("a", '{"x"', id="1"), delta("a", ": 1}", id="1")], [A]),
        ([delta("a", '{"x"'), delta("a", ": 1}")], [A]),
        ([delta("a", {"x": 1})], [("a", '{"x":1}')]),
        ([delta("a")], [("a", "{}")]),
        ([delta(None, "{}", index=3)], []),
        ([{}, {"function": None}, {"function": {"name": 7, "arguments": 7}, "id": 7, "index": "0"}], []),
    ],
)  # fmt: skip
def test_fragments_make_whole_calls(fragments: list[dict[str, Any]], calls: list[tuple[str, str]]) -> None:
    gathered = ToolCalls()
    for fragment in fragments:
        gathered.delta(fragment)
    made = gathered.all()
    assert [(call.name, call.arguments) for call in made] == calls
    assert len({call.call_id for call in made}) == len(made)


def test_the_vendors_ids_are_kept_and_missing_ones_made_up() -> None:
    gathered = ToolCalls("call_2")
    for fragment in (delta("a", "{}", id="x", index=0), delta("b", "{}", index=1), delta("c", "{}", id="x", index=2)):
        gathered.delta(fragment)
    assert [call.call_id for call in gathered.all()] == ["x", "call_2_1", "call_2_2"]


def test_nobody_wants_so_many() -> None:
    gathered = ToolCalls()
    for number in range(32):
        gathered.delta(delta("a", "{}", index=number, id=str(number)))
    with pytest.raises(BadMessage):
        gathered.delta(delta("a", "{}", index=32, id="32"))
