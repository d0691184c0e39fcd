# SPDX-License-Identifier: Apache-2.0
"""The demonstration: which configuration, which pods, and what each pod sees of itself.

The content is data (`demonstration.yaml`); the agents are commands like on any machine. Knows no
agent's code: GPU memory is held through the command `nodeshare gpu hold`, as a driver would account
it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Protocol

import trio
import yaml

from agents import command
from agents.command import NODESHARE, Result
from agents.config import parse_size
from agents.errors import AgentError
from agents.logs import get_logger
from agents.overview import Seen
from agents.standin.kubelet import ContainerStateName, ContainerStatus, EmbeddedKubelet, PodStatus
from agents.standin.pods import (
    ContainerSpec,
    PodPhase,
    PodSpec,
    RestartPolicy,
    Runtime,
    Volume,
    VolumePropagation,
)
from agents.tables import UNKNOWN, Table

#: Where the pods see the shared root of all mounts.
_DATA_DIR = "/data"
#: The limits that the pods have.
_LIMITED = frozenset({"cpu", "memory"})
_CONFIG = "config.yaml"
_COMMAND_S = 10.0
_READ_PERIOD_S = 3.0
_WAIT_PERIOD_S = 0.2
#: What a pod is asked about itself: CPUs and memory from its own /proc, and a file from the mount.
#: One line for each question, which holds the error where there is no answer.
_LOOK = f"""
echo online $(getconf _NPROCESSORS_ONLN 2>&1)
echo processors $(grep -c ^processor /proc/cpuinfo 2>&1)
echo memory $(free -m 2>&1)
echo file $(head -c 200 {_DATA_DIR}/shared/welcome.txt 2>&1)
"""
_FREE = re.compile(r"Mem: (\d+) (\d+) ")


@dataclass(frozen=True, slots=True)
class DemonstrationPod:
    """One pod as the data file describes it. `holds` is GPU memory, such as `6GiB`."""

    spec: PodSpec
    resource: str
    units: int
    holds: str


@dataclass(frozen=True, slots=True)
class PodView:
    """What is known of a demonstration pod now. None: not known (yet)."""

    pod: DemonstrationPod
    status: PodStatus | None = None
    cpus: str | None = None
    memory_mib: str | None = None
    used_mib: str | None = None
    file: str | None = None
    problem: str | None = None


class PodRunner(Runtime, Protocol):
    """A runtime whose containers can be looked at from inside."""

    @property
    def missing_controllers(self) -> frozenset[str]:
        """Limits (cpu, memory, cpuset) that this machine cannot set."""

    def exec(self, container_id: str, argv: Sequence[str], *, timeout_s: float) -> Result:
        """Raises AgentError when the container does not run."""


class Demonstration:
    """Admits the pods when the agents are there, and looks at them from inside."""

    def __init__(
        self,
        directory: Path,
        data: Mapping[str, Any],
        kubelet: EmbeddedKubelet,
        runner: PodRunner,
    ) -> None:
        self._directory, self._kubelet, self._runner = directory, kubelet, runner
        mounts = Path(data["config"]["fuse_mounter"]["root"])
        self.views = {
            pod.spec.key: PodView(pod) for pod in (_pod(entry, mounts) for entry in data["pods"])
        }

    async def run(self) -> None:
        """Until cancelled. A pod whose resource or mount does not come stays Pending, with the
        reason.
        """
        async with trio.open_nursery() as nursery:
            for key in self.views:
                nursery.start_soon(self._show, key)

    async def _show(self, key: str) -> None:
        pod = self.views[key].pod
        # Abandoned at the end: a plugin that hangs lets it wait for as long as it likes.
        await trio.to_thread.run_sync(self._kubelet.create, pod.spec, abandon_on_cancel=True)
        held: str | None = None  # the container that was told to; the next one begins anew
        while True:
            status = self._kubelet.pod(key)
            container = status.containers[0]
            if container.state is ContainerStateName.RUNNING:
                self.views[key] = replace(self.views[key], status=status)
                if held != container.id:
                    await self._hold(pod, container)
                    held = container.id
                await self._look_inside(key, container)
            else:
                self.views[key] = PodView(pod, status, problem=status.message or container.message)
                held = None
            await trio.sleep(_READ_PERIOD_S if held else _WAIT_PERIOD_S)

    async def _hold(self, pod: DemonstrationPod, container: ContainerStatus) -> None:
        """Let the pod's first process hold a part of its share, as CUDA would."""
        device, _, _ = container.devices[pod.resource][0].rpartition("::")
        result = await command.run(
            [
                *(*NODESHARE, "gpu", "hold", "--state", str(self._directory / "gpu-state")),
                *("--device", device, "--pid", str(container.pid), "--memory", pod.holds),
            ],
            timeout_s=_COMMAND_S,
        )
        if not result.ok:
            get_logger().warning("gpu memory not held", error=result.describe())

    async def _look_inside(self, key: str, container: ContainerStatus) -> None:
        container_id = container.id
        assert container_id is not None
        try:
            result = await trio.to_thread.run_sync(
                lambda: self._runner.exec(container_id, ["sh", "-c", _LOOK], timeout_s=_COMMAND_S),
                abandon_on_cancel=True,
            )
        except (AgentError, OSError) as error:  # OSError: no memory or no process left for it
            self.views[key] = replace(self.views[key], problem=str(error))
            return
        self.views[key] = read_look(self.views[key], result.output)

    def stop(self) -> None:
        """End the pods. Blocks; bounded by the runner."""
        try:
            self._runner.close()
        except AgentError as error:  # the agents are to be stopped all the same
            get_logger().warning("pods not ended", error=str(error))

    def next_steps(self, seen: Sequence[Seen]) -> list[str]:
        """What to try now, with the process ids and addresses of this run."""
        documents = {one.agent.section: one.document or {} for one in seen}
        steps = []
        for mount in documents.get("fuse_mounter", {}).get("mounts", ()):
            if mount.get("client_pid"):
                pid, name = mount["client_pid"], mount["name"]
                steps.append(f"try: kill -9 {pid}   and watch the mount {name!r} come back")
        if containers := documents.get("lxcfs_helper", {}).get("containers"):
            pod, configuration = containers[0]["pod"], shlex.quote(str(self._directory / _CONFIG))
            steps.append(f"try: nodeshare view show {pod} --config {configuration}")
        for document in documents.values():
            if page := document.get("page"):
                steps.append(f"try: curl {page}/status.json   curl {document['metrics']}/metrics")
                break
        return [*steps, "Ctrl-C ends everything and leaves nothing behind"]

    def table(self) -> Table:
        """What the operator sees: what a pod was given, and what it sees."""
        missing = sorted(self._runner.missing_controllers & _LIMITED)
        return Table(
            "Pods",
            (
                "pod",
                "phase",
                "given",
                "sees CPUs",
                "sees MiB",
                "used MiB",
                "/data/shared/welcome.txt",
            ),
            [_row(view) for view in self.views.values()],
            note=f"this machine's cgroups do not limit {', '.join(missing)}" if missing else "",
            measured=frozenset({"used MiB"}),
        )


