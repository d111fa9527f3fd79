"""``offhook privacy``: people's control over what is kept of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import trio
from cyclopts import Parameter

from engine.cli.tools import (
    BY,
    Config,
    Json,
    Tools,
    Url,
    counted,
    number_in,
    on_store,
    open_api,
    print_json,
)
from engine.cli.usage import NotThere
from engine.observe.masking import mask_number
from engine.sessions.export import utc
from engine.sessions.privacy import MAX_AUDITS
from engine.settings import load_settings

DECLINED = 1

Number = Annotated[str, Parameter(help="The caller's number, in any spelling.")]


def export(
    number: Number,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="Write it to this file and not to the terminal.")] = None,
    config: Config = None,
    url: Url = "",
) -> int:
    """See the help in ``engine.cli``."""
    e164 = number_in(number, load_settings(config).sessions.default_region)

    def tell(found: Mapping[str, Any]) -> int:
        text = json.dumps(found, ensure_ascii=False, indent=2) + "\n"
        if out is None:
            print(text, end="")
            return 0
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise NotThere(f"--out: {out} cannot be written ({exc.strerror})") from None
        return 0

    async def work(tools: Tools) -> int:
        return tell(await tools.privacy.export(e164, BY))

    async def ask() -> int:
        async with open_api(url) as api:
            return tell(await api.export(e164))

    return trio.run(ask) if url else on_store(config, work)


def delete(
    number: Number,
    /,
    *,
    yes: Annotated[bool, Parameter(help="Do not ask.")] = False,
    config: Config = None,
    url: Url = "",
    json_output: Json = False,
) -> int:
    """See the help in ``engine.cli``."""
    e164 = number_in(number, load_settings(config).sessions.default_region)
    if not yes and not _is_sure(e164):
        print("nothing was deleted", file=sys.stderr)
        return DECLINED

    def tell(sessions: int, recordings: int | None = None) -> int:
        if json_output:
            counts = {"sessions": sessions} | ({} if recordings is None else {"recordings": recordings})
            print_json(counts, show_numbers=False)
        else:
            more = f", {counted(recordings, 'recording')}" if recordings else ""
            print(f"erased {mask_number(e164)}: {counted(sessions, 'session')}{more}")
        return 0

    async def work(tools: Tools) -> int:
        return tell(await tools.privacy.delete(e164, BY), tools.recordings.erased)

    async def ask() -> int:
        async with open_api(url) as api:
            return tell(await api.erase(e164))

    return trio.run(ask) if url else on_store(config, work)


def audit(
    *,
    limit: Annotated[int, Parameter(help="How many at most, the newest.")] = 100,
    config: Config = None,
    json_output: Json = False,
) -> int:
    """See the help in ``engine.cli``."""
    if not 1 <= limit <= MAX_AUDITS:
        raise NotThere(f"--limit: expected 1 to {MAX_AUDITS}, got {limit}")

    async def work(tools: Tools) -> int:
        events = await tools.privacy.audit(limit)
        if json_output:
            print_json(list(events), show_numbers=False)
            return 0
        if not events:
            print("nothing was exported, deleted or changed yet", file=sys.stderr)
        for event in events:
            what = f"{event.by:<12} {event.what:<16} {event.outcome:<6} {event.detail:<24}"
            print(f"{utc(event.at)}  {what} {event.subject}")
        return 0

    return on_store(config, work)


def _is_sure(e164: str) -> bool:
    """Where nobody can be asked, nobody has agreed."""
    if not sys.stdin.isatty():
        print("expected --yes, because there is nobody here to ask", file=sys.stderr)
        return False
    answer = input(f"Erase everything of {e164}, for good? Type the last four digits to go on: ")
    return answer.strip() == e164[-4:]
