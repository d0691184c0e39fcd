# SPDX-License-Identifier: Apache-2.0
"""A node with an embedded kubelet and the GPU agent as a process; its containers are entries in a
table. Its GPUs are simulated by the agent itself, or by the C library under its real driver path.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from agents.hostfs import CGROUP
from agents.standin.kubelet import EmbeddedKubelet, PodStatus
from agents.standin.pods import ContainerSpec, PodSpec
from gpu_plugin.simulated.description import SimulatedMachine, load_machine
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes.confined import confined
from tests.fakes.image_node import manifest
from tests.fakes.nvml.shared_object import render_flat
from tests.fakes.runtime import FakeRuntime

SHARED, SMALL = "nodeshare/gpu-memory", "nodeshare/mig-1g.10gb"
LIMIT_S = 20.0

CONFIG = """
node:
  host: {{dev: {0}/dev, cgroup: {5}}}
  run_dir: {3}
  state_dir: {0}/state
  kubelet_dir: {0}/kubelet
  cri_socket: {0}/cri.sock
  metrics: {{address: 127.0.0.1, ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
  status: {{ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
gpu_plugin:
  container: {2}
{4}
  resources: {1}
"""

RESOURCES = """
    - {{name: nodeshare/gpu-memory, select: {{mig: none}}, chunk: {0}}}
    - {{name: "nodeshare/mig-1g.10gb", select: {{mig: ["1g.10gb"]}}, exclusive: true}}
"""

SIMULATED = """
  simulate: demo
  simulated_state: {0}/gpu-state
"""


class Agent:
    """The real command, and its status document. `copy` names a second one on the same node.
    Unless `in_pod` is false it may do what its pod may.
    """

    def __init__(
        self,
        directory: Path,
        chunk: str = "1GiB",
        container: str = "{}",
        copy: str = "run",
        *,
        resources: str = RESOURCES,
        source: str = SIMULATED,
        environment: Mapping[str, str] | None = None,
        cgroup: Path = CGROUP,
        in_pod: bool = True,
    ) -> None:
        self.directory, self.run_dir = directory, directory / copy
        self.in_pod = in_pod
        self.environment = {**os.environ, **(environment or {})}
        self.config = directory / f"{copy}.yaml"
        source = source.format(directory)
        resources = resources.format(chunk)
        self.config.write_text(
            CONFIG.format(directory, resources, container, self.run_dir, source, cgroup)
        )
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.directory / "agent.log").open("ab") as log:
            command = [*self._confined(), sys.executable, "-m", "agents", "run", "gpu", "--config"]
            return subprocess.Popen(
                [*command, str(self.config)], stdout=log, stderr=log, env=self.environment
            )

    def _confined(self) -> list[str]:
        """As its pod is: what no test needs here, the plugin does not need."""
        if not self.in_pod:
            return []
        places = {
            "/run/nodeshare": self.run_dir,
            "/var/lib/nodeshare": self.directory / "state",
            "/var/lib/kubelet/device-plugins": self.directory / "kubelet/device-plugins",
        }
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        (container,) = manifest("gpu")["spec"]["template"]["spec"]["containers"]
        return confined(container, places)

    def status(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self.run_dir / "gpu.sock"))
            client.sendall(b"GET /status.json HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert isinstance(document, dict)
        return document

    def metric(self, name: str, **labels: str) -> float:
        """0 when there is none."""
        with urllib.request.urlopen(f"{self.status()['metrics']}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"nodeshare_gpu_{name}" and labels.items() <= sample.labels.items()
        )

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
    """A kubelet without containers' processes, and an agent. With a `library`, that is the driver
    of this machine; else the agent simulates `demo`.
    """

    def __init__(
        self,
        directory: Path,
        machine: SimulatedMachine | None = None,
        library: Path | None = None,
    ) -> None:
        self.directory = directory
        self.machine = machine or load_machine("demo")
        self.library = library
        self.state = SimulatedState(directory / "gpu-state")
        self.runtime = FakeRuntime()
        self.kubelet = EmbeddedKubelet(directory / "kubelet", self.runtime)
        self.agents: list[Agent] = []

    def agent(self, **options: Any) -> Agent:
        agent = Agent(self.directory, environment=self._environment(), **self._options(options))
        self.agents.append(agent)
        return agent

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"source": SIMULATED if self.library is None else "", **options}

    def _environment(self) -> dict[str, str]:
        """For an agent whose driver is the C library."""
        if self.library is None:
            return {}
        description = self.directory / "machine"
        description.write_text(render_flat(self.machine))
        return {
            "LD_LIBRARY_PATH": str(self.library),
            "NODESHARE_NVML_MACHINE": str(description),
            "NODESHARE_NVML_STATE": str(self.state.path),
        }

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


@contextmanager
def gpu_node(
    machine: SimulatedMachine | None = None, library: Path | None = None
) -> Iterator[Node]:
    """Gone after it, with all that it started."""
    # Short: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="nsgpu"))
    made = Node(directory, machine, library)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)
