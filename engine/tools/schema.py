"""Arguments of a model, checked against the JSON Schema of its tool. Pure.

Known are ``type``, ``properties``, ``required``, ``additionalProperties``, ``items``, ``enum``, ``const``, the limits
of numbers, texts and lists, ``anyOf``, ``oneOf``, ``allOf`` and ``$ref`` within the schema. Whatever else a schema says
(``pattern``, ``format``, ...) is left to the tool itself: a pattern that a stranger wrote can hold up a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import ge, gt, le, lt
from typing import Any, Final

MOST_LEVELS: Final = 40
"""Of a value, and of references in a schema; deeper ones are refused."""
MOST_STEPS: Final = 5_000
"""Of a check, some 50 ms: alternatives within alternatives may be without end."""

_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
}


def fault_in(value: Any, schema: Any) -> str:
    """What is wrong with a JSON value, beginning with the field at fault; empty if nothing is. The value is not
    repeated. A schema that makes no sense asks for nothing."""
    return next(_Check(schema).faults(value, schema, "", 0), "")


class _Check:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def faults(self, value: Any, schema: Any, path: str, level: int) -> Iterator[str]:
        self._steps += 1
        if level > MOST_LEVELS or self._steps > MOST_STEPS:
            yield _at(path, "nested too deep, or too much")
            return
        if schema is False:
            yield _at(path, "not expected")
        if not isinstance(schema, Mapping):
            return
        if isinstance(ref := schema.get("$ref"), str):
            yield from self.faults(value, self._resolved(ref), path, level + 1)
        wrong = self._wrong_kind(value, schema) or _not_among(value, schema) or _out_of_limits(value, schema)
        if wrong:
            yield _at(path, wrong)
            return
        yield from self._of_members(value, schema, path, level)
        yield from self._of_alternatives(value, schema, path, level)

    def _wrong_kind(self, value: Any, schema: Mapping[str, Any]) -> str:
        kinds = schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        known = [kind for kind in kinds if isinstance(kind, str) and kind in _KINDS] if isinstance(kinds, list) else []
        if not known or any(_KINDS[kind](value) for kind in known):
            return ""
        return f"expected {' or '.join(known)}"

    def _of_members(self, value: Any, schema: Mapping[str, Any], path: str, level: int) -> Iterator[str]:
        if isinstance(value, dict):
            known = schema.get("properties")
            known = known if isinstance(known, Mapping) else {}
            required = schema.get("required")
            for name in required if isinstance(required, list) else ():
                if isinstance(name, str) and name not in value:
                    yield _at(_below(path, name), "missing")
            others = schema.get("additionalProperties", True)
            for name, inner in value.items():
                yield from self.faults(inner, known.get(name, others), _below(path, name), level + 1)
        elif isinstance(value, list) and "items" in schema:
            for place, inner in enumerate(value):
                yield from self.faults(inner, schema["items"], f"{path}[{place}]", level + 1)

    def _of_alternatives(self, value: Any, schema: Mapping[str, Any], path: str, level: int) -> Iterator[str]:
        for part in _schemas(schema, "allOf"):
            yield from self.faults(value, part, path, level + 1)
        for word in ("anyOf", "oneOf"):
            parts = _schemas(schema, word)
            found = [next(self.faults(value, part, path, level + 1), "") for part in parts]
            matching = found.count("")
            if parts and not matching:
                yield found[0] if len(found) == 1 else _at(path, f"none of what it may be ({found[0]}; ...)")
            elif word == "oneOf" and matching > 1:
                yield _at(path, "more than one of what it may be")

    def _resolved(self, ref: str) -> Any:
        if not ref.startswith("#"):
            return {}
        found = self._root
        for step in ref.lstrip("#/").split("/"):
            if step and not (isinstance(found, Mapping) and step in found):
                return {}
            found = found[step] if step else found
        return found


def _schemas(schema: Mapping[str, Any], word: str) -> list[Any]:
    parts = schema.get(word)
    return parts if isinstance(parts, list) else []


def _not_among(value: Any, schema: Mapping[str, Any]) -> str:
    allowed = schema.get("enum")
    if isinstance(allowed, list) and not any(_same(value, one) for one in allowed):
        return f"expected one of {', '.join(map(str, allowed))[:200]}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"expected {str(schema['const'])[:200]}"
    return ""


def _same(value: Any, other: Any) -> bool:
    """As JSON: true is not 1."""
    return bool(value == other) and isinstance(value, bool) is isinstance(other, bool)


def _out_of_limits(value: Any, schema: Mapping[str, Any]) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        words, size, unit = _OF_NUMBERS, value, ""
    elif isinstance(value, str | list):
        words, size = (_OF_TEXTS, len(value)) if isinstance(value, str) else (_OF_LISTS, len(value))
        unit = " characters" if isinstance(value, str) else " items"
    else:
        return ""
    for word, says, is_wrong in words:
        limit = schema.get(word)
        if isinstance(limit, int | float) and not isinstance(limit, bool) and is_wrong(size, limit):
            return f"expected {says} {limit}{unit}"
    return ""


_Words = tuple[tuple[str, str, Callable[[float, float], bool]], ...]
_OF_NUMBERS: Final[_Words] = (
    ("minimum", "at least", lt),
    ("maximum", "at most", gt),
    ("exclusiveMinimum", "more than", le),
    ("exclusiveMaximum", "less than", ge),
)
_OF_TEXTS: Final[_Words] = (("minLength", "at least", lt), ("maxLength", "at most", gt))
_OF_LISTS: Final[_Words] = (("minItems", "at least", lt), ("maxItems", "at most", gt))


def _below(path: str, name: str) -> str:
    return f"{path}.{name[:64]}" if path else name[:64]


def _at(path: str, what: str) -> str:
    return f"{path or 'the arguments'}: {what}"
