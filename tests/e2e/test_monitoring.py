# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the agents of the demonstration: every panel shows something, every
rule gives a value, no alert fires, and no scrape has a gap.

What happens seldom is made to happen first: a client is killed, a container takes more than its
limit, a GPU reports an error, a token is renewed, scratch is looked through.
"""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from agents.hostfs import HostFs
from agents.standin.up import clean_up
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes import grafana, openid_provider
from tests.fakes.demonstration import Up
from tests.fakes.openid_provider import OpenIdProvider
from tests.fakes.prometheus import SCRAPE_S, Prometheus, promtool

AGENTS = ("gpu_plugin", "fuse_mounter", "lxcfs_helper")
NODE = "demonstration"
#: Who gets tokens; nobody of this machine.
USER = 64321
GIB = 1 << 30
#: kube-state-metrics is not here: what is made of its metrics is tested by promtool alone.
FROM_OTHERS = {"resource:nodeshare_gpu_pods_waiting:count"}
#: Of the machine that runs the tests, not of the demonstration.
OF_THE_MACHINE = {"NodeshareMountFull", "NodeshareMountInodesLow"}

#: The first run over scratch comes half a minute to two minutes after the agent's start.
OF_A_SCRATCH_RUN = re.compile(
    "nodeshare_mount_scratch_(due|announced|scanned|oldest|last_run|duration|skipped)_"
)
#: Of containers with our seccomp profiles, which the demonstration has not. 0 would be a lie.
OF_AFFINITY = re.compile("nodeshare_view_affinity_(call|held)_seconds_bucket")

pytestmark = pytest.mark.timeout(600)


class Scene:
    """The demonstration with more configured, and Prometheus beside it."""

    def __init__(self, up: Up, provider: OpenIdProvider, work: Path) -> None:
        self.up, self._work = up, work
        up.until(lambda: all(bool(self._document(agent).get("ready")) for agent in AGENTS))
        up.until(lambda: len(self._containers()) == 3 and self._all_hold_memory())
        self._configure(provider)
        self.prometheus = Prometheus(work / "prometheus", [*map(self._target, AGENTS)])

    def _document(self, agent: str) -> dict[str, Any]:
        return dict(self.up.status().get(agent, {}))

    def _containers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._document("lxcfs_helper").get("containers", [])
        return [row for row in rows if "attached" in row["views"].values()]

    def _all_hold_memory(self) -> bool:
        rows = self._document("gpu_plugin").get("containers", [])
        return [(row.get("used") or 0) > 0 for row in rows] == [True] * 3

    def _target(self, agent: str) -> dict[str, Any]:
        address = self._document(agent)["metrics"].removeprefix("http://")
        return {"targets": [address], "labels": {"node": NODE, "agent": agent}}

    def _configure(self, provider: OpenIdProvider) -> None:
        """A shared folder, scratch, tokens, and a root for lxcfs's users."""
        path = self.up.directory / "config.yaml"
        configuration = yaml.safe_load(path.read_text())
        logins, scratch = self._work / "logins", self._work / "scratch"
        logins.mkdir()
        scratch.mkdir()
        (scratch / "old").write_text("of no use")
        os.utime(scratch / "old", (0, 0))
        entry = {"uid": USER, **provider.login("ada", 2.0)}
        (logins / "ada.json").write_text(json.dumps(entry))
        mounter = configuration["fuse_mounter"]
        mounter["mounts"][0]["publish"] = [{"path": "folders/all"}]
        mounter["scratch"] = [{"directory": str(scratch), "older_than": "30d", "users": False}]
        mounter["credentials"] = {
            "directory": str(self.up.directory / "run/credentials"),
            "sources": [{"name": "hub", "directory": str(logins)}],
            "providers": [provider.entry()],
            "tokens": [
                {
                    "name": "bearer",
                    "source": "hub",
                    "provider": "iam",
                    "file": "bearer.token",
                    "prove": {"mount": "shared"},
                }
            ],
        }
        configuration["lxcfs_helper"]["compat_root"] = str(self.up.directory / "lxcfs")
        path.write_text(yaml.safe_dump(configuration))
        # That takes a start of this agent; `up` sees to it.
        before = self._document("lxcfs_helper")["metrics"]
        self._process("view").kill()
        self.up.until(lambda: self._document("lxcfs_helper").get("metrics", before) != before)
        self.up.until(lambda: len(self._containers()) == 3)

    def _process(self, noun: str) -> psutil.Process:
        children = psutil.Process(self.up.process.pid).children()
        return next(one for one in children if one.cmdline()[3:5] == ["run", noun])

    def until(self, expression: str) -> None:
        """Prometheus has a sample of it."""
        self.prometheus.until(lambda: bool(self.prometheus.query(expression)), what=expression)

    # ----- what happens seldom

    def lose_the_mount(self) -> None:
        client = self.up.client()
        assert client is not None
        os.kill(client, signal.SIGKILL)

    def exceed_a_limit(self) -> None:
        """For as long as it takes to be warned: then nobody is ended. And a GPU tells an error."""
        row = next(row for row in self._document("gpu_plugin")["containers"] if row["pod"] == "ada")
        device, path = row["device"], self.up.directory / "gpu-state"
        held = [line.split() for line in path.read_text().splitlines()]
        pid = int(next(words[2] for words in reversed(held) if words[1] == device))
        state = SimulatedState(path)
        state.hold(device, pid, 12 * GIB)
        self.until('nodeshare_gpu_enforcement_actions_total{action="warn",outcome="done"} > 0')
        state.hold(device, pid, 6 * GIB)
        state.xid(device, 13)

    def read_as_lxcfs_users_do(self) -> None:
        self.up.until((self.up.directory / "lxcfs/proc/meminfo").exists)
        assert "MemTotal" in (self.up.directory / "lxcfs/proc/meminfo").read_text()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    work = tmp_path_factory.mktemp("monitoring")
    with ExitStack() as ending:
        provider = openid_provider.started(work, life_s=3600.0)
        ending.callback(provider.stop)
        # Not below tmp_path: the name of a socket may have 107 bytes.
        parent = ending.enter_context(tempfile.TemporaryDirectory(prefix="nodeshare-"))
        up = Up(Path(parent) / "node", work / "output")
        ending.callback(clean_up, up.directory, HostFs())
        ending.callback(up.process.wait, 40)
        ending.callback(up.process.send_signal, signal.SIGTERM)
        found = Scene(up, provider, work)
        ending.callback(found.prometheus.stop)
        yield found


