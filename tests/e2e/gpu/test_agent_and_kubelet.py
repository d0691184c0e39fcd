# SPDX-License-Identifier: Apache-2.0
"""The GPU agent as a process, with the embedded kubelet."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.standin.kubelet import Behaviour, EmbeddedKubelet, PodStatus
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes.runtime import FakeRuntime

SHARED, SMALL = "nodeshare/gpu-memory", "nodeshare/mig-1g.10gb"
LIMIT_S = 20.0

CONFIG = """
node:
  run_dir: {0}/run
  state_dir: {0}/state
  kubelet_dir: {0}/kubelet
  cri_socket: {0}/cri.sock
  metrics: {{address: 127.0.0.1, ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
  status: {{ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
gpu_plugin:
  simulate: demo
  simulated_state: {0}/gpu-state
  resources:
    - {{name: nodeshare/gpu-memory, select: {{mig: none}}, chunk: {1}}}
    - {{name: "nodeshare/mig-1g.10gb", select: {{mig: ["1g.10gb"]}}, exclusive: true}}
"""


class Agent:
    """The real command, and its status document."""

    def __init__(self, directory: Path, chunk: str = "1GiB") -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.config.write_text(CONFIG.format(directory, chunk))
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.directory / "agent.log").open("ab") as log:
            command = [sys.executable, "-m", "agents.cli", "run", "gpu", "--config"]
            return subprocess.Popen([*command, str(self.config)], stdout=log, stderr=log)

    def status(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self.directory / "run/gpu.sock"))
            client.sendall(b"GET /status.json HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert isinstance(document, dict)
        return document

    def device(self, uuid: str) -> dict[str, Any]:
        found = [device for device in self.status()["devices"] if device["uuid"] == uuid]
        assert len(found) == 1
        return dict(found[0])

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)

    def restart(self) -> None:
        self.process = self._start()


class Node:
    """A kubelet without containers' processes, and an agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.machine = load_machine("demo")
        self.state = SimulatedState(directory / "gpu-state")
        self.runtime = FakeRuntime()
        self.kubelet = EmbeddedKubelet(directory / "kubelet", self.runtime)
        self.agents: list[Agent] = []

    def agent(self, **options: str) -> Agent:
        self.agents.append(Agent(self.directory, **options))
        return self.agents[-1]

    def close(self) -> None:
        for agent in self.agents:
            agent.process.kill()
            agent.process.wait(10)
        self.kubelet.stop()

    def until(self, condition: Callable[[], bool]) -> None:
        assert self.kubelet.wait_for(condition, LIMIT_S), (self.directory / "agent.log").read_text()

    def allocatable(self, resource: str) -> int:
        known = self.kubelet.resources().get(resource)
        return known.allocatable if known else 0

    def admit(self, name: str, **resources: int) -> PodStatus:
        wanted = {{"shared": SHARED, "small": SMALL}[key]: size for key, size in resources.items()}
        container = ContainerSpec("main", ["sleep", "1"], resources=wanted)
        return self.kubelet.admit(PodSpec(name, [container]))


@pytest.fixture
def node() -> Iterator[Node]:
    # Short: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="nsgpu"))
    made = Node(directory)
    yield made
    made.close()
    shutil.rmtree(directory)


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
        {"namespace": "default", "pod": "ada", "container": "main", "units": 8},
        {"namespace": "default", "pod": "grace", "container": "main", "units": 20},
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
    agent = node.agent()
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
