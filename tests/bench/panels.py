# SPDX-License-Identifier: Apache-2.0
"""Draws the dashboards of `deploy/grafana` from a Prometheus, as pictures to look at.

Not Grafana: what it shows is where panels lie, which series they have, how these are called and in
which unit. `python -m tests.bench.panels --url http://localhost:9090 --out build/panels`; a PNG for
each where Chromium is installed, else the pages alone.
"""

from __future__ import annotations

import argparse
import html
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes import grafana

_CELL_W, _CELL_H, _GAP = 64, 34, 6
_COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#b877d9", "#e02f44", "#37872d", "#8ab8ff")
_NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "transparent": "none"}
_STYLE = """
body{background:#111217;color:#ccccdc;font:12px sans-serif;margin:0;position:relative}
.p{position:absolute;background:#181b1f;border:1px solid #2c3235;overflow:hidden;padding:4px 6px;box-sizing:border-box}
.r{position:absolute;font-size:15px;font-weight:bold;padding-top:8px}
h3{font-size:13px;margin:0 0 3px;font-weight:500}.e{color:#f2495c;font-size:16px}
.s{display:inline-block;margin-right:18px}.s b{font-size:24px;display:block}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:2px 6px;border-bottom:1px solid #2c3235;white-space:nowrap}
.b{background:#22252b;height:14px;position:relative}.b i{display:block;height:14px}
i.k{display:inline-block;width:10px;height:3px;margin-right:4px;vertical-align:middle}.l{white-space:nowrap}
"""  # noqa: E501 -- a style sheet

Series = tuple[str, list[tuple[float, float]]]


class Drawing:
    """One Prometheus, over a time that ends now."""

    def __init__(self, url: str, seconds: int, interval_s: int) -> None:
        self._url, self._seconds, self._interval = url, seconds, interval_s
        self._now = time.time()

    def _ask(self, path: str, expression: str, **more: float) -> list[dict[str, Any]]:
        asked = grafana.substituted(expression, interval_s=self._interval, range_s=self._seconds)
        words = urllib.parse.urlencode({"query": asked, **more})
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{words}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def page(self, dashboard: Mapping[str, Any]) -> tuple[str, int]:
        """HTML, and its height in pixels."""
        parts, bottom = [], 0
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            bottom = max(bottom, (place["y"] + place["h"]) * _CELL_H)
            style = (
                f"left:{place['x'] * _CELL_W}px;top:{place['y'] * _CELL_H}px;"
                f"width:{place['w'] * _CELL_W - _GAP}px;height:{place['h'] * _CELL_H - _GAP}px"
            )
            title = html.escape(panel["title"])
            if panel["type"] == "row":
                parts.append(f'<div class=r style="{style}">{title}</div>')
            else:
                inner = self._panel(panel)
                parts.append(f'<div class=p style="{style}"><h3>{title}</h3>{inner}</div>')
        return f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>{''.join(parts)}", bottom

    def _panel(self, panel: Mapping[str, Any]) -> str:
        draw = {
            "stat": self._stat,
            "bargauge": self._bars,
            "table": self._table,
            "timeseries": self._lines,
            "state-timeline": self._timeline,
        }[panel["type"]]
        nothing = html.escape(panel["fieldConfig"]["defaults"].get("noValue", ""))
        return draw(panel) or f"<p class=e>{nothing} (no data)</p>"

    def _now_of(self, panel: Mapping[str, Any]) -> list[tuple[str, float]]:
        return [
            (grafana.legend(target["legendFormat"], one["metric"]), float(one["value"][1]))
            for target in panel["targets"]
            for one in self._ask("query", target["expr"])
        ]

    def _series(self, panel: Mapping[str, Any]) -> list[Series]:
        step = max(1, self._seconds // 200)
        return [
            (
                grafana.legend(target["legendFormat"], one["metric"]),
                [(float(at), float(value)) for at, value in one["values"] if value != "NaN"],
            )
            for target in panel["targets"]
            for one in self._ask(
                "query_range",
                target["expr"],
                start=self._now - self._seconds,
                end=self._now,
                step=step,
            )
        ]

    def _stat(self, panel: Mapping[str, Any]) -> str:
        unit = grafana.unit(panel, None)
        return "".join(
            f'<span class=s style="color:{_colour(panel, value)}">{html.escape(name)}'
            f"<b>{shown(value, unit)}</b></span>"
            for name, value in self._now_of(panel)
        )

    def _bars(self, panel: Mapping[str, Any]) -> str:
        unit, rows = grafana.unit(panel, None), self._now_of(panel)
        most = panel["fieldConfig"]["defaults"].get("max") or max((v for _, v in rows), default=1)
        return "".join(
            f"<div>{html.escape(name)} <b>{shown(value, unit)}</b><div class=b><i style="
            f'"width:{100 * min(1, value / (most or 1)):.0f}%;background:{_colour(panel, value)}">'
            "</i></div></div>"
            for name, value in rows
        )

    def _table(self, panel: Mapping[str, Any]) -> str:
        columns = grafana.columns(panel)
        organize = panel["transformations"][-1]["options"]
        labels = [key for key in organize["indexByName"] if not key.startswith("Value")]
        rows: dict[tuple[str, ...], dict[str, float]] = {}
        for target in panel["targets"]:
            for one in self._ask("query", target["expr"]):
                key = tuple(one["metric"].get(label, "") for label in labels)
                rows.setdefault(key, {})[target["refId"]] = float(one["value"][1])
        if not rows:
            return ""
        sort = panel["options"]["sortBy"][0]["displayName"]
        by = next(name for name, column in columns.items() if column == sort)
        ordered = sorted(rows.items(), key=lambda row: -row[1].get(by, -1))
        names = [organize["renameByName"][label] for label in labels] + list(columns.values())
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(label)}</td>" for label in key)
            + "".join(f"<td>{_cell(panel, columns[one], row.get(one))}</td>" for one in columns)
            + "</tr>"
            for key, row in ordered
        )
        return f"<table><tr>{head}</tr>{body}</table>"

    def _lines(self, panel: Mapping[str, Any]) -> str:
        series = [one for one in self._series(panel) if one[1]]
        if not series:
            return ""
        lines = series
        if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
            lines = _stacked(series)
        place, unit = panel["gridPos"], grafana.unit(panel, None)
        width, height = place["w"] * _CELL_W - 30, place["h"] * _CELL_H - 120
        most = max(value for _, points in lines for _, value in points) or 1.0
        least = min(0.0, *(value for _, points in lines for _, value in points))
        paths = []
        for number, (_, points) in enumerate(lines):
            dots = " ".join(
                f"{60 + (at - self._now + self._seconds) / self._seconds * (width - 60):.0f},"
                f"{height - (value - least) / (most - least) * (height - 8):.1f}"
                for at, value in points
            )
            colour = _COLOURS[number % len(_COLOURS)]
            paths.append(f'<polyline points="{dots}" fill=none stroke="{colour}"/>')
        axis = (
            f'<text x=0 y=10 fill="#ccc">{shown(most, unit)}</text>'
            f'<text x=0 y={height} fill="#ccc">{shown(least, unit)}</text>'
        )
        drawn = f"<svg width={width} height={height + 4}>{axis}{''.join(paths)}</svg>"
        legend = "".join(
            f'<div class=l><i class=k style="background:{_COLOURS[n % len(_COLOURS)]}"></i>'
            f"{html.escape(name)} <b>{shown(points[-1][1], unit)}</b></div>"
            for n, (name, points) in enumerate(series)
        )
        return drawn + legend

    def _timeline(self, panel: Mapping[str, Any]) -> str:
        width = panel["gridPos"]["w"] * _CELL_W - 30
        return "".join(
            f"<div>{html.escape(name)}<svg width={width} height=14 style='display:block'>"
            + "".join(
                f"<rect x={(at - self._now + self._seconds) / self._seconds * width:.0f} width="
                f'{width / 150:.0f} height=12 fill="{_colour(panel, value)}"/>'
                for at, value in points
            )
            + "</svg></div>"
            for name, points in self._series(panel)
        )


