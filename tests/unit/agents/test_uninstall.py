# SPDX-License-Identifier: Apache-2.0
"""What `nodeshare uninstall` decides: whom it would harm, what it leaves, and what it takes off the
node object. The whole of it is tested in tests/e2e.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agents import config, inhabitants, kube, uninstall
from agents.agent import Agent, installed, models
from agents.config import NodeConfig, Section
from agents.errors import AgentError, ConfigError
from agents.kube import NodeState
from agents.processes import ProcessKey
from agents.remains import Errand, Remains
from agents.uninstall import Left, Plan

TABLE = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def node_of(tmp_path: Path) -> NodeConfig:
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "state").mkdir(exist_ok=True)
    text = f"node: {{run_dir: {tmp_path}/run, state_dir: {tmp_path}/state}}"
    return config.parse(text, {}).node


def agent_with(remains: Remains) -> Agent:
    return Agent(
        "demo", "demo", Section, lambda: pytest.fail("run"), lambda _: None, lambda *_: None,
        remains=lambda *_: remains,
    )  # fmt: skip


def run(tmp_path: Path, remains: Remains, **options: bool) -> tuple[int, list[str]]:
    node, said = node_of(tmp_path), list[str]()
    loaded = config.Config(node, {}, "")
    asked = {"dry_run": False, "force": False, **options}
    code = uninstall.uninstall([agent_with(remains)], loaded, None, say=said.append, **asked)
    return code, said


@pytest.fixture(autouse=True)
def as_root_on_a_quiet_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(uninstall, "_users", lambda *_: {})


def test_what_may_be_precious_stays_unless_it_is_asked_for(tmp_path: Path) -> None:
    cache, own = tmp_path / "cache", tmp_path / "run/own"
    cache.mkdir()
    remains = Remains(files=[own], valuable=[cache], directories=[tmp_path / "none"])
    code, said = run(tmp_path, remains)
    assert code == 0
    assert cache.exists()
    assert any(line.startswith(f"kept: {str(cache)!r}") for line in said)
    assert not (tmp_path / "run").exists()


def test_forced_it_goes_too(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    code, said = run(tmp_path, Remains(valuable=[cache]), force=True)
    assert (code, cache.exists()) == (0, False)
    assert f"removed {str(cache)!r}" in said


def test_a_rehearsal_changes_nothing(tmp_path: Path) -> None:
    own, cache = tmp_path / "own", tmp_path / "cache"
    own.mkdir()
    cache.mkdir()
    errand = Errand("the tokens", lambda: pytest.fail("it was run"))
    remains = Remains(files=[own, tmp_path / "absent"], valuable=[cache], errands=[errand])
    code, said = run(tmp_path, remains, dry_run=True)
    assert code == 0
    assert said[:2] == ["would remove the tokens", f"would remove {str(own)!r}"]
    assert len(said) == 3, "what is kept is said too"
    assert own.exists()


def test_one_problem_hides_no_other_and_is_named(tmp_path: Path) -> None:
    def fail() -> None:
        raise AgentError("it is busy", remedy="wait")

    own = tmp_path / "run/own"
    remains = Remains(files=[own], errands=[Errand("the tokens", fail)])
    (tmp_path / "others").mkdir()
    node_files = tmp_path / "run"
    code, said = run(tmp_path, remains)
    assert code == 1
    assert "NOT removed: the tokens: it is busy; wait" in said
    assert not node_files.exists()


def test_what_others_keep_there_stays_and_is_named(tmp_path: Path) -> None:
    def leave() -> None:
        (tmp_path / "state/others").touch()

    code, said = run(tmp_path, Remains(errands=[Errand("x", leave)]))
    assert code == 1
    assert said[-1] == f"NOT removed: {str(tmp_path / 'state')!r}: not ours is in it: others"


def test_an_agent_with_a_run_directory_of_its_own_is_seen_too(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for options in ({}, {"force": True}, {"dry_run": True}):
        with pytest.raises(AgentError, match=r"agents run: process 7; stop them first"):
            run(tmp_path, Remains(files=[own], running=["process 7"]), **options)
    assert own.exists()


def test_nobody_but_root_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="run it with sudo"):
        run(tmp_path, Remains())


def test_who_has_the_whole_node_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    ours = "9 1 0:77 / /data rw - tmpfs ours rw\n"
    tables = {
        1: TABLE,
        50: f"22 1 0:30 / / rw - overlay overlay rw\n{ours}",
        60: f"22 1 0:30 / / rw - overlay overlay rw\n23 22 8:1 / /host rw - ext4 x rw\n{ours}",
        70: "22 1 0:30 / / rw - overlay overlay rw\n",
    }
    for pid, table in tables.items():
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/mountinfo").write_text(table)
        (tmp_path / f"proc/{pid}/comm").write_text("sh\n")
    found = {pid: inhabitants.Inhabitant(pid, ProcessKey(pid, 1)) for pid in (50, 60, 70)}
    monkeypatch.setattr(inhabitants.Inhabitants, "look", lambda _: found)
    text = f"node: {{host: {{proc: {tmp_path}/proc}}, cri_socket: {tmp_path}/none}}"
    remains = Remains(used=lambda entry: "it" if entry.source == "ours" else None)
    users = uninstall._users(config.parse(text, {}).node, [remains])
    assert users == {"process 'sh' (pid 50)": ["it"]}


@dataclass
class FakeCluster:
    state: NodeState
    patches: list[Sequence[Any]] = field(default_factory=list)

    def node(self, _: str) -> NodeState:
        return self.state

    def patch_node(self, _: str, operations: Sequence[Any]) -> None:
        self.patches.append(operations)

    def close(self) -> None:
        pass


def test_the_node_object_loses_our_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = installed()
    node = config.parse("node: {name: n, api_server: {enabled: true}}", models(agents)).node
    ours = {agent.section: agent.remains(node, None) for agent in agents}
    annotations = {key: "x" for one in ours.values() for key in one.annotations}
    labels = {key: "x" for one in ours.values() for key in one.labels}
    assert annotations, "largest-free-block"
    taints = ({"key": "nodeshare/gpu-not-ready", "effect": "NoSchedule"}, {"key": "others"})
    state = NodeState("n", "1", taints, annotations | {"others": "x"}, labels | {"others": "x"})
    cluster = FakeCluster(state)
    monkeypatch.setattr(kube, "connect", lambda _: cluster)
    assert uninstall._forget(Plan(node, ours, {}))
    removed = {o["path"] for patch in cluster.patches for o in patch if o["op"] == "remove"}
    assert "/spec/taints/0" in removed
    assert "/spec/taints/1" not in removed
    assert not [path for path in removed if "others" in path]
    assert len(removed) == 1 + len(annotations) + len(labels)
    cluster.state = NodeState("n", "1", (), None, None)
    assert not uninstall._forget(Plan(node, ours, {})), "twice is fine"


def test_an_attempt_tells_only_what_was_done() -> None:
    said, left = list[str](), Left()
    left.attempt(said.append, "a", lambda: None)
    left.attempt(said.append, "b", lambda: False)
    left.attempt(said.append, "c", lambda: True)
    assert said == ["removed a", "removed c"]
