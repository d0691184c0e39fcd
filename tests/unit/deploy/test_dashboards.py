# SPDX-License-Identifier: Apache-2.0
"""Dashboards are what their sources say, ask for what agents expose, and show it in its unit."""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import grafana
from tests.fakes.prometheus import RULES

ROOT = Path(__file__).parents[3]
DASHBOARDS = {dashboard["uid"]: dashboard for dashboard in grafana.dashboards()}
TARGETS = [target for dashboard in DASHBOARDS.values() for target in grafana.targets(dashboard)]
#: What Prometheus itself adds, what its client library exposes, and kube-state-metrics.
OTHERS = {
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
    "kube_pod_container_resource_requests",
    "kube_pod_status_scheduled",
}
METRIC = re.compile(r"\b(?:nodeshare|process|scrape|kube)_\w+|\bup\b")


@pytest.fixture(scope="module")
def generator() -> Any:
    """`deploy/grafana/generate.py`: a program, in no package."""
    path = grafana.FOLDER / "generate.py"
    spec = importlib.util.spec_from_file_location("generate_dashboards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of series."""
    found = set(OTHERS)
    for line in (ROOT / "tests/fixtures/exposition.txt").read_text().splitlines():
        _, kind, name, text = line.split(" ", 3)
        if kind == "TYPE":
            found |= {f"{name}_{part}" for part in ("bucket", "count", "sum")}
            found -= set() if text == "histogram" else {f"{name}_bucket"}
            found.add(name)
    return found


def metrics(expression: str) -> set[str]:
    """Names in it; label names and values are left out."""
    bare = re.sub(r'"[^"]*"|\b(?:by|on|without|group_left|group_right) \([^)]*\)', "", expression)
    return set(METRIC.findall(bare))


def test_they_are_up_to_date(generator: Any) -> None:
    assert generator.main(["--check"]) == 0, "make docs"


def test_what_is_out_of_date_is_told_and_made_anew(generator: Any, tmp_path: Path) -> None:
    sources = tmp_path / generator.SOURCES
    sources.mkdir(parents=True)
    source = (grafana.FOLDER / "sources/nodeshare-views.yaml").read_text()
    (sources / "nodeshare-views.yaml").write_text(source)
    (tmp_path / "deploy/grafana/left-over.json").write_text("{}")
    assert generator.main(["--check", "--root", str(tmp_path)]) == 1
    assert generator.main(["--root", str(tmp_path)]) == 0
    assert generator.main(["--check", "--root", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "deploy/grafana/nodeshare-views.json").read_text())
    assert made == DASHBOARDS["nodeshare-views"]


def test_links_to_them_stay() -> None:
    assert set(DASHBOARDS) == {
        "nodeshare-gpu",
        "nodeshare-mounts",
        "nodeshare-views",
        "nodeshare-agents",
    }


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_grafana_can_show_it(uid: str) -> None:
    dashboard = DASHBOARDS[uid]
    assert dashboard["schemaVersion"] >= 39
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names[:4] == ["datasource", "cluster", "job", "node"]
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    for variable in dashboard["templating"]["list"][1:]:
        assert variable["allValue"] == ".*", "series without this label too"
        assert variable["datasource"]["uid"] == "${datasource}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in grafana.panels(dashboard):
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        names = [target["refId"] for target in panel["targets"]]
        assert len(names) == len(set(names)), panel["title"]
    used = set(re.findall(r"\$(\w+)", json.dumps(dashboard)))
    known = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert used <= known | {"__rate_interval", "__range", "__all"}


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_panels_lie_beside_each_other(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[uid]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    places = [panel["gridPos"]["y"] for panel in DASHBOARDS[uid]["panels"]]
    assert all(one <= other for one, other in pairwise(places))


def test_queries_ask_for_what_there_is(exposed: set[str]) -> None:
    for target in TARGETS:
        assert metrics(target.expression), target
        assert metrics(target.expression) - exposed == set(), target
        assert 'cluster=~"$cluster", job=~"$job", node=~"$node"' in target.expression, target


def test_units_are_those_of_the_metrics() -> None:
    wrong = [
        f"{unit(target.expression)}, not {target.unit}: {target}"
        for target in TARGETS
        if target.unit != unit(target.expression)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_a_hundred_nodes_do_not_flood_a_panel(uid: str) -> None:
    """What has a line for each node, pod or namespace shows the first of them."""
    for panel in grafana.panels(DASHBOARDS[uid]):
        rows = panel.get("transformations", [{}])[-1].get("options", {}).get("indexByName", {})
        for target in panel["targets"]:
            lines = {*re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")), *rows}
            if lines & {"node", "pod", "namespace"}:
                assert re.search(r"\b(topk|bottomk)\(", target["expr"]), target


def test_rules_ask_for_what_there_is(exposed: set[str]) -> None:
    document = yaml.safe_load(RULES.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            assert metrics(rule["expr"]) - exposed == set(), rule


def test_units_of_invented_queries() -> None:
    """The check above can fail."""
    assert unit("sum(rate(x_bytes_total[5m]))") == "binBps"
    assert unit("rate(process_cpu_seconds_total[5m])") == "percentunit"
    assert unit("x_used_bytes{a} / x_size_bytes") == "percentunit"
    assert unit("time() - x_timestamp_seconds") == "s"
    assert unit("sum(x_bytes == bool 0)") == "short"
    assert unit("x_units * on (resource) x_unit_bytes") == "bytes"


def unit(expression: str) -> str:
    """Grafana's word for the unit of such a query. What comes after `and` only chooses."""
    expression = expression.partition(" and on (")[0]
    names = " ".join(sorted(set(re.findall(r"\b\w+_\w+\b", re.sub(r'"[^"]*"', "", expression)))))
    rules = (
        (r"histogram_quantile\(.*_seconds_bucket", "s"),
        (r"\b(count|increase|changes)( by \([^)]*\) )?\(", "short"),
        (r"_seconds_total\b.*\[", "percentunit"),
        (r"rate\(.*_bytes_total\b", "binBps"),
        (r"\brate\(", "cps"),
        (r"[\w})] / [(\w]", "percentunit"),
        (r"== bool|> bool", "short"),
    )
    for pattern, found in rules:
        if re.search(pattern, expression):
            return found
    for suffix, found in (("bytes", "bytes"), ("seconds", "s"), ("ratio", "percentunit")):
        if re.search(rf"_{suffix}\b", names):
            return found
    return "short"
