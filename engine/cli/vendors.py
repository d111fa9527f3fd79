"""``offhook vendors``: what there is to hear, think and speak with, and what each kind takes in the settings."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

from cyclopts import Parameter

from engine.assembly.kinds import describe_kind, kinds_of_vendors
from engine.cli.tools import Json
from engine.cli.usage import NotThere


def vendors(
    kind: Annotated[str, Parameter(help="Show what this kind takes in [vendors.NAME].")] = "",
    /,
    *,
    json_output: Json = False,
) -> int:
    """See the help in ``engine.cli``."""
    kinds = kinds_of_vendors()
    if kind and kind not in kinds:
        raise NotThere(f"there is no kind of vendor {kind!r}; there are: {', '.join(kinds)}")
    found = [describe_kind(name) for name in ([kind] if kind else kinds)]
    if json_output:
        print(json.dumps(found, indent=2))
    elif kind:
        _show_one(found[0])
    else:
        _show_all(found)
    return 0


def _show_all(found: list[dict[str, Any]]) -> None:
    print(f"{'ROLE':<16} {'KIND':<22} KEY")
    for vendor in found:
        key = vendor["key_variable"] or "none needed"
        is_set = "" if not vendor["key_variable"] else " (set)" if vendor["has_key"] else " (not set)"
        print(f"{vendor['role']:<16} {vendor['kind']:<22} {key}{is_set}")
    print('\nName one, or several that take over from one another: [agents.desk] transcriber = ["deepgram", "scribe"]')
    print("What a kind takes: offhook vendors KIND")


def _show_one(vendor: dict[str, Any]) -> None:
    print(f"# {vendor['role']}; key: {vendor['key_variable'] or 'none needed'}\n[vendors.{vendor['kind']}]")
    for setting in vendor["settings"]:
        if setting["about"]:
            print(textwrap.fill(setting["about"], 110, initial_indent="# ", subsequent_indent="# "))
        default = setting["default"]
        is_open = default is None or default == "must be given" or isinstance(default, dict)
        value = "" if is_open else json.dumps(default, ensure_ascii=False)
        note = "  # must be given" if default == "must be given" else ""
        print(f"{'' if note else '# '}{setting['name']} = {value or '...'}{note}")
