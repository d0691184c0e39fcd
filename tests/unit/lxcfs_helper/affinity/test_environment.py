# SPDX-License-Identifier: Apache-2.0
"""The mild way: variables for a CPU limit, in the forms in which they are taken."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agents import cli
from agents.config import NodeConfig
from agents.containers import Container, Pod
from agents.errors import AgentError, ConfigError
from agents.hostfs import HostFs
from lxcfs_helper import asked
from lxcfs_helper.affinity import cpu_limit
from lxcfs_helper.affinity.environment import (
    VARIABLES,
    Format,
    environment,
    parse_cpus,
    threads,
    written,
)

PAGE = Path(__file__).parents[4] / "lxcfs_helper/affinity/README.md"
NAMED = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS"]
NAMED += ["GOMAXPROCS", "PYTHON_CPU_COUNT", "JULIA_NUM_THREADS", "MC_CORES"]
CONTAINER = "c0ffee" + 58 * "0"


@pytest.mark.parametrize(
    ("text", "count"),
    [("0.5", 1), ("1", 1), ("2.5", 3), ("2500m", 3), ("1.", 1), (".5", 1), ("100m", 1), ("64", 64)],
)
def test_as_many_threads_as_use_the_whole_limit(text: str, count: int) -> None:
    assert threads(parse_cpus(text)) == count


@pytest.mark.parametrize("text", ["", "0", "0m", "-1", "1e3", "2 ", "nan", "1Gi", "99999", "²"])
def test_other_limits_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--cpus {text!r}")):
        parse_cpus(text)


def test_every_form_says_the_same() -> None:
    variables = environment(3)
    assert set(NAMED) <= variables.keys() == VARIABLES.keys()
    assert set(variables.values()) == {"3"}
    lines = written(variables, Format.SHELL).splitlines()
    words = [shlex.split(line) for line in lines]
    assert {word for word, _ in words} == {"export"}
    assert dict(pair.split("=") for _, pair in words) == variables
    pairs = written(variables, Format.ENV_FILE).splitlines()
    assert dict(pair.split("=") for pair in pairs) == variables
    assert json.loads(written(variables, Format.JSON)) == variables
    listed = yaml.safe_load(written(variables, Format.YAML))
    assert {one["name"]: one["value"] for one in listed} == variables, "texts, as Kubernetes wants"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["view", "env", "--cpus", "2.5", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["OMP_NUM_THREADS"] == "3"
    for arguments, complaint in {
        "--cpus 1 42": "two limits",
        "--container x": "name the pod",
        "--cpus many": "--cpus 'many'",
    }.items():
        assert cli.main(["view", "env", *arguments.split()]) == 2
        assert complaint in capsys.readouterr().err


class Host:
    """Four CPUs, cgroup v2, and processes by their cgroup's path."""

    def __init__(self, directory: Path) -> None:
        self.fs = HostFs(
            directory / "proc", directory / "sys", directory / "dev", directory / "cgroup"
        )
        online = self.fs.cpu_devices / "online"
        online.parent.mkdir(parents=True)
        online.write_text("0-3\n")
        self.cgroup("/", {"cgroup.controllers": "cpu memory", "cpuset.cpus.effective": "0-3"})
        host = {key: str(getattr(self.fs, key)) for key in ("proc", "sys", "dev", "cgroup")}
        self.node = NodeConfig.model_validate({"host": host})

    def cgroup(self, path: str, files: dict[str, str]) -> None:
        directory = self.fs.cgroup / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)

    def process(self, pid: int, path: str) -> None:
        own = self.fs.of_pid(pid, "cgroup")
        own.parent.mkdir(parents=True)
        own.write_text(f"0::{path}\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_of_a_process_the_least_on_the_way_up(host: Host) -> None:
    host.cgroup("/pod", {"cpu.max": "150000 100000"})
    host.cgroup("/pod/own", {"cpu.max": "max 100000", "cpuset.cpus.effective": "0-2"})
    host.process(42, "/pod/own")
    assert cpu_limit.cpus_of(host.node, "42", None) == 1.5
    host.cgroup("/pod", {"cpu.max": "max 100000"})
    assert cpu_limit.cpus_of(host.node, "42", None) == 3, "no quota: the cpuset"
    with pytest.raises(AgentError, match="no process 43"):
        cpu_limit.cpus_of(host.node, "43", None)


def test_of_a_pod_whose_containers_differ_one_has_to_be_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod("ada", "jupyter", "uid")
    running = []
    for number, (name, quota) in enumerate({"main": 250_000, "proxy": 50_000}.items(), start=42):
        host.cgroup(f"/pod/{CONTAINER}{number}", {"cpu.max": f"{quota} 100000"})
        host.process(number, f"/pod/{CONTAINER}{number}")
        running.append(Container(f"{CONTAINER}{number}", name, pod, number))
    monkeypatch.setattr(asked, "containers", lambda _: tuple(running))
    assert cpu_limit.cpus_of(host.node, "ada", "main") == 2.5
    assert cpu_limit.cpus_of(host.node, "43", None) == 0.5
    with pytest.raises(AgentError, match=r"main 2\.5, proxy 0\.5; add --container"):
        cpu_limit.cpus_of(host.node, "jupyter/ada", None)
    with pytest.raises(AgentError, match="no container 'other' runs in 'ada'"):
        cpu_limit.cpus_of(host.node, "ada", "other")


def test_of_the_caller_also_where_the_root_is_its_own_cgroup(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    host.process(os.getpid(), "/own")
    host.cgroup("/own", {"cpu.max": "150000 100000"})
    assert cpu_limit.own_cpus(host.node) == 1.5
    host.cgroup("/", {"cpu.max": "50000 100000"})
    assert cpu_limit.own_cpus(host.node) == 0.5, "in a cgroup namespace"
    host.fs.of_pid(os.getpid(), "cgroup").write_text("0::/../elsewhere\n")
    assert cpu_limit.own_cpus(host.node) == 0.5, "and from where the way up cannot be seen"
    (host.fs.cgroup / "cpu.max").unlink()
    with pytest.raises(AgentError, match="outside"):
        cpu_limit.own_cpus(host.node)


def test_the_documented_hook_gives_a_notebook_its_variables() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    spawners = SimpleNamespace(KubeSpawner=SimpleNamespace())
    exec(compile(snippet, str(PAGE), "exec"), {"c": spawners})
    hook = spawners.KubeSpawner.modify_pod_hook

    def container(limits: dict[str, object] | None, **given: str) -> SimpleNamespace:
        own = [SimpleNamespace(name=name, value=value) for name, value in given.items()]
        return SimpleNamespace(
            resources=limits if limits is None else SimpleNamespace(limits=limits), env=own or None
        )

    for limit, count in [(2.5, "3"), ("2500m", "3"), ("0.5", "1"), (4, "4")]:
        one, other = container({"cpu": limit}, GOMAXPROCS="7"), container(None)
        pod = SimpleNamespace(spec=SimpleNamespace(containers=[one, other]))
        assert hook(SimpleNamespace(), pod) is pod
        shown = {
            each["name"] if isinstance(each, dict) else each.name: (
                each["value"] if isinstance(each, dict) else each.value
            )
            for each in one.env
        }
        assert shown == {**environment(int(count)), "GOMAXPROCS": "7"}, "what is set stays"
        assert not other.env, "no limit, no variables"
    pod = SimpleNamespace(spec=SimpleNamespace(containers=[container({"memory": "1Gi"})]))
    assert not hook(SimpleNamespace(), pod).spec.containers[0].env
