"""``offhook store``: the store itself, its keys and its upkeep."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.assembly import migrate_store
from engine.cli.tools import SCAN_PAGE, Config, Json, Tools, counted, on_settings, on_store, print_json, where
from engine.sessions.export import utc
from engine.settings import Settings
from engine.storage.keyring import KeyRing
from engine.storage.keyring import new_key as make_key
from engine.storage.vault import Reencrypted

LEFT = 1
"""Something could not be opened."""


def info(*, config: Config = None, json_output: Json = False) -> int:
    """See the help in ``engine.cli``."""

    async def work(tools: Tools) -> int:
        sessions, first_at, last_at = await _count(tools)
        found = {
            "kind": tools.settings.store.kind,
            "where": where(tools.settings),
            "encrypted_with": list(KeyRing.parse(tools.settings.secrets.encryption_keys).ids),
            "sessions": sessions,
            "first_at": first_at,
            "last_at": last_at,
            "journal_bytes": journal_bytes(tools.settings),
        }
        if json_output:
            print_json(found, show_numbers=True)
        else:
            _show_info(found)
        return 0

    return on_store(config, work)


def migrate(*, config: Config = None, json_output: Json = False) -> int:
    """See the help in ``engine.cli``."""

    async def work(settings: Settings) -> int:
        adopted = await migrate_store(settings)
        if json_output:
            print_json({"adopted": adopted}, show_numbers=True)
        else:
            taken = f"; taken over from an older program: {counted(adopted, 'session')}" if adopted else ""
            print(f"{where(settings)}: the tables are this program's{taken}")
        return 0

    return on_settings(config, work)


def reencrypt(*, config: Config = None, json_output: Json = False) -> int:
    """See the help in ``engine.cli``."""
    console = Console(stderr=True, highlight=False)

    async def work(tools: Tools) -> int:
        keys = KeyRing.parse(tools.settings.secrets.encryption_keys)
        with console.status("") as status:

            def on_progress(done: Reencrypted) -> None:
                status.update(f"{done.sessions} sessions looked at, {_sealed(done)} records sealed")

            done = await tools.vault.reencrypt(on_progress)
        if json_output:
            print_json(asdict(done), show_numbers=True)
        else:
            _show_reencrypted(done, keys)
        return LEFT if done.unreadable else 0

    return on_store(config, work)


def new_key(*, json_output: Json = False) -> int:
    """See the help in ``engine.cli``."""
    key = make_key()
    if json_output:
        print_json({"key": key}, show_numbers=True)
    else:
        print(key)
    return 0


def purge(*, config: Config = None, json_output: Json = False) -> int:
    """See the help in ``engine.cli``."""

    async def work(tools: Tools) -> int:
        count = await tools.vault.purge(time.time())
        if json_output:
            print_json({"sessions": count}, show_numbers=True)
        else:
            print(f"gone: {counted(count, 'expired session')}")
        return 0

    return on_store(config, work)


def journal_bytes(settings: Settings) -> int:
    """What waits in the journal for a store that was down; 0 also when there is none."""
    path = Path(settings.store.journal)
    try:
        return path.stat().st_size if settings.store.journal else 0
    except OSError:
        return 0


async def _count(tools: Tools) -> tuple[int, float, float]:
    """How many sessions, when the first of them began, and when the last one was used."""
    count, first_at, last_at, after = 0, 0.0, 0.0, ""
    while True:
        heads = await tools.vault.sessions(after, limit=SCAN_PAGE)
        count += len(heads)
        for head in heads:
            first_at = min(first_at or head.record.started_at, head.record.started_at)
            last_at = max(last_at, head.record.last_at)
        if len(heads) < SCAN_PAGE:
            return count, first_at, last_at
        after = heads[-1].record.session_id


def _sealed(done: Reencrypted) -> int:
    return done.heads + done.messages + done.traces + done.audits


def _show_info(found: dict[str, object]) -> None:
    keys, count = found["encrypted_with"], found["sessions"]
    rows = {
        "kind": found["kind"],
        "where": found["where"],
        "encrypted": f"yes, with {', '.join(keys)}; the first one seals" if isinstance(keys, list) and keys else "no",
        "sessions": count,
    }
    if count:
        rows |= {"first begun": utc(float(str(found["first_at"]))), "last used": utc(float(str(found["last_at"])))}
    rows["journal"] = f"{found['journal_bytes']} bytes wait" if found["journal_bytes"] else "empty"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    Console().print(table)


def _show_reencrypted(done: Reencrypted, keys: KeyRing) -> None:
    seal = f"under {keys.ids[0]}" if keys.ids else "plain, because ENCRYPTION_KEYS is empty"
    print(f"{counted(done.sessions, 'session')} looked at, {counted(_sealed(done), 'record')} newly {seal}")
    notes = {
        "sessions that could not be read before are back": done.restored,
        "sessions that could not be read before are found by their number only": done.aside,
        "records open with none of the keys, and are as they were": done.unreadable,
    }
    for note, count in notes.items():
        if count:
            print(f"{count} {note}")
