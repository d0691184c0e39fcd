# SPDX-License-Identifier: Apache-2.0
"""One node: a real containerd, the embedded kubelet in front of it, and agents as processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agents import holder_start
from agents.overview import look
from agents.standin.kubelet import EmbeddedKubelet, PodStatus
from agents.standin.pods import (
    ContainerSpec,
    PodPhase,
    PodSpec,
    RestartPolicy,
    Volume,
    VolumePropagation,
)
from fuse_mounter.agent import AGENT as MOUNTS
from gpu_plugin.agent import AGENT as GPU_PLUGIN
from gpu_plugin.simulated.description import SimulatedMachine
from lxcfs_helper.agent import AGENT as VIEW
from tests.fakes.containerd.daemon import Containerd
from tests.fakes.containerd.runtime import ContainerdRuntime
from tests.fakes.nvml.shared_object import render_flat

NODESHARE = [sys.executable, "-m", "agents"]
GPU = "nodeshare/gpu-memory"
LIMIT_S = 30.0
_AGENTS = {agent.noun: agent for agent in (GPU_PLUGIN, MOUNTS, VIEW)}

_CONFIG = """
node:
  run_dir: {0}/run
  state_dir: {0}/state
  kubelet_dir: {0}/kubelet
  cri_socket: {0}/ctd/containerd.sock
  metrics: {{address: 127.0.0.1, ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
  status: {{ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
{1}
fuse_mounter:
  root: {0}/mounts
  mounts: [{{name: shared, driver: passthrough, source: {0}/data, path: shared}}]
lxcfs_helper:
  inject: {{namespaces: ["jupyter*"]}}
"""

_SIMULATED = """
gpu_plugin:
  simulate: demo
  simulated_state: {0}/gpu-state
  resources: [{{name: nodeshare/gpu-memory, select: {{mig: none}}, chunk: 1GiB}}]
"""

_DRIVER = """
  host: {{dev: {0}/dev}}
gpu_plugin:
  container: {1}
  resources:
    - {{name: nodeshare/gpu-memory, select: {{mig: none}}, chunk: 1GiB}}
    - {{name: nodeshare/mig-own, select: {{mig: ["1g.10gb"]}}, exclusive: true}}
"""


class Process(Protocol):
    """An agent that was started, in whatever way."""

    @property
    def pid(self) -> int: ...
    def send_signal(self, number: int) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float) -> int: ...


class Node:
    """`agents`: the running ones by their noun. Its GPUs are simulated until `driver` is called."""

    def __init__(self, directory: Path, cgroup: str, *, shared_pids: bool = False) -> None:
        self.directory, self._shared_pids = directory, shared_pids
        for name in ("ctd", "data", "dev", "kubelet"):
            (directory / name).mkdir()
        (directory / "data/who").write_text("the mount\n")
        self.dev = directory / "dev"
        self.config = directory / "config.yaml"
        self._write(_SIMULATED.format(directory))
        self._environment = dict(os.environ)
        self._cgroup = cgroup
        self.containerd = Containerd(directory / "ctd", cgroup)
        self.agents: dict[str, Process] = {}
        self.runtime: ContainerdRuntime
        self.kubelet: EmbeddedKubelet

    def start(self) -> None:
        """Everything but agents."""
        self.containerd.start()
        self.runtime = ContainerdRuntime(
            self.containerd, self._cgroup, shared_pids=self._shared_pids, dev=self.dev
        )
        self.kubelet = EmbeddedKubelet(self.directory / "kubelet", self.runtime)
        self.kubelet.start()

    def driver(
        self, library: Path, machine: SimulatedMachine, nodes: Mapping[str, int], container: str
    ) -> None:
        """Let agents that start from now on find the C library as their driver. `nodes` are the
        device nodes of this host (others than this machine's) with their numbers; `container` is
        the configuration's section.
        """
        for name, number in nodes.items():
            os.mknod(self.dev / name, stat.S_IFCHR | 0o666, number)
        description = self.directory / "machine"
        description.write_text(render_flat(machine))
        self._environment |= {
            "LD_LIBRARY_PATH": str(library),
            "NODESHARE_NVML_MACHINE": str(description),
            "NODESHARE_NVML_STATE": str(self.directory / "gpu-state"),
        }
        self._write(_DRIVER.format(self.directory, container))

    def _write(self, gpu: str) -> None:
        self.config.write_text(_CONFIG.format(self.directory, gpu))

    def run(self, *nouns: str) -> None:
        """Start agents, and wait until they do their job."""
        for noun in nouns:
            with (self.directory / f"{noun}.log").open("ab") as log:
                command = [*NODESHARE, "run", noun, "--config", str(self.config)]
                self.agents[noun] = subprocess.Popen(
                    command, stdout=log, stderr=log, env=self._environment
                )
        for noun in nouns:
            self.until(partial(self._ready, noun), f"{noun} is ready")

    def _ready(self, noun: str) -> bool:
        return self.status(noun).get("ready") is True

    def kill(self, noun: str) -> None:
        """SIGKILL, as the kernel does it to whoever takes too much memory."""
        process = self.agents.pop(noun)
        process.kill()
        process.wait(10)

    def status(self, noun: str) -> dict[str, Any]:
        """What an agent says of itself; empty while it does not answer."""
        (seen,) = look([_AGENTS[noun]], self.directory / "run")
        return dict(seen.document or {})

    def notebook(
        self,
        name: str = "ada",
        *,
        gpu: int = 0,
        cpu_millis: int = 1500,
        memory_bytes: int = 512 << 20,
        sidecar_bytes: int = 0,
        annotations: Mapping[str, str] | None = None,
    ) -> PodStatus:
        """A pod as JupyterHub would make it; with `gpu`, that many units; with a sidecar, if that
        gets any memory."""
        volume = Volume(
            self.directory / "mounts",
            "/data",
            propagation=VolumePropagation.HOST_TO_CONTAINER,
        )
        sleep = ["sleep", "1000000"]
        container = ContainerSpec(
            "notebook",
            sleep,
            resources={GPU: gpu} if gpu else {},
            volumes=[volume] if "mounts" in self.agents else (),
            cpu_millis=cpu_millis,
            memory_bytes=memory_bytes,
        )
        sidecar = ContainerSpec("sidecar", sleep, cpu_millis=500, memory_bytes=sidecar_bytes)
        spec = PodSpec(
            name,
            [container, sidecar] if sidecar_bytes else [container],
            namespace="jupyterhub",
            annotations=annotations or {},
            restart_policy=RestartPolicy.ALWAYS,
        )
        self.kubelet.create(spec)
        self.until(lambda: self.kubelet.pod(spec.key).phase is PodPhase.RUNNING, f"{name} runs")
        return self.kubelet.pod(spec.key)

    def shell(self, command: str, pod: str = "ada", container: str = "notebook") -> str:
        """What a command prints inside."""
        return self.runtime.run(f"jupyterhub/{pod}", container, command).strip()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for it; show the logs when it never comes."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}\n{self._trouble()}"
            time.sleep(0.05)

    def _trouble(self) -> str:
        pods = [f"{pod.phase.value} {pod.containers}" for pod in self.kubelet.pods()]
        logs = [path.read_text()[-3000:] for path in self.directory.glob("*.log")]
        return "\n".join([*pods, *logs, self.containerd.log()])

    def close(self) -> None:
        """Nothing stays."""
        for process in self.agents.values():
            process.send_signal(signal.SIGTERM)
        for process in self.agents.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self._take_away()
        if hasattr(self, "kubelet"):
            self.kubelet.stop()
        self.containerd.close()
        if holder_start.socket_path(self.directory / "run").exists():  # containers depended on it
            self._take_away()

    def _take_away(self) -> None:
        """What outlives agents."""
        for words in (("view", "eject"), ("mounts", "drain", "--all")):
            command = [*NODESHARE, *words, "--config", str(self.config)]
            subprocess.run(command, timeout=60, check=False, capture_output=True)
