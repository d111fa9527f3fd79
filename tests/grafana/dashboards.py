"""The shipped dashboards as values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GRAFANA = Path(__file__).parents[2] / "grafana"

Json = dict[str, Any]


def load_all() -> dict[str, Json]:
    """File name -> dashboard."""
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def panels(dashboard: Json) -> Iterator[Json]:
    """Every panel, those inside rows included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries(dashboard: Json) -> list[tuple[str, str]]:
    """Panel title and PromQL, variables as they stand."""
    return [(p["title"], target["expr"]) for p in panels(dashboard) for target in p.get("targets", ())]


def filled_in(expr: str, *, rate_interval: str, since: str) -> str:
    """The query as Grafana sends it with all jobs and instances chosen."""
    for name, value in {
        "$__rate_interval": rate_interval,
        "$__range": since,
        "$job": ".+",
        "$instance": ".+",
    }.items():
        expr = expr.replace(name, value)
    if "$" in expr:
        raise ValueError(f"a variable is left in {expr}")
    return expr
