"""The tools that are built in. What they do is done to the call they are called in, and to nobody else."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from engine.errors import ToolFailed, VendorError
from engine.events import Context, HandOver, HangUp, MemoryItem, MemoryKind, Noted, ToolSpec, Transfer
from engine.ports import Ability, Acted, Tool, ToolScope

MOST_TRANSFERS: Final = 3
MOST_TEXTS: Final = 3
"""Attempts in one call, so that a model that goes in circles, or is talked into it, costs no fortune."""
MOST_FOUND: Final = 8
"""Of what is recalled."""
_DIGITS: Final = re.compile(r"[0-9*#w]{1,32}")
_WORD: Final = re.compile(r"\w+")
_SHORT: Final = 3
"""Words of fewer characters tell nothing."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """Implements ``engine.ports.Tool``."""

    spec: ToolSpec
    work: Callable[[Mapping[str, Any], ToolScope], Awaitable[str | Acted]]
    needs: Ability | None = None
    most_per_call: int | None = None
    timeout_s: float | None = None

    @property
    def label(self) -> str:
        return self.spec.name

    async def run(self, arguments: Mapping[str, Any], scope: ToolScope) -> str | Acted:
        return await self.work(arguments, scope)


def hang_up() -> Tool:
    return BuiltIn(
        ToolSpec(
            "hang_up",
            "End the conversation. Say goodbye first: what you have said is heard before the line is closed.",
        ),
        _hang_up,
    )


def transfer(targets: Mapping[str, str], warm: str = "never") -> Tool:
    """``targets``: a name to a number in E.164 or a SIP address. The model knows the names alone. ``warm``: whether it
    may say what they are told before: ``never``, ``if_able`` or ``always``."""

    async def work(arguments: Mapping[str, Any], scope: ToolScope) -> Acted:
        name, summary = arguments["to"], str(arguments.get("summary", "")).strip()
        if warm == "always" and Ability.WARM_TRANSFER not in scope.control.abilities:
            raise ToolFailed("Nobody can be told anything before they are connected on this line; nothing was done.")
        done = f"The caller will be connected to {name} once you have been heard."
        return Acted(Transfer(targets[name], summary if warm != "never" else ""), done)

    to = {"type": "string", "enum": list(targets), "description": "Who the caller is to be connected to."}
    summary = {
        "type": "string",
        "minLength": 1,
        "maxLength": 500,
        "description": "What they are told before they are connected: who calls, and why, in a sentence or two.",
    }
    fields = {
        "never": _object(to=to),
        "if_able": _object(to=to, optional={"summary": summary}),
        "always": _object(to=to, summary=summary),
    }
    spec = ToolSpec("transfer", "Connect the caller to somebody else, and leave the call.", fields[warm])
    return BuiltIn(spec, work, needs=Ability.TRANSFER, most_per_call=MOST_TRANSFERS)


def hand_over(agents: Sequence[str]) -> Tool:
    """``agents``: the names of those who may go on with the session."""

    async def work(arguments: Mapping[str, Any], scope: ToolScope) -> Acted:
        return Acted(HandOver(arguments["agent"]), f"{arguments['agent']} answers from here on.")

    agent = {"type": "string", "enum": list(agents), "description": "Who is to answer."}
    return BuiltIn(
        ToolSpec("hand_over", "Have another agent answer the caller in your place, at once.", _object(agent=agent)),
        work,
    )


def send_text() -> Tool:
    text = {"type": "string", "minLength": 1, "maxLength": 1000, "description": "What the message says."}
    spec = ToolSpec(
        "send_text", "Send an SMS to the caller's own phone; no other number can be written to.", _object(text=text)
    )
    return BuiltIn(spec, _send_text, needs=Ability.SEND_TEXT, most_per_call=MOST_TEXTS)


def press_digits() -> Tool:
    digits = {
        "type": "string",
        "minLength": 1,
        "maxLength": 32,
        "description": "Of 0-9, * and #; w waits for half a second.",
    }
    spec = ToolSpec(
        "press_digits", "Press keys of the telephone, such as in another party's menu.", _object(digits=digits)
    )
    return BuiltIn(spec, _press_digits, needs=Ability.PRESS_DIGITS)


def remember() -> Tool:
    kinds = ["entity", *(str(kind) for kind in MemoryKind)]
    kind = {
        "type": "string",
        "enum": kinds,
        "description": "entity: a value that has a name, such as a customer number.",
    }
    content = {"type": "string", "minLength": 1, "maxLength": 500, "description": "What is to be known."}
    name = {"type": "string", "minLength": 1, "maxLength": 64, "description": "Of an entity: what it is."}
    spec = ToolSpec(
        "remember",
        "Keep something about the caller for this and later conversations.",
        _object(kind=kind, content=content, optional={"name": name}),
    )
    return BuiltIn(spec, _remember)


def recall() -> Tool:
    about = {"type": "string", "minLength": 1, "maxLength": 200, "description": "A few words."}
    spec = ToolSpec("recall", "Look up what is known of the caller and what was said before.", _object(about=about))
    return BuiltIn(spec, _recall)


def built_in(
    names: Sequence[str], *, transfers: Mapping[str, str], others: Sequence[str], warm: str = "never"
) -> list[Tool]:
    """Those of these names that are built in and of any use: there is nobody to transfer to without ``transfers``, and
    nobody to hand over to without ``others``, the other agents."""
    made: dict[str, Callable[[], Tool]] = {
        "hang_up": hang_up,
        "send_text": send_text,
        "press_digits": press_digits,
        "remember": remember,
        "recall": recall,
    }
    if transfers:
        made["transfer"] = lambda: transfer(transfers, warm)
    if others:
        made["hand_over"] = lambda: hand_over(others)
    return [made[name]() for name in names if name in made]


# --- what they do -------------------------------------------------------------------------------------------


async def _hang_up(arguments: Mapping[str, Any], scope: ToolScope) -> Acted:
    return Acted(HangUp(), "The line will be closed once you have been heard.")


async def _send_text(arguments: Mapping[str, Any], scope: ToolScope) -> str:
    with _failing("The text could not be sent."):
        await scope.control.send_text(arguments["text"])
    return "Sent."


async def _press_digits(arguments: Mapping[str, Any], scope: ToolScope) -> str:
    digits = arguments["digits"].replace(" ", "")
    if not _DIGITS.fullmatch(digits):
        raise ToolFailed("Wrong arguments: digits: expected some of 0-9, *, # and w.")
    with _failing("The keys could not be pressed."):
        await scope.control.press(digits)
    return "Pressed."


async def _remember(arguments: Mapping[str, Any], scope: ToolScope) -> Acted:
    kind, content = arguments["kind"], arguments["content"].strip()
    if kind in tuple(MemoryKind):
        return Acted(Noted(items=(MemoryItem(MemoryKind(kind), content),)), "Noted.")
    name = arguments.get("name", "").strip()
    if not name:
        raise ToolFailed("Wrong arguments: name: missing, what is the entity called?")
    return Acted(Noted(entities={name: content}), "Noted.")


async def _recall(arguments: Mapping[str, Any], scope: ToolScope) -> str:
    wanted = _words(arguments["about"])
    found = [(len(wanted & _words(line)), line) for line in _known(scope.context)]
    best = sorted((item for item in found if item[0]), key=lambda item: -item[0])[:MOST_FOUND]
    return "\n".join(line for _, line in best) or "Nothing is known of that."


def _known(context: Context) -> Iterator[str]:
    """Of this session alone: nothing else is in the context."""
    memory = context.memory
    yield from (f"{name}: {value}" for name, value in memory.entities.items())
    yield from (f"{item.kind}: {item.content}" for item in memory.items)
    if memory.summary:
        yield f"earlier: {memory.summary}"
    yield from (f"{message.role}: {message.text}" for message in context.messages if message.role != "system")


def _words(text: str) -> frozenset[str]:
    return frozenset(word.casefold() for word in _WORD.findall(text) if len(word) >= _SHORT)


@contextmanager
def _failing(sentence: str) -> Iterator[None]:
    try:
        yield
    except (VendorError, trio.TooSlowError) as exc:
        raise ToolFailed(sentence) from exc


def _object(*, optional: Mapping[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
        "additionalProperties": False,
    }