def load(directory: Path, *, free_ports: bool) -> dict[str, Any]:
    """The data file with its paths filled in. `free_ports` asks the kernel for every port."""
    text = files("agents.standin").joinpath("demonstration.yaml").read_text()
    data: dict[str, Any] = _filled_in(yaml.safe_load(text), str(directory))
    if free_ports:
        free = dict.fromkeys(("gpu_plugin", "fuse_mounter", "lxcfs_helper"), 0)
        data["config"]["node"]["metrics"]["ports"] = free
        data["config"]["node"]["status"] = {"ports": free | {"up": 0}}
    return data


def _filled_in(value: Any, directory: str) -> Any:
    # Not in the text: a path may hold what means something to YAML.
    match value:
        case str():
            return Template(value).substitute(dir=directory)
        case dict():
            return {key: _filled_in(item, directory) for key, item in value.items()}
        case list():
            return [_filled_in(item, directory) for item in value]
        case _:
            return value


def prepare(directory: Path, data: Mapping[str, Any]) -> Path:
    """Write the configuration and the folder that is mounted; returns the configuration's path."""
    for name in ("run", "state", "logs", "data"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for name, content in data["data"].items():
        (directory / "data" / name).write_text(content)
    path = directory / _CONFIG
    path.write_text(yaml.safe_dump(data["config"], sort_keys=False))
    return path


def read_look(view: PodView, output: str) -> PodView:
    """What `_LOOK` printed; an answer that is none stands in its column."""
    answers = dict(line.partition(" ")[::2] for line in output.splitlines())
    if not {"online", "processors", "memory", "file"} <= answers.keys():
        return replace(view, problem=output.strip() or "the pod did not answer")
    online, processors = answers["online"], answers["processors"]
    cpus = online if online == processors else f"{online} (cpuinfo: {processors})"
    memory = _FREE.search(answers["memory"])
    total, used = memory.groups() if memory else (answers["memory"], None)
    return replace(
        view, cpus=cpus, memory_mib=total, used_mib=used, file=answers["file"], problem=None
    )


def _pod(entry: Mapping[str, Any], mounts: Path) -> DemonstrationPod:
    memory = parse_size(entry["memory"])
    assert isinstance(memory, int)
    container = ContainerSpec(
        name="notebook",
        # A shell that waits: it ends at once when it is told to.
        command=["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"],
        resources={entry["resource"]: entry["units"]},
        volumes=[Volume(mounts, _DATA_DIR, propagation=VolumePropagation.HOST_TO_CONTAINER)],
        cpu_millis=int(entry["cpu"].removesuffix("m")),
        memory_bytes=memory,
    )
    spec = PodSpec(
        entry["name"],
        [container],
        namespace=entry["namespace"],
        restart_policy=RestartPolicy.ALWAYS,
    )
    return DemonstrationPod(spec, entry["resource"], entry["units"], entry["holds"])


def _row(view: PodView) -> Sequence[str]:
    spec = view.pod.spec.containers[0]
    memory = (spec.memory_bytes or 0) >> 20
    given = f"{spec.cpu_millis}m, {memory} MiB, {view.pod.units} {view.pod.resource}"
    last = view.problem or view.file or UNKNOWN
    return (
        view.pod.spec.key,
        _phase(view.status),
        given,
        view.cpus or UNKNOWN,
        view.memory_mib or UNKNOWN,
        view.used_mib or UNKNOWN,
        last,
    )


def _phase(status: PodStatus | None) -> str:
    """As `kubectl get pods` tells it: the phase, or why a container waits."""
    if status is None:
        return PodPhase.PENDING.value
    container = status.containers[0]
    if container.state is ContainerStateName.WAITING and container.message:
        return container.reason
    return status.phase.value
