"""Kinds of vendors in words: what each is for, where its key is, and what it takes in the settings."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any

from adapters.catalog import KINDS, Role, find_kind
from engine.assembly.vendors import ALSO_GIVEN, OF_KIND
from engine.settings.vendors import KEY_VARIABLES

_NOT_IN_THE_FILE = ("key",)


def kinds_of_vendors() -> list[str]:
    """All of them, those that hear first."""
    return list(dict.fromkeys(name for kinds in KINDS.values() for name in kinds))


def describe_kind(name: str) -> dict[str, Any]:
    """``kind``, ``role`` (or several, separated by commas), ``key_variable``, ``has_key``, and ``settings``: ``name``,
    ``default`` and ``about`` each."""
    return _of(name, [role for role, kinds in KINDS.items() if name in kinds])


def _of(name: str, roles: list[Role]) -> dict[str, Any]:
    config, _ = find_kind(roles[0], name)
    texts = _docstrings(config)
    variable = KEY_VARIABLES[name]
    return {
        "kind": name,
        "role": ", ".join(roles),
        "key_variable": variable,
        "has_key": bool(os.environ.get(variable) or os.environ.get(f"{variable}_FILE")) if variable else True,
        "settings": [
            {"name": item.name, "default": _default(item, name), "about": texts.get(item.name, "")}
            for item in fields(config)
            if item.name not in _NOT_IN_THE_FILE
        ],
    }


def _default(item: Field[Any], kind: str) -> Any:
    """As it would stand in the file; ``None`` where nothing does, words where something has to."""
    if item.name in ALSO_GIVEN.get(kind, ()):
        return "must be given"
    if item.name in OF_KIND.get(kind, {}):
        return OF_KIND[kind][item.name]
    if item.default_factory is not MISSING:
        made = item.default_factory()
        return list(made) if isinstance(made, tuple) else made
    if item.default is MISSING:
        return "must be given"
    default = item.default.value if isinstance(item.default, Enum) else item.default
    return list(default) if isinstance(default, tuple) else default


def _docstrings(config: type[Any]) -> dict[str, str]:
    """The text behind each field of a dataclass."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - it is the source of a class
    texts: dict[str, str] = {}
    for field, following in zip(definition.body, definition.body[1:], strict=False):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            texts[field.target.id] = " ".join(str(following.value.value).split()).replace("``", "")  # type: ignore[attr-defined]  # narrowed above
    return texts