@pytest.fixture(scope="module")
def eventful(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """With all that happens seldom."""
    quiet = scene.prometheus
    quiet.until(lambda: len(quiet.query("count_over_time(up[1m]) >= 3")) == len(AGENTS))
    # Not even one that would have to last: but what was configured just now may take a moment.
    quiet.until(
        lambda: {one["alertname"] for one, _ in quiet.query("ALERTS")} <= OF_THE_MACHINE,
        what="an alert is active although nothing happened",
    )
    scene.read_as_lxcfs_users_do()
    scene.lose_the_mount()
    scene.exceed_a_limit()
    for expression in (
        "nodeshare_mount_gap_seconds",
        "nodeshare_gpu_reaction_seconds_count > 0",
        'nodeshare_gpu_xid_events_total{xid="13"} > 0',
        'nodeshare_mount_credential_renewals_total{result="done"} > 0',
        "nodeshare_mount_credential_rotation_seconds",
        "nodeshare_view_root_opens_total > 0",
        "nodeshare_mount_up == 1",
        "nodeshare_mount_shared_folder_ok == 1",
    ):
        scene.until(expression)
    if request.config.getoption("--soak"):
        quiet.until(lambda: bool(quiet.query("nodeshare_mount_scratch_announced_bytes > 0")), 180)
    return scene


def test_every_endpoint_is_as_promtool_wants_it(scene: Scene) -> None:
    for agent in AGENTS:
        document = scene.up.status()[agent]
        with urllib.request.urlopen(f"{document['metrics']}/metrics", timeout=10) as answer:
            code, output = promtool("check", "metrics", text=answer.read().decode())
        assert (code, output) == (0, ""), agent


def test_no_panel_is_empty(eventful: Scene, soak: bool) -> None:
    empty = []
    for dashboard in grafana.dashboards():
        for target in grafana.targets(dashboard):
            asked = grafana.substituted(target.expression, interval_s=5 * SCRAPE_S, range_s=300)
            found = [value for _, value in eventful.prometheus.query(asked) if value == value]
            late = OF_AFFINITY.search(asked) or (not soak and OF_A_SCRATCH_RUN.search(asked))
            if not found and not late:
                empty.append(str(target))
    assert not empty, "\n".join(empty)


def test_every_choice_of_a_dashboard_has_values(eventful: Scene) -> None:
    """But `cluster`: one Prometheus of one cluster has no such label."""
    for dashboard in grafana.dashboards():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query" or variable["name"] == "cluster":
                continue
            words = variable["definition"].removeprefix("label_values(").removesuffix(")")
            series, _, label = words.rpartition(", ")
            asked = grafana.substituted(f"count by ({label}) ({series})", interval_s=5, range_s=60)
            assert [one for one, _ in eventful.prometheus.query(asked) if one.get(label)], words


def test_every_recording_rule_has_a_value_and_no_rule_fails(eventful: Scene) -> None:
    rules = eventful.prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [
        rule["lastError"] for rule in rules if rule["health"] != "ok"
    ]
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert {name for name in recorded if not eventful.prometheus.query(name)} == FROM_OTHERS
    (block,) = eventful.prometheus.query(
        'resource:nodeshare_gpu_largest_free_block_units:max{resource="nodeshare/gpu-memory"}'
    )
    assert block == ({"__name__": block[0]["__name__"], "resource": "nodeshare/gpu-memory"}, 31.0)


def test_nothing_fires_although_a_client_was_killed_and_a_limit_exceeded(eventful: Scene) -> None:
    firing = [
        labels["alertname"]
        for labels, _ in eventful.prometheus.query('ALERTS{alertstate="firing"}')
    ]
    assert not firing


def test_no_scrape_has_a_gap(eventful: Scene, soak: bool) -> None:
    """With every scrape that reached an agent there is each part of its metrics."""
    prometheus = eventful.prometheus
    until(lambda: elapsed_s(prometheus) > (240 if soak else 15))
    seconds = int(elapsed_s(prometheus))
    assert {value for _, value in prometheus.query(f"min_over_time(up[{seconds}s])")} == {1.0}
    at = time.time()
    for agent, names in {
        "gpu_plugin": ("nodeshare_gpu_units", "nodeshare_gpu_container_memory_used_bytes"),
        "fuse_mounter": ("nodeshare_mount_up", "nodeshare_mount_pods_lost"),
        "lxcfs_helper": ("nodeshare_view_oldest_seconds", "nodeshare_view_containers"),
    }.items():
        scrapes = times(prometheus, f'up{{agent="{agent}"}}', seconds, at)
        assert len(scrapes) == 1
        for name in names:
            found = times(prometheus, name, seconds, at)
            assert found
            assert all(one == scrapes[0] for one in found), name


def times(prometheus: Prometheus, series: str, seconds: int, at: float) -> list[list[float]]:
    """When each of the series has samples."""
    found = prometheus.get("query", query=f"{series}[{seconds}s]", time=at)["result"]
    return [[float(when) for when, _ in one["values"]] for one in found]


def elapsed_s(prometheus: Prometheus) -> float:
    """Since all agents were scraped for the first time."""
    found = prometheus.query("time() - max(min_over_time(timestamp(up)[1h:1s]))")
    return found[0][1] if found else 0.0


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 280
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)
