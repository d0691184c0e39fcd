# SPDX-License-Identifier: Apache-2.0
"""What Grafana would ask for the dashboards of `deploy/grafana`. Knows no Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy/grafana"


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel. `expression` as it is written; `unit` is that of what it shows, and
    `column` the name of its column in a table.
    """

    dashboard: str
    panel: str
    name: str
    expression: str
    legend: str
    instant: bool
    unit: str
    column: str | None

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel} / {self.column or self.legend}: {self.expression}"


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets(dashboard: Mapping[str, Any]) -> Iterator[Target]:
    for panel in panels(dashboard):
        names = columns(panel)
        for one in panel["targets"]:
            column = names.get(one["refId"])
            yield Target(
                dashboard=dashboard["title"],
                panel=panel["title"],
                name=one["refId"],
                expression=one["expr"],
                legend=one.get("legendFormat", ""),
                instant=one["instant"],
                unit=unit(panel, column),
                column=column,
            )


def columns(panel: Mapping[str, Any]) -> dict[str, str]:
    """Query of a table → name of its column."""
    found = {}
    for transformation in panel.get("transformations", ()):
        for key, name in transformation["options"].get("renameByName", {}).items():
            if key == "Value":
                found["A"] = name
            elif key.startswith("Value #"):
                found[key.removeprefix("Value #")] = name
    return found


def unit(panel: Mapping[str, Any], column: str | None) -> str:
    """Of a panel, or of a column of it."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == column:
            for entry in override["properties"]:
                if entry["id"] == "unit":
                    return str(entry["value"])
    return str(panel["fieldConfig"]["defaults"]["unit"])


def substituted(
    expression: str, *, interval_s: int, range_s: int, chosen: Mapping[str, str] | None = None
) -> str:
    """With Grafana's own words in their places, and all variables at "All" unless `chosen`."""
    words = {"__rate_interval": f"{interval_s}s", "__range": f"{range_s}s", **(chosen or {})}
    return re.sub(r"\$(\w+)", lambda match: words.get(match[1], ".*"), expression)


def legend(template: str, labels: Mapping[str, str]) -> str:
    """`{{pod}} on {{node}}`; a label that is not there is empty."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), template)
