# SPDX-License-Identifier: Apache-2.0
"""The GPU agent as a process, with the embedded kubelet."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from agents.standin.kubelet import Behaviour
from agents.standin.pods import PodPhase
from tests.fakes.gpu_node import LIMIT_S, SHARED, SMALL, Node


def test_a_pod_gets_one_gpu_and_its_identity(node: Node) -> None:
    agent = node.agent()
    node.kubelet.start()
    node.until(lambda: (node.allocatable(SHARED), node.allocatable(SMALL)) == (62, 2))
    pods = [node.admit("ada", shared=8), node.admit("grace", shared=20, small=1)]
    assert [pod.phase for pod in pods] == [PodPhase.RUNNING] * 2

    first, second = node.runtime.containers()
    gpu = node.machine.gpus[0].uuid
    assert first.start.env["NVIDIA_VISIBLE_DEVICES"] == gpu
    assert first.start.env["NODESHARE_GPU_UNITS"] == "8"
    assert not first.start.devices, "a simulated machine has no device nodes"
    mounts = {volume.container_path: volume for volume in first.start.volumes}
    of_kubelet = mounts.pop("/dev/termination-log")
    assert not of_kubelet.read_only
    assert set(mounts) == {
        "/run/nodeshare/gpu",
        "/run/nodeshare/allocations/nodeshare_gpu-memory",
    }
    assert all(volume.read_only for volume in mounts.values())
    share = json.loads((mounts["/run/nodeshare/gpu"].host_path / "share.json").read_text())
    assert (share["units"], share["simulated"], share["devices"][0]["uuid"]) == (8, True, gpu)

    # Two resources in one container: each has its own directory, people look at the first.
    mounts = {volume.container_path: volume for volume in second.start.volumes}
    allocations = {
        mounts[f"/run/nodeshare/allocations/{name.replace('/', '_')}"].host_path
        for name in (SHARED, SMALL)
    }
    assert len(allocations) == 2
    assert mounts["/run/nodeshare/gpu"].host_path in allocations

    node.until(lambda: agent.device(gpu)["units_allocated"] == 28)
    assert agent.device(gpu)["holders"] == [
        {"namespace": "default", "pod": "ada", "container": "main", "resource": SHARED, "units": 8},
        {
            "namespace": "default",
            "pod": "grace",
            "container": "main",
            "resource": SHARED,
            "units": 20,
        },
    ]
    assert agent.status()["ready"] is True


def test_a_request_that_fits_no_gpu_is_rejected_with_the_numbers(node: Node) -> None:
    node.agent()
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 62)
    node.admit("ada", shared=16)
    node.admit("grace", shared=16)
    rejected = node.admit("emmy", shared=20)
    assert (rejected.phase, rejected.reason) == (PodPhase.FAILED, "UnexpectedAdmissionError")
    gpu = node.machine.gpus[0].uuid
    assert "asked 20 of nodeshare/gpu-memory, largest free block 15 on" in rejected.message
    assert f"on {gpu} (30 free on 2 devices, and a request may not span devices)" in str(
        rejected.message
    )


def test_a_kubelet_that_does_not_ask_what_is_preferred_cannot_split_a_pod(node: Node) -> None:
    node.kubelet.behaviour = Behaviour(ask_preferred=False)
    node.agent()
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 62)
    rejected = node.admit("ada", shared=40)
    assert rejected.phase is PodPhase.FAILED
    assert "a request may not span devices" in rejected.message
    assert not list((node.directory / "state/gpu/containers").iterdir())


def test_three_kubelet_restarts_in_a_row(node: Node) -> None:
    # A pod would go on seeing the directory that the third one replaces.
    agent = node.agent(in_pod=False)
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 62)
    node.admit("ada", shared=8)
    for trap in (Behaviour(), Behaviour(clear_sockets=False), Behaviour(replace_directory=True)):
        node.kubelet.restart(behaviour=trap)
        started = time.monotonic()
        node.until(lambda: node.allocatable(SHARED) == 62)
        # The goal is half a second; this only tells a watch from a slow poll, on a busy machine.
        assert time.monotonic() - started < 5
    assert node.admit("grace", shared=23).phase is PodPhase.RUNNING
    assert node.kubelet.pod("default/ada").phase is PodPhase.RUNNING
    node.until(lambda: agent.status()["ready"] is True)


def test_an_agent_that_is_killed_finds_everything_again(node: Node) -> None:
    agent = node.agent()
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 62)
    node.admit("ada", shared=8)
    agent.end(signal.SIGKILL)
    node.until(lambda: node.allocatable(SHARED) == 0)
    agent.restart()
    node.until(lambda: node.allocatable(SHARED) == 62)
    gpu = node.machine.gpus[0].uuid
    node.until(lambda: agent.device(gpu)["units_allocated"] == 8)
    assert len(list((node.directory / "state/gpu/containers").iterdir())) == 1


def test_sigterm_ends_the_list_at_once(node: Node) -> None:
    agent = node.agent()
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 62)
    agent.process.terminate()
    started = time.monotonic()
    node.until(lambda: node.allocatable(SHARED) == 0)
    assert time.monotonic() - started < 2
    assert agent.process.wait(5) == 0
    assert not list((node.directory / "kubelet/device-plugins").glob("nodeshare-*"))


def test_the_agent_may_come_before_the_kubelet_and_a_gpu_may_go(node: Node) -> None:
    agent = node.agent()
    node.kubelet.wait_for(lambda: (node.directory / "run/gpu.sock").exists(), LIMIT_S)
    assert node.kubelet.wait_for(lambda: "no kubelet" in str(agent.status()["reason"]), LIMIT_S)
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 62)
    lost = node.machine.gpus[0].uuid
    node.state.lose(lost)
    node.until(lambda: node.allocatable(SHARED) == 31)
    assert node.kubelet.resources()[SHARED].capacity == 62
    node.until(lambda: agent.device(lost)["health"].startswith("lost"))
    assert node.admit("ada", shared=31).phase is PodPhase.RUNNING


def test_a_list_that_does_not_fit_is_refused_and_the_other_resource_goes_on(node: Node) -> None:
    agent = node.agent(chunk="512B")
    node.kubelet.start()
    node.until(lambda: node.allocatable(SMALL) == 2)
    assert SHARED not in node.kubelet.resources()
    (problem,) = agent.status()["problems"]
    assert "the kubelet takes 4194304" in problem
    assert "is the smallest that fits" in problem


def test_an_agent_serves_in_little_memory(node: Node) -> None:
    agent = node.agent()
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 62)
    node.admit("ada", shared=8)
    rollup = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text()
    private = sum(
        int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")
    )
    assert private < 45 * 1024, rollup
