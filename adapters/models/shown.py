"""What a language model is shown of a context, in the form that every vendor takes: one system text, and turns of the
two sides in alternation that begin with the caller's. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from engine.events import Context, Message, Role, ToolResult

BEGINNING = "[...]"
"""Stands for what the caller said, or did not, before the first words of the agent that are shown."""
INTERRUPTED = " —"
_ABOUT_INTERRUPTED = 'Where one of your messages ends in "—", the caller cut in there and did not hear the rest.'
GO_ON = (
    "[Your answer broke off there for technical reasons; the caller has heard it so far. "
    "Go on from exactly that point and say nothing of it again.]"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """Everything that one side said until the other did."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    system: str
    turns: tuple[Turn, ...]
    """CALLER first and in alternation; each has a text."""


def shown(context: Context) -> Shown:
    """The instructions and system messages as one text, the messages as turns."""
    messages = [message for message in context if message.role is not Role.SYSTEM]
    system = [context.instructions, *(message.text for message in context if message.role is Role.SYSTEM)]
    if any(message.interrupted for message in messages):
        system.append(_ABOUT_INTERRUPTED)
    return Shown("\n\n".join(text.strip() for text in system if text.strip()), tuple(_turns(messages)))


def arguments_of(text: str) -> Mapping[str, Any]:
    """A tool call's arguments as the object that they are meant to be; what is none is kept in words."""
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"unreadable": text}


def arguments_json(text: str) -> str:
    """The same as JSON: servers that read it themselves fail on anything else."""
    return text if isinstance(_loaded(text), dict) else to_json(arguments_of(text)).decode()


def result_text(result: ToolResult) -> str:
    """For vendors that have no field for an error."""
    return f"Error: {result.text}" if result.is_error else result.text


def to_json(value: object) -> bytes:
    """JSON, whatever half characters a stranger's text may hold."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(json.loads(json.dumps(_clean(value))))


def _turns(messages: Iterable[Message]) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        text = message.text.strip()
        if message.interrupted:
            text = (text + INTERRUPTED).strip()
        if not text:
            continue
        if turns and turns[-1].role is message.role:
            turns[-1] = Turn(message.role, f"{turns[-1].text}\n{text}")
        else:
            turns.append(Turn(message.role, text))
    if not turns or turns[0].role is not Role.CALLER:
        turns.insert(0, Turn(Role.CALLER, BEGINNING))
    return turns


def _loaded(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_clean(str(key)): _clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner) for inner in value]
    return value
