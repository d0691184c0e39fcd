# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus (Debian's) on loopback: scrapes what it is told, with our rules, and answers
queries. And promtool.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy/prometheus"
RULES = DEPLOY / "rules.yaml"
EXAMPLE = DEPLOY / "prometheus.yaml"
LIMIT_S = 60.0
#: A scrape has as long to answer.
SCRAPE_S = 2

Sample = tuple[dict[str, str], float]


def promtool(*arguments: str, text: str | None = None) -> tuple[int, str]:
    """Exit code, and all that it said."""
    answer = subprocess.run(
        ["promtool", *arguments],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return answer.returncode, answer.stdout


class Prometheus:
    """Runs until it is stopped. Its configuration is the example's job for machines, with these
    targets, scraped and evaluated every other second.
    """

    def __init__(self, directory: Path, targets: Sequence[Mapping[str, Any]]) -> None:
        directory.mkdir(exist_ok=True)
        self._log = directory / "log"
        example = yaml.safe_load(EXAMPLE.read_text())
        job = next(job for job in example["scrape_configs"] if "file_sd_configs" in job)
        (directory / "targets.yaml").write_text(yaml.safe_dump([dict(one) for one in targets]))
        job["file_sd_configs"] = [{"files": [str(directory / "targets.yaml")]}]
        (directory / "rules.yaml").write_text(
            RULES.read_text().replace("interval: 15s", f"interval: {SCRAPE_S}s")
        )
        configuration = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [str(directory / "rules.yaml")],
            "scrape_configs": [job],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    "--storage.tsdb.retention.time=1d",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            self.url = f"http://{self._address()}"
        except BaseException:
            self.stop()
            raise

    def _address(self) -> str:
        def listening() -> list[str]:
            return re.findall(r'msg="Listening on" address=(\S+)', self._log.read_text())

        self.until(lambda: bool(listening()) and "Server is ready" in self._log.read_text())
        return listening()[0]

    def until(
        self, true: Callable[[], bool], timeout_s: float = LIMIT_S, *, what: str = ""
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not true():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, what or self._log.read_text()[-2000:]
            time.sleep(0.2)

    def get(self, path: str, **parameters: str | float) -> Any:
        """`data` of an answer of the HTTP API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[Sample]:
        """What it is now."""
        found = self.get("query", query=expression)
        assert found["resultType"] == "vector", expression
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def query_range(
        self, expression: str, *, seconds: float, step_s: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """How it came to be so."""
        now = time.time()
        found = self.get("query_range", query=expression, start=now - seconds, end=now, step=step_s)
        return [
            (one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in found["result"]
        ]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)
