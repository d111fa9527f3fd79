"""What a model gives to a tool is what the tool's schema says."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.tools.schema import fault_in

BOOKING = {
    "type": "object",
    "properties": {
        "day": {"enum": ["monday", "tuesday"]},
        "people": {"type": "integer", "minimum": 1, "maximum": 8},
        "names": {"type": "array", "items": {"type": "string", "minLength": 2}, "maxItems": 3},
        "at": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "table": {"$ref": "#/$defs/table"},
    },
    "required": ["day"],
    "additionalProperties": False,
    "$defs": {"table": {"type": "object", "properties": {"seats": {"type": "number", "exclusiveMinimum": 0}}}},
}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"day": "monday", "people": 3, "names": ["Ann"], "at": None, "table": {"seats": 2.5}}, ""),
        ({"day": "monday", "people": 3.0}, ""),
        ({}, "day: missing"),
        ({"day": "friday"}, "day: expected one of monday, tuesday"),
        ({"day": "monday", "people": "3"}, "people: expected integer"),
        ({"day": "monday", "people": True}, "people: expected integer"),
        ({"day": "monday", "people": 3.5}, "people: expected integer"),
        ({"day": "monday", "people": 0}, "people: expected at least 1"),
        ({"day": "monday", "people": 9}, "people: expected at most 8"),
        ({"day": "monday", "names": ["Ann", "B"]}, "names[1]: expected at least 2 characters"),
        ({"day": "monday", "names": ["Ann"] * 4}, "names: expected at most 3 items"),
        ({"day": "monday", "at": 5}, "at: none of what it may be (at: expected string; ...)"),
        ({"day": "monday", "table": {"seats": 0}}, "table.seats: expected more than 0"),
        ({"day": "monday", "caller": "+1555"}, "caller: not expected"),
        ([], "the arguments: expected object"),
    ],
)
def test_the_field_at_fault_is_named(arguments: Any, fault: str) -> None:
    assert fault_in(arguments, BOOKING) == fault


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.floats(-2, 9, width=16) | st.sampled_from(["", "a", "monday"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["day", "people", "names", "at", "table", "seats"]), inner, max_size=4)
    ),
    max_leaves=8,
)
_schemas = st.recursive(
    st.sampled_from(
        [
            {},
            True,
            False,
            {"type": "string", "minLength": 1},
            {"type": ["integer", "null"], "minimum": 0},
            {"type": "number", "exclusiveMaximum": 4},
            {"enum": [1, True, "a", None]},
            {"const": 1},
            {"type": "array", "minItems": 1, "maxItems": 2},
            {"required": ["day"], "type": "object"},
            {"$ref": "#/nowhere/1"},
        ]
    ).filter(lambda schema: schema != {"$ref": "#/nowhere/1"}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array"]),
            "properties": st.dictionaries(st.sampled_from(["day", "people", "at"]), inner, max_size=3),
            "additionalProperties": inner,
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
        },
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(value=_values, schema=st.just(BOOKING) | _schemas)
def test_it_judges_as_the_reference_implementation_does(value: Any, schema: Any) -> None:
    assert (fault_in(value, schema) == "") is jsonschema.Draft202012Validator(schema).is_valid(value)


_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "required",
                    "items",
                    "enum",
                    "const",
                    "anyOf",
                    "oneOf",
                    "allOf",
                    "$ref",
                    "minimum",
                    "maxLength",
                    "additionalProperties",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(value=_values, schema=_junk)
def test_a_schema_that_makes_no_sense_breaks_nothing(value: Any, schema: Any) -> None:
    assert isinstance(fault_in(value, schema), str)


def test_a_schema_without_an_end_has_one() -> None:
    forked = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}
    assert "too deep" in fault_in({}, forked)
    tree = {"properties": {"a": {"$ref": "#"}}, "type": "object"}
    value: dict[str, Any] = {}
    for _ in range(500):
        value = {"a": value}
    assert "too deep" in fault_in(value, tree)
