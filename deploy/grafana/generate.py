# SPDX-License-Identifier: Apache-2.0
"""Generates the dashboards beside this script from `sources/`; `--check` only says whether they are
up to date.

A source says what is asked and shown; everything that Grafana wants besides is here. In a query
`@` in a selector stands for the variables of every dashboard, and the `words` of a source for what
is said there. A table has one query for each column, joined by its `labels` (`^` in the queries);
`rows` chooses the rows. Knows no metric but those that name the choices.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path("deploy/grafana/sources")
DASHBOARDS = Path("deploy/grafana")
WIDTH = 24
#: By kind of panel, in units of Grafana's grid.
HEIGHTS = {"stat": 4, "timeseries": 8, "table": 9, "bargauge": 9, "state-timeline": 8}
#: Labels that a variable selects by; the first three are those of every dashboard.
COMMON = ("cluster", "job", "node")
QUERIES = {
    "cluster": "label_values(nodeshare_agent_info, cluster)",
    "job": 'label_values(nodeshare_agent_info{cluster=~"$cluster"}, job)',
    "node": 'label_values(nodeshare_agent_info{cluster=~"$cluster", job=~"$job"}, node)',
    "resource": "label_values(nodeshare_gpu_units{@}, resource)",
    "mount": "label_values(nodeshare_mount_up{@}, mount)",
    "agent": 'label_values(nodeshare_agent_info{cluster=~"$cluster", job=~"$job"}, agent)',
}
TITLES = {"job": "Release"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

#: What all dashboards, variables, and panels of a kind have in common, in Grafana's words.
LOOKS = yaml.safe_load((ROOT / DASHBOARDS / "looks.yaml").read_text())

Document = dict[str, Any]


def read(path: Path) -> Document:
    """A source, with its `words` in their places."""
    text = path.read_text()
    words: dict[str, str] = yaml.safe_load(text).get("words", {})
    for word, meaning in words.items():
        # Not where it is explained; and a word may begin as another one does.
        text = re.sub(rf"{re.escape(word)}(?![:\w])", meaning.replace("\\", r"\\"), text)
    found: Document = yaml.safe_load(text)
    return found


def dashboard(source: Mapping[str, Any]) -> Document:
    """The whole document, as Grafana imports it."""
    variables = [_variable(name) for name in [*COMMON, *source.get("variables", ())]]
    return {
        "uid": source["uid"],
        "title": source["title"],
        "description": source["description"],
        **LOOKS["dashboard"],
        "templating": {"list": [LOOKS["datasource"], *variables]},
        "panels": list(_panels(source)),
    }


def _variable(name: str) -> Document:
    query = _selected(QUERIES[name], COMMON)
    return {
        "name": name,
        "label": TITLES.get(name, name.capitalize()),
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor"},
        **LOOKS["variable"],
    }


def _panels(source: Mapping[str, Any]) -> Iterator[Document]:
    """From left to right, row by row. Ids count up, so that links to a panel stay."""
    number, y = 0, 0
    for row in source["rows"]:
        number += 1
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {
            "type": "row",
            "id": number,
            "title": row["title"],
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        x, y, height = 0, y + 1, 0
        for panel in row["panels"]:
            if x + panel["width"] > WIDTH:
                x, y, height = 0, y + height, 0
            number += 1
            tall = panel.get("height", HEIGHTS[panel["kind"]])
            place = {"x": x, "y": y, "w": panel["width"], "h": tall}
            yield {**_panel(panel), "id": number, "gridPos": place}
            x, height = x + panel["width"], max(height, tall)
        y += height


def _panel(panel: Mapping[str, Any]) -> Document:
    table = panel["kind"] == "table"
    found: Document = {
        "type": panel["kind"],
        "title": panel["title"],
        "description": panel["description"],
        "datasource": DATASOURCE,
        "targets": _columns(panel) if table else _targets(panel),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }
    if table:
        found["fieldConfig"]["overrides"] = _column_units(panel)
        found["transformations"] = _transformations(panel)
    return found


def _targets(panel: Mapping[str, Any]) -> list[Document]:
    moving = panel["kind"] in ("timeseries", "state-timeline")
    return [
        _target(chr(ord("A") + number), expression, instant=not moving)
        | {"legendFormat": legend, "range": moving}
        for number, (legend, expression) in enumerate(panel["queries"].items())
    ]


def _target(name: str, expression: str, *, instant: bool) -> Document:
    return {
        "refId": name,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": _selected(" ".join(expression.split()), COMMON),
        "instant": instant,
    }


def _columns(panel: Mapping[str, Any]) -> list[Document]:
    """A query each. Only those rows that `rows` has, if there may be very many."""
    labels = ", ".join(panel["labels"])
    rows = f"and on (^) {panel['rows']}" if "rows" in panel else ""
    queries = [f"{column['expr']} {rows}".replace("^", labels) for column in panel["columns"]]
    return [
        _target(chr(ord("A") + number), query, instant=True) | {"format": "table", "range": False}
        for number, query in enumerate(queries)
    ]


def _selected(expression: str, variables: Sequence[str]) -> str:
    choice = ", ".join(f'{name}=~"${name}"' for name in variables)
    return re.sub(r"(?<=[{,])\s*@", choice, expression)


def _defaults(panel: Mapping[str, Any]) -> Document:
    steps = [{"color": "green", "value": None}]
    if "thresholds" in panel:
        steps = [
            {"color": color, "value": None if number == 0 else value}
            for number, (value, color) in enumerate(panel["thresholds"].items())
        ]
    found: Document = {
        "unit": panel.get("unit", "short"),
        "noValue": panel.get("no_value", "-"),
        "mappings": [_mapping(panel["values"])] if "values" in panel else [],
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if _is_coloured(panel) else "palette-classic"},
        "custom": _custom(panel),
    }
    return found | {key: panel[key] for key in ("min", "max", "decimals") if key in panel}


def _is_coloured(panel: Mapping[str, Any]) -> bool:
    return bool(panel["kind"] != "timeseries")


def _mapping(values: Mapping[str, Sequence[str]]) -> Document:
    options = {
        str(value): {"text": text, "color": color, "index": number}
        for number, (value, (text, color)) in enumerate(values.items())
    }
    return {"type": "value", "options": options}


def _column_units(panel: Mapping[str, Any]) -> list[Document]:
    """By the name that a column gets."""
    found = []
    for column in panel["columns"]:
        properties = [{"id": "unit", "value": column.get("unit", "short")}]
        if column.get("bar"):
            properties += [
                {"id": "custom.cellOptions", "value": {"type": "gauge", "mode": "basic"}},
                {"id": "min", "value": 0},
                {"id": "max", "value": 1},
            ]
        if "values" in column:
            properties.append({"id": "mappings", "value": [_mapping(column["values"])]})
            properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
        matcher = {"id": "byName", "options": column["name"]}
        found.append({"matcher": matcher, "properties": properties})
    return found


def _transformations(panel: Mapping[str, Any]) -> list[Document]:
    columns = [column["name"] for column in panel["columns"]]
    # Grafana calls the number of the only query Value, those of several Value #A, Value #B, ...
    several = [f"Value #{chr(ord('A') + number)}" for number in range(len(columns))]
    keys = ["Value"] if len(columns) == 1 else several
    names = dict(zip(keys, columns, strict=True))
    order = {name: number for number, name in enumerate([*panel["labels"], *names])}
    shown = {label: TITLES.get(label, label.capitalize()) for label in panel["labels"]}
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True, "__name__": True},
                "indexByName": order,
                "renameByName": shown | names,
            },
        },
    ]


def _options(panel: Mapping[str, Any]) -> Document:
    options: Document = dict(LOOKS[panel["kind"]]["options"])
    if panel["kind"] == "table":
        options["sortBy"] = [{"displayName": panel["sort"], "desc": True}]
    return options


def _custom(panel: Mapping[str, Any]) -> Document:
    custom: Document = dict(LOOKS[panel["kind"]].get("custom", {}))
    if panel["kind"] == "timeseries":
        bars, stack = "bars" in panel, "stack" in panel
        custom["drawStyle"] = "bars" if bars else "line"
        custom["fillOpacity"] = 60 if bars else 30 if stack else 8
        custom["stacking"] = {"group": "A", "mode": "normal" if stack else "none"}
        custom["thresholdsStyle"] = {"mode": "line" if "thresholds" in panel else "off"}
    return custom


def text(source: Mapping[str, Any]) -> str:
    """A dashboard as it is written down."""
    return json.dumps(dashboard(source), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """0: done, or up to date; 1: a dashboard is not what its source says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    options = parser.parse_args(arguments)
    wanted = {
        f"{source.stem}.json": text(read(source))
        for source in sorted((options.root / SOURCES).glob("*.yaml"))
    }
    folder = options.root / DASHBOARDS
    present = {path.name: path.read_text() for path in folder.glob("*.json")}
    if options.check:
        if wanted != present:
            print(f"{DASHBOARDS} is out of date; run: make docs", file=sys.stderr)
        return int(wanted != present)
    for name in present.keys() - wanted.keys():
        (folder / name).unlink()
    for name, content in wanted.items():
        (folder / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
