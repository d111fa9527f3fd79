"""``offhook dial``: have a running engine call a number."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import trio
from cyclopts import Parameter

from engine.cli.calls import HERE, Engine, asked, line_of
from engine.cli.tools import Json, print_json
from engine.converse.api import Api

UNDER_WAY = frozenset({"queued", "ringing", "answered", "machine"})
REACHED = frozenset({"completed", "machine"})
LOOK_S = 1.0


def dial(
    number: Annotated[str, Parameter(help="Who is called, in E.164, such as +12025550143.")],
    /,
    *,
    sender: Annotated[str, Parameter(name="--from", help="One of our numbers; else the first one.")] = "",
    agent: Annotated[str, Parameter(help="Who talks; else whoever answers our number.")] = "",
    provider: Annotated[str, Parameter(help="Over whom; else whoever our number is of.")] = "",
    detect_machine: Annotated[bool | None, Parameter(help="Tell answering machines from people.")] = None,
    voicemail: Annotated[str | None, Parameter(help="Left on a machine after its beep.")] = None,
    key: Annotated[str, Parameter(help="Idempotency key: asked again with it, no second call is made.")] = "",
    wait: Annotated[bool, Parameter(help="Until the call is over.")] = False,
    url: Engine = HERE,
    json_output: Json = False,
) -> int:
    """See the help in ``engine.cli``."""
    wanted: dict[str, Any] = {"to": number, "from": sender, "agent": agent, "provider": provider}
    body = {name: value for name, value in wanted.items() if value}
    body |= {"detect_machine": detect_machine} if detect_machine is not None else {}
    body |= {"voicemail": voicemail} if voicemail is not None else {}

    async def ask(api: Api) -> dict[str, Any]:
        call = await api.dial(body, key=key or secrets.token_hex(16))
        shown = ""
        while wait and (call["is_live"] or call["state"] in UNDER_WAY - REACHED):
            if call["state"] != shown and not json_output:
                shown = call["state"]
                print(line_of(call))
            await trio.sleep(LOOK_S)
            call = await api.call(call["id"])
        return call

    call = asked(url, ask)
    if json_output:
        print_json(call, show_numbers=True)  # only the end of it is there
    else:
        print(line_of(call))
    return 0 if call["state"] in (REACHED if wait else REACHED | UNDER_WAY) else 1