def _stacked(series: Sequence[Series]) -> list[Series]:
    total: dict[float, float] = {}
    found = []
    for name, points in series:
        for at, value in points:
            total[at] = total.get(at, 0.0) + value
        found.append((name, [(at, total[at]) for at, _ in points]))
    return found


def _cell(panel: Mapping[str, Any], column: str, value: float | None) -> str:
    if value is None:
        return ""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == column:
            for entry in override["properties"]:
                if entry["id"] == "mappings":
                    options = entry["value"][0]["options"].get(f"{value:g}")
                    if options:
                        colour = _NAMED.get(options["color"], "#ccc")
                        return f'<span style="color:{colour}">{html.escape(options["text"])}</span>'
    return shown(value, grafana.unit(panel, column))


def _colour(panel: Mapping[str, Any], value: float) -> str:
    found = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            found = step["color"]
    return _NAMED.get(found, found)


_SCALES: dict[str, list[tuple[float, str]]] = {
    "bytes": [(1 << 10 * n, word) for n, word in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))],
    "s": [(1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"), (86400, "d")],
    "percentunit": [(0.01, "%")],
    "cps": [(1, "/s")],
}
_SCALES["binBps"] = [(size, f"{word}/s") for size, word in _SCALES["bytes"]]


def shown(value: float, unit: str) -> str:
    """As Grafana words it, roughly."""
    if value == 0 or unit not in _SCALES:
        return f"{value:.4g}"
    scale = _SCALES[unit]
    size, word = next((one for one in reversed(scale) if one[0] <= abs(value)), scale[0])
    return f"{value / size:.3g} {word}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", required=True, help="of the Prometheus")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--seconds", type=int, default=300, help="that are shown (default 300)")
    parser.add_argument("--interval", type=int, default=15, help="for rates, in seconds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for dashboard in grafana.dashboards():
        drawing = Drawing(options.url, options.seconds, options.interval)
        page, height = drawing.page(dashboard)
        path = options.out / f"{dashboard['uid']}.html"
        path.write_text(page)
        if chromium := shutil.which("chromium"):
            subprocess.run(
                [
                    *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                    f"--window-size={24 * _CELL_W},{height}",
                    f"--screenshot={path.with_suffix('.png')}",
                    path.resolve().as_uri(),
                ],
                check=True,
                capture_output=True,
                timeout=120,
            )


if __name__ == "__main__":
    main()
