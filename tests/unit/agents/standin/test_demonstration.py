# SPDX-License-Identifier: Apache-2.0
"""The data of the demonstration, and how an answer from inside a pod is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents import config
from agents.agent import installed, models
from agents.standin import demonstration
from agents.standin.demonstration import DemonstrationPod, PodView, read_look
from agents.standin.pods import ContainerSpec, PodSpec

VIEW = PodView(
    DemonstrationPod(PodSpec("a", [ContainerSpec("c", ["true"])]), "nodeshare/x", 1, "1GiB")
)
FREE = "total used free shared buff/cache available Mem: 512 3 500 0 1 509 Swap: 0 0 0"
LOOK = f"online 2\nprocessors 2\nmemory {FREE}\nfile hello there\n"


@pytest.mark.parametrize(
    "directory", ["/run/nodeshare/demo", "/tmp/a $b", "/tmp/x: [", "/tmp/ö'\"", "/tmp/$dir"]
)
@pytest.mark.parametrize("free_ports", [False, True])
def test_any_directory_makes_a_valid_configuration(
    directory: str, free_ports: bool, tmp_path: Path
) -> None:
    data = demonstration.load(Path(directory), free_ports=free_ports)
    path = demonstration.prepare(tmp_path, data)
    assert "*id" not in path.read_text(), "written for people to change"
    loaded = config.load(path, models(installed()))
    assert str(loaded.node.run_dir) == f"{directory}/run"
    assert (loaded.node.metrics.ports.gpu_plugin == 0) == free_ports
    assert set(loaded.sections) == {agent.section for agent in installed()}


def test_what_a_pod_sees_is_read() -> None:
    view = read_look(VIEW, LOOK)
    assert (view.cpus, view.memory_mib, view.used_mib) == ("2", "512", "3")
    assert view.file == "hello there"
    assert view.problem is None


def test_two_cpu_counts_that_differ_are_both_told() -> None:
    view = read_look(VIEW, LOOK.replace("processors 2", "processors 64"))
    assert view.cpus == "2 (cpuinfo: 64)"


def test_a_missing_program_is_told_in_its_column() -> None:
    view = read_look(VIEW, LOOK.replace(FREE, "sh: 4: free: not found"))
    assert (view.cpus, view.memory_mib, view.used_mib) == ("2", "sh: 4: free: not found", None)


@pytest.mark.parametrize("output", ["", "OCI runtime exec failed", "online 2\nprocessors 2\n"])
def test_an_answer_cut_short_is_a_problem(output: str) -> None:
    view = read_look(VIEW, output)
    assert view.problem == (output.strip() or "the pod did not answer")
