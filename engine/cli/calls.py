"""``offhook calls``: the live calls of a running engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

import trio
from cyclopts import Parameter

from engine.cli.tools import Json, open_api, print_json
from engine.converse.api import Api

T = TypeVar("T")

HERE = "http://127.0.0.1:8080"

CallId = Annotated[str, Parameter(help="A call's id, as `offhook calls ls` shows it.")]
Engine = Annotated[str, Parameter(help="The engine that runs there; its API key is in API_KEY.")]


def asked(url: str, ask: Callable[[Api], Awaitable[T]]) -> T:
    """What a running engine answers. Raises ApiFailed."""

    async def work() -> T:
        async with open_api(url) as api:
            return await ask(api)

    return trio.run(work)


def ls(*, url: Engine = HERE, json_output: Json = False) -> int:
    """See the help in ``engine.cli``."""
    calls = asked(url, lambda api: api.calls())
    if json_output:
        print_json(calls, show_numbers=True)  # only their ends are there
        return 0
    if not calls:
        print("no live calls")
        return 0
    print(f"{'ID':<36} {'PROVIDER':<10} {'AGENT':<16} {'CALLER':<10} {'FOR':>8}  STATE")
    for call in calls:
        print(line_of(call))
    return 0


def line_of(call: Mapping[str, Any]) -> str:
    seconds = int(call["seconds"])
    state = f"{call['state']} ({call['direction']})"
    return (
        f"{call['id']:<36} {call['provider']:<10} {call['agent']:<16} {call['caller'] or '-':<10} "
        f"{seconds // 60:>5}:{seconds % 60:02}  {state}"
    )


def say(call_id: CallId, text: str, /, *, url: Engine = HERE) -> int:
    """See the help in ``engine.cli``."""
    return _control(url, call_id, "say", {"text": text})


def hangup(
    call_id: CallId,
    /,
    *,
    say: Annotated[str, Parameter(help="Last words.")] = "",
    url: Engine = HERE,
) -> int:
    """See the help in ``engine.cli``."""
    return _control(url, call_id, "hangup", {"say": say} if say else {})


def transfer(
    call_id: CallId,
    to: Annotated[str, Parameter(help="A name of the agent's transfers, or a number.")],
    /,
    *,
    url: Engine = HERE,
) -> int:
    """See the help in ``engine.cli``."""
    return _control(url, call_id, "transfer", {"to": to})


def _control(url: str, call_id: str, what: str, body: Mapping[str, object]) -> int:
    done = asked(url, lambda api: api.control(call_id, what, body))
    print(f"{call_id}: {done['done']}")
    return 0
