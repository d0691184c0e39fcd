# SPDX-License-Identifier: Apache-2.0
"""Runs containers as real children: the stand-in's `Runtime`, in the place of containerd and runc.

Knows what was started, and hands it to the small program that becomes the container; this process
itself enters no namespace and mounts nothing. A container lives on when this process is killed:
`agents.standin.leftovers` finds it by its marks.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents import command
from agents.command import Child, Result
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.processes import wait_exit
from agents.standin import container_programs, run_directory
from agents.standin.cgroup_limits import Limits
from agents.standin.cgroup_tree import CgroupTree
from agents.standin.container_plan import cgroup_path, check, environment
from agents.standin.launch import CgroupDirectory, Entry, Launch
from agents.standin.pods import ContainerStart, RunningContainer

_KILL_S = 5.0
_MAX_LOG = 1 << 20


@dataclass(slots=True)
class _Held:
    """A container and what we hold of it. `pidfd` is of its first process; `shim` is its parent."""

    running: RunningContainer
    pidfd: int
    shim: Child
    changing: threading.Lock = field(default_factory=threading.Lock)

    def observed(self) -> RunningContainer:
        code = self.shim.poll()
        if code is None:
            return self.running
        # A shim that was killed takes its container along, and cannot say how that ended.
        return replace(self.running, exit_code=code if code >= 0 else 128 - code)


class ContainerRunner:
    """`Runtime` with real namespaces, cgroups and mounts. Needs root.

    Keeps `<directory>/<id>/log` (the output) and `<directory>/<id>/rootfs` (a mount point, empty
    outside the container). `busybox` is a static binary to make roots of, instead of the host's
    userland. Raises AgentError when this machine does not let us.
    """

    def __init__(
        self,
        directory: Path,
        cgroup_parent: str,
        host: HostFs,
        *,
        busybox: Path | None = None,
    ) -> None:
        if os.geteuid() != 0:
            raise AgentError("containers need root", remedy="run it with sudo")
        self._parent, self._host = cgroup_parent, host
        self._busybox = None if busybox is None else container_programs.inspect_busybox(busybox)
        self._tree = CgroupTree(host, cgroup_parent)
        self._directory = run_directory.claim(directory)
        self._marks = run_directory.environment(directory)
        self._tree.create(self._tree.parent)
        self._containers: dict[str, _Held] = {}
        self._starting: set[str] = set()
        self._changing = threading.Lock()
        self._closed = False

    @property
    def missing_controllers(self) -> frozenset[str]:
        """Limits (cpu, memory, cpuset) that this machine's cgroups cannot set: they are ignored."""
        return self._tree.missing(self._tree.parent)

    def start(self, start: ContainerStart) -> RunningContainer:
        """Start it, and answer when its program runs. Raises AgentError in the runtime's words."""
        check(start)
        with self._changing:
            if self._closed:
                raise AgentError("the container runner was closed")
            if start.id in self._containers or start.id in self._starting:
                raise AgentError(f"container {start.id!r} exists already")
            self._starting.add(start.id)
        try:
            held = self._started(start)
            with self._changing:
                self._containers[start.id] = held
        finally:
            with self._changing:
                self._starting.discard(start.id)
                closed = self._closed
        if closed:
            self.remove(start.id)  # `close` did not see it yet
            raise AgentError("the container runner was closed")
        return held.running

    def containers(self) -> tuple[RunningContainer, ...]:
        """All that were started and not removed, ended ones with their exit code."""
        with self._changing:
            held = tuple(self._containers.values())
        return tuple(container.observed() for container in held)

    def log(self, container_id: str) -> str:
        """What the container has written to stdout and stderr: the last MiB of it."""
        self._find(container_id)
        with (self._directory / container_id / "log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX_LOG))
            return file.read().decode(errors="replace")

    def exec(self, container_id: str, argv: Sequence[str], *, timeout_s: float) -> Result:
        """Run a command inside, as `kubectl exec` does, and kill it after `timeout_s`.

        A command that cannot be run has the code 126 or 127. Raises AgentError when the container
        does not run.
        """
        if not argv:
            raise AgentError("no command to run")
        running, pidfd = self._pin(container_id)
        try:
            entry = Entry(
                tuple(argv),
                environment(running.start, self._marks),
                self._tree.directories(running.cgroup),
            )
            return container_programs.run_inside(pidfd, entry, self._marks, timeout_s=timeout_s)
        finally:
            os.close(pidfd)

    def update_limits(
        self,
        container_id: str,
        *,
        cpu_millis: int | None = None,
        memory_bytes: int | None = None,
    ) -> RunningContainer:
        """Resize in place; None leaves a limit as it is. Raises AgentError when it is refused."""
        held = self._find(container_id)
        with held.changing:
            self._tree.limit(held.running.cgroup, Limits(cpu_millis, memory_bytes))
            spec = held.running.start.spec
            spec = replace(
                spec,
                cpu_millis=spec.cpu_millis if cpu_millis is None else cpu_millis,
                memory_bytes=spec.memory_bytes if memory_bytes is None else memory_bytes,
            )
            held.running = replace(held.running, start=replace(held.running.start, spec=spec))
        return held.observed()

    def stop(self, container_id: str, *, grace_s: float = 0.0) -> None:
        """SIGTERM, wait, SIGKILL. Raises Unavailable when a process survives that for 5 s."""
        held = self._find(container_id)
        with held.changing:
            self._end(held, grace_s)

    def remove(self, container_id: str) -> None:
        """Stop if need be, and take away cgroup and directory. Nothing to do for an unknown one."""
        with self._changing:
            held = self._containers.get(container_id)
        if held is None:
            return
        with held.changing:
            if self._containers.get(container_id) is not held:
                return  # removed by another thread meanwhile
            self._end(held, 0.0)
            self._discard(container_id, held.running.cgroup)
            with self._changing:
                del self._containers[container_id]
                os.close(held.pidfd)

    def close(self) -> None:
        """Remove everything that was started; nothing can be started any more.

        Goes on after a container that cannot be removed, and raises its AgentError in the end.
        """
        with self._changing:
            self._closed = True
            ids = list(self._containers)
        problems = []
        for container_id in ids:
            try:
                self.remove(container_id)
            except AgentError as error:
                problems.append(error)
        if problems:
            raise problems[0]
        self._tree.remove(self._tree.parent)
        run_directory.release(self._directory)

    def _started(self, start: ContainerStart) -> _Held:
        cgroup = cgroup_path(self._parent, start)
        place = self._directory / start.id
        limits = Limits(start.spec.cpu_millis, start.spec.memory_bytes, start.spec.cpuset)
        try:
            self._tree.create(cgroup, limits)
            (place / "rootfs").mkdir(parents=True)
            launch = self._launch(start, cgroup, place / "rootfs")
            started = container_programs.start_container(launch, place / "log", self._marks)
        except (AgentError, OSError) as error:
            try:
                self._tree.kill(cgroup, timeout_s=_KILL_S)
                self._discard(start.id, cgroup)
            except AgentError:
                pass  # why it did not start matters more; the next run sweeps what is left
            if isinstance(error, AgentError):
                raise
            raise AgentError(f"cannot start container {start.spec.name!r}: {error}") from error
        running = RunningContainer(start, started.pid, cgroup, time.time_ns())
        return _Held(running, started.pidfd, started.shim)

    def _launch(self, start: ContainerStart, cgroup: str, root: Path) -> Launch:
        roots = self._tree.roots
        names = [""] if roots == (self._host.cgroup,) else [root.name for root in roots]
        directories = zip(self._tree.directories(cgroup), names, strict=True)
        return Launch(
            hostname=start.pod.name,
            argv=tuple(start.spec.command),
            env=environment(start, self._marks),
            root=root,
            host=self._host,
            cgroups=tuple(CgroupDirectory(path, name) for path, name in directories),
            volumes=(*start.volumes, *start.spec.volumes),
            devices=tuple(start.devices),
            busybox=self._busybox,
        )

    def _find(self, container_id: str) -> _Held:
        with self._changing:
            held = self._containers.get(container_id)
        if held is None:
            raise AgentError(f"no container {container_id!r}")
        return held

    def _pin(self, container_id: str) -> tuple[RunningContainer, int]:
        """A running container, with a pidfd of our own: another thread may remove it meanwhile."""
        with self._changing:
            held = self._containers.get(container_id)
            if held is None or held.observed().exit_code is not None:
                raise AgentError(f"container {container_id!r} does not run")
            return held.running, os.dup(held.pidfd)

    def _end(self, held: _Held, grace_s: float) -> None:
        if held.shim.poll() is None:
            _signal(held.pidfd, signal.SIGTERM)
            wait_exit(held.pidfd, grace_s)
        _signal(held.pidfd, signal.SIGKILL)  # with it, the kernel ends its whole pid namespace
        _, left = self._tree.kill(held.running.cgroup, timeout_s=_KILL_S)
        if left:
            raise Unavailable(
                f"processes {sorted(left)} of container {held.running.start.id!r} survive SIGKILL",
                remedy="they wait in the kernel: look at the mounts and devices that they use",
            )
        if not command.wait(held.shim, _KILL_S):
            command.end(held.shim)

    def _discard(self, container_id: str, cgroup: str) -> None:
        left = self._tree.remove(cgroup)
        self._tree.prune(cgroup)
        kept = run_directory.remove_tree(self._directory / container_id)
        if left or kept:
            raise Unavailable(f"cannot remove {', '.join(map(str, (*left, *kept)))}")


def _signal(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
