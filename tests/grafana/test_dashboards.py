"""Rules that every shipped dashboard keeps; most are those of grafana/dashboard-linter."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from typing import Any

import pytest

from engine.observe.families import FAMILIES, PREFIX, FamilyType
from tests.grafana.dashboards import GRAFANA, Json, filled_in, load_all, panels, queries

DASHBOARDS = load_all()
KNOWN = {PREFIX + family.name: family for family in FAMILIES}
METRIC = re.compile(r"\b(?:offhook|process|python)_\w+|\bALERTS\b")
SELECTOR = re.compile(r"\b(?P<name>offhook_\w+|ALERTS)(?P<labels>\{[^}]*\})?")
COUNTED = re.compile(r"\b(?:rate|irate|increase)\((?P<name>\w+)\{[^}]*\}\[\$__(?:rate_interval|range)\]\)")

PANELS = [
    pytest.param(dashboard, panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in panels(dashboard)
]
EXPRESSIONS = [
    pytest.param(expr, id=f"{name}: {title}: {number}")
    for name, dashboard in DASHBOARDS.items()
    for number, (title, expr) in enumerate(queries(dashboard))
]


@pytest.fixture(params=DASHBOARDS.values(), ids=list(DASHBOARDS))
def dashboard(request: pytest.FixtureRequest) -> Json:
    found: Json = request.param
    return found


def base_name(metric: str) -> str:
    """The family of a series: ``x_seconds_bucket`` -> ``x_seconds``."""
    for suffix in ("_bucket", "_sum", "_count"):
        if (family := KNOWN.get(metric.removesuffix(suffix))) and family.type is FamilyType.HISTOGRAM:
            return metric.removesuffix(suffix)
    return metric


def test_there_is_an_overview_and_one_of_memory_and_store() -> None:
    assert set(DASHBOARDS) >= {"overview.json", "memory.json"}


def test_a_dashboard_is_classic_schema_42_described_tagged_and_not_editable(dashboard: Json) -> None:
    assert dashboard["schemaVersion"] == 42
    assert dashboard["editable"] is False
    assert dashboard["description"]
    assert dashboard["tags"] == ["offhook"]
    assert re.fullmatch(r"offhook-[a-z-]+", dashboard["uid"])
    assert "id" not in dashboard, "the database's, not the file's"


def test_uids_are_unique() -> None:
    uids = [dashboard["uid"] for dashboard in DASHBOARDS.values()]

    assert len(set(uids)) == len(uids)


def test_data_source_job_and_instance_can_be_chosen(dashboard: Json) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}

    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        variable = variables[name]
        assert (variable["type"], variable["datasource"]["uid"]) == ("query", "${datasource}")
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")
        assert variable["refresh"] == 2, "values are asked for anew when the time range changes"
        assert {base_name(metric) for metric in METRIC.findall(variable["definition"])} <= set(KNOWN)


def test_panel_ids_are_unique(dashboard: Json) -> None:
    ids = [panel["id"] for panel in panels(dashboard)]

    assert len(set(ids)) == len(ids)


def test_panels_lie_on_the_grid_and_not_on_each_other(dashboard: Json) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        own = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & own, panel["title"]
        cells |= own


@pytest.mark.parametrize(("dashboard_of", "panel"), PANELS)
def test_a_panel_says_what_it_shows_in_which_unit_from_the_chosen_source(
    dashboard_of: Json, panel: dict[str, Any]
) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters))
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["legendFormat"]
        assert target["instant"] != target["range"]


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_a_query_asks_for_metrics_that_the_engine_has(expr: str) -> None:
    names = set(METRIC.findall(expr)) - {"ALERTS"}

    assert names or "ALERTS" in expr
    assert {base_name(name) for name in names} <= set(KNOWN)


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_a_query_keeps_to_the_chosen_jobs_and_instances(expr: str) -> None:
    for selector in SELECTOR.finditer(expr):
        assert 'job=~"$job"' in (selector["labels"] or ""), selector[0]
        assert 'instance=~"$instance"' in (selector["labels"] or ""), selector[0]


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_a_query_uses_labels_that_the_family_has(expr: str) -> None:
    for selector in SELECTOR.finditer(expr):
        used = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector["labels"] or "")) - {"job", "instance"}
        if selector["name"] == "ALERTS":
            assert used <= {"alertname", "alertstate", "severity"}
        else:
            assert used <= set(KNOWN[base_name(selector["name"])].labels), selector[0]


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_counters_are_shown_as_rates_over_an_interval_that_fits_the_scrapes(expr: str) -> None:
    counted = [match["name"] for match in COUNTED.finditer(expr)]
    for metric in set(METRIC.findall(expr)) - {"ALERTS"}:
        is_counter = base_name(metric) != metric or KNOWN[metric].type is FamilyType.COUNTER
        assert (metric in counted) == is_counter, metric
    assert expr.count("[") == len(counted), "no interval of its own"


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_no_variable_is_left_once_a_query_is_filled_in(expr: str) -> None:
    assert "$" not in filled_in(expr, rate_interval="1m", since="1h")


def test_only_the_families_with_exemplars_ask_for_them() -> None:
    for dashboard in DASHBOARDS.values():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                carries = re.search(r"offhook_(turn|barge_in)_latency_seconds_bucket", target["expr"]) is not None
                assert target.get("exemplar", False) == carries, panel["title"]


def test_every_alert_has_a_severity_a_summary_a_runbook_and_a_test() -> None:
    rules = (GRAFANA / "rules" / "offhook.yml").read_text("utf-8")
    tests = (GRAFANA / "rules" / "offhook_test.yml").read_text("utf-8")
    alerts = re.split(r"^ +- alert: ", rules, flags=re.MULTILINE)[1:]

    assert {alert.split()[0] for alert in alerts} >= {
        "ResourceLeak",
        "OrphanedResources",
        "SilentCalls",
        "DeadAir",
        "StoreErrors",
        "StoreBacklog",
        "StoreLost",
        "ContextViolations",
        "WebhooksFailing",
        "RecordsUnreadable",
    }
    for alert in alerts:
        for part in ("severity: ", "summary: ", "runbook: "):
            assert part in alert, alert
        assert f"alertname: {alert.split()[0]}\n" in tests
    assert {base_name(metric) for metric in re.findall(r"offhook_\w+", rules)} <= set(KNOWN)


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "rules/offhook.yml"),
        ("test", "rules", "rules/offhook_test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_passes_the_rules_their_tests_and_the_scrape_config(command: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("OFFHOOK_REQUIRE_SERVERS") == "1":
            pytest.fail("promtool is missing")
        pytest.skip("promtool is missing (Debian: apt install prometheus)")

    verdict = subprocess.run([promtool, *command], cwd=GRAFANA, capture_output=True, text=True, timeout=60, check=False)

    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
