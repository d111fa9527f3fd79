"""A tool that is a Python callable of somebody's, described by its own signature."""

from __future__ import annotations

import enum
import importlib
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import orjson
import trio

from engine.errors import SettingsError
from engine.events import SessionInfo, ToolSpec
from engine.ports import Ability, Acted, ToolScope

WORKERS: Final = 8
"""Threads for callables that are not async: one that hangs is not waited for, and not replaced."""

_PLAIN: Final[Mapping[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class PythonTool:
    """Implements ``engine.ports.Tool``. An async callable runs in the call's own task, any other in a thread, which is
    abandoned when its time is over."""

    spec: ToolSpec
    function: Callable[..., Any] = field(repr=False)
    limiter: trio.CapacityLimiter = field(repr=False)
    scoped: Mapping[str, type] = field(default_factory=dict)
    """Parameters that are given the ToolScope or the SessionInfo: the model neither sees nor fills them."""
    timeout_s: float | None = None
    needs: Ability | None = None
    most_per_call: int | None = None

    @property
    def label(self) -> str:
        return self.spec.name

    async def run(self, arguments: Mapping[str, Any], scope: ToolScope) -> str | Acted:
        given = {name: value for name, value in arguments.items() if name not in self.scoped}
        for name, kind in self.scoped.items():
            given[name] = scope if kind is ToolScope else scope.session
        work = partial(self.function, **given)
        if inspect.iscoroutinefunction(self.function):
            answer = await work()
        else:
            answer = await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self.limiter)
        if isinstance(answer, str | Acted):
            return answer
        return "Done." if answer is None else orjson.dumps(answer, default=str).decode()


def python_tool(
    name: str,
    path: str,
    limiter: trio.CapacityLimiter,
    *,
    description: str = "",
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
) -> PythonTool:
    """``path``: ``package.module:function``. What the settings do not say is read from the callable: its docstring's
    first paragraph, its parameters. Raises SettingsError."""
    function = _imported(path)
    try:
        hints = get_type_hints(function, include_extras=True)
        declared = inspect.signature(function).parameters
    except (TypeError, ValueError, NameError) as exc:
        raise SettingsError(f"python: {path!r} cannot be called ({exc})") from None
    scoped = {each: hint for each, hint in hints.items() if hint in (ToolScope, SessionInfo) and each in declared}
    if parameters is None:
        shown = [parameter for parameter in declared.values() if parameter.name not in scoped]
        parameters = _schema(path, shown, hints)
    words = description or inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    if not words:
        raise SettingsError(f"python: {path!r} has no docstring: set description, what it is for")
    return PythonTool(ToolSpec(name, words, parameters), function, limiter, scoped, timeout_s)


def _imported(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as exc:  # noqa: BLE001 - the edge to somebody else's module
        raise SettingsError(f"python: {path!r} cannot be imported ({type(exc).__name__}: {exc})") from None
    if not callable(function):
        raise SettingsError(f"python: {path!r} is not a function")
    return function  # type: ignore[no-any-return]  # whatever it is, it can be called


def _schema(path: str, parameters: list[inspect.Parameter], hints: Mapping[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in parameters:
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise SettingsError(f"python: {path!r} takes {parameter.name!r} not by its name")
        found = _schema_of(hints.get(parameter.name, str))
        if found is None:
            raise SettingsError(
                f"python: what {path!r} takes as {parameter.name!r} has no JSON Schema of its own: set parameters"
            )
        properties[parameter.name] = found
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema_of(hint: Any) -> dict[str, Any] | None:  # noqa: PLR0911 - one kind a line
    """None for what has none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner = _schema_of(arguments[0])
        words = next((note for note in arguments[1:] if isinstance(note, str)), "")
        return inner if inner is None or not words else {**inner, "description": words}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        return {"enum": [str(one) for one in hint]}
    if origin in (Union, types.UnionType):
        parts = [_schema_of(one) for one in arguments]
        return None if None in parts else {"anyOf": parts}
    if origin is list or hint is list:
        items = _schema_of(arguments[0]) if arguments else {}
        return None if items is None else {"type": "array", "items": items}
    if origin is dict or hint is dict:
        return {"type": "object"}
    return None
