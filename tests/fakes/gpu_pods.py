# SPDX-License-Identifier: Apache-2.0
"""A node whose pods are real: the embedded kubelet, the container runner with its CRI answers, and
the GPU agent as a process on a simulated machine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources as packaged
from pathlib import Path

from agents.hostfs import CGROUP, HostFs
from agents.standin.cri_server import CriServer
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.leftovers import sweep
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec, RestartPolicy
from agents.standin.runtime import ContainerRunner
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes.gpu_node import LIMIT_S, SHARED, Agent

#: A shell that waits: it ends at once when it is told to.
WAITS = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
_SOURCE = """
  simulate: %s
  simulated_state: {0}/gpu-state
  enforcement: %s
"""
#: Where the driver can limit memory by cgroup, which it does on v2 alone.
CGROUP2 = CGROUP if (CGROUP / "cgroup.controllers").exists() else CGROUP / "unified"


class GpuPods:
    """`agent` is the running one. Containers have busybox alone, where a `busybox` is given.
    `simulate` is the machine that agents find, by name or file; `host_cgroup` their cgroup tree.
    """

    def __init__(self, directory: Path, cgroup: str, busybox: Path | None) -> None:
        self.directory = directory
        self.machine = load_machine("demo")
        self.simulate: str | Path = "demo"
        self.host_cgroup = CGROUP
        self.state = SimulatedState(directory / "gpu-state")
        self.runner = ContainerRunner(directory / "pods", cgroup, HostFs(), busybox=busybox)
        self.kubelet = EmbeddedKubelet(directory / "kubelet", self.runner)
        self.runtime = CriServer(directory / "cri.sock", self.runner, self.kubelet.sandboxes)
        self.agent: Agent

    def start(self, enforcement: str = "{}") -> Agent:
        """The agent, and wait until its units are offered."""
        self.agent = self.another("run", enforcement)
        self.until(lambda: self._offered() > 0, "units are offered")
        return self.agent

    def another(self, copy: str, enforcement: str) -> Agent:
        """One more on the same node, with a run directory of its own. The caller ends it."""
        source = _SOURCE % (self.simulate, enforcement.replace("{", "{{").replace("}", "}}"))
        return Agent(
            self.directory,
            copy=copy,
            source=source,
            cgroup=self.host_cgroup,
            in_pod=self.host_cgroup != CGROUP2,  # where drivers limit, pods are privileged
        )

    def let_the_driver_limit(self) -> None:
        """Agents that start from now on find a driver that can, and cgroup v2 alone."""
        text = (packaged.files("gpu_plugin.simulated") / "machines/demo.yaml").read_text()
        self.simulate, self.host_cgroup = self.directory / "limits.yaml", CGROUP2
        self.simulate.write_text(text.replace("machine:\n", "machine:\n  memory_limits: true\n", 1))

    def _offered(self) -> int:
        known = self.kubelet.resources().get(SHARED)
        return known.allocatable if known else 0

    def pod(
        self,
        name: str = "ada",
        units: int = 8,
        *,
        command: tuple[str, ...] = WAITS,
        annotations: Mapping[str, str] | None = None,
        resources: Mapping[str, int] | None = None,
        restart: RestartPolicy = RestartPolicy.ALWAYS,
    ) -> int:
        """A notebook; returns the pid of its first process on the host."""
        wanted = {SHARED: units} if units else {}
        container = ContainerSpec("notebook", command, resources={**wanted, **(resources or {})})
        spec = PodSpec(
            name,
            [container],
            namespace="jupyterhub",
            annotations=annotations or {},
            restart_policy=restart,
        )
        status = self.kubelet.admit(spec)
        assert status.phase is PodPhase.RUNNING, status.message
        pid = status.containers[0].pid
        assert pid is not None
        return pid

    def device(self, name: str = "ada") -> str:
        """The first one of which the pod holds units."""
        ids = self.kubelet.pod(f"jupyterhub/{name}").containers[0].devices[SHARED]
        return ids[0].partition("::")[0]

    def shell(self, command: str, name: str = "ada") -> str:
        """What a command prints inside; it must succeed."""
        container = self.kubelet.pod(f"jupyterhub/{name}").containers[0]
        assert container.id is not None
        result = self.runner.exec(container.id, ["sh", "-c", command], timeout_s=10)
        assert result.ok, result
        return result.output

    def shown(self, name: str = "ada") -> str:
        """What the container is shown."""
        return self.shell("cat /run/nodeshare/gpu/status", name)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        assert self.kubelet.wait_for(condition, LIMIT_S), f"never happened: {what}\n{self.log()}"

    def log(self) -> str:
        path = self.directory / "agent.log"
        return path.read_text()[-6000:] if path.exists() else ""

    def close(self) -> None:
        if hasattr(self, "agent"):
            self.agent.process.kill()
            self.agent.process.wait(10)
        self.runner.close()
        self.kubelet.stop()
        self.runtime.stop()


@contextmanager
def gpu_pods(cgroup: str, busybox: Path | None = None) -> Iterator[GpuPods]:
    """`cgroup` is a unique name. Gone after it, with all that it started."""
    # Short: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="nsgpu"))
    try:
        made = GpuPods(directory, cgroup, busybox)
        try:
            made.kubelet.start()
            made.runtime.start()
            yield made
        finally:
            made.close()
    finally:
        sweep(directory / "pods", cgroup, HostFs())
        shutil.rmtree(directory)
