# SPDX-License-Identifier: Apache-2.0
"""Who reads: from the number of a thread to the cgroups of its container.

As lxcfs does it, the first process of the caller's pid namespace stands for the container, so that
a process in a smaller cgroup of its own still sees the container's. But where the caller's cgroup
is named after another container (pods that share one pid namespace), that one is meant.

Every process that was seen is kept as an open /proc/<pid>/cgroup: it costs half as much to read,
tells when the process was moved, and can never come to mean another process with the same number.
Knows no file system and no limit.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import OrderedDict
from dataclasses import dataclass

from agents import processes
from agents.cgroup_formats import CgroupPaths, of_container, parse_paths
from agents.hostfs import HostFs

#: Runtimes name a container's cgroup by its id: 64 hexadecimal digits.
_CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_INIT_SCOPE = "/init.scope"

#: ioctl_nsfs(2), Linux 6.11: which process of ours has this number in that pid namespace.
_NS_GET_TGID_FROM_PIDNS = 0x8004B707

_MOST_PROCESSES = 1024
_MOST_TEXTS = 8192
_READ_SIZE = 16384


@dataclass(frozen=True, slots=True, eq=False)
class Home:
    """A container, by the cgroups that are its own. There is one object for each, so that it can be
    a key. `first`: the process it dates from; None: the oldest one in its cgroup.
    """

    paths: CgroupPaths
    first: int | None = None


class UnknownCaller(LookupError):
    """It cannot be told who asks: he is gone, or in a pid namespace that we do not see."""


class _Process:
    """One process (or thread), and nobody else."""

    def __init__(self, host: HostFs, pid: int) -> None:
        self.descriptor = os.open(host.of_pid(pid, "cgroup"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.namespace = _pid_namespace(host, str(pid))
            self.cgroups()  # it is there yet, so it was its namespace
        except BaseException:
            self.close()
            raise

    def cgroups(self) -> bytes:
        """Where it is now. Raises ProcessLookupError when it has ended."""
        return os.pread(self.descriptor, _READ_SIZE, 0)

    def close(self) -> None:
        os.close(self.descriptor)


class Callers:
    """Not thread-safe. Raises OSError when the host's /proc is not what it should be."""

    def __init__(self, host: HostFs) -> None:
        self._host = host
        self._processes: OrderedDict[int, _Process] = OrderedDict()
        self._first: dict[int, int] = {}
        self._named: dict[bytes, Home | None] = {}
        self._homes: dict[object, Home] = {}
        # The kernel numbers callers as we see them: our own pid namespace is the host's.
        self._host_namespace = _pid_namespace(host, "self")
        first = host.of_pid(1, "cgroup").read_text(errors="surrogateescape")
        self._host_name = container_id(parse_paths(first))

    def home(self, pid: int) -> Home | None:
        """The container of this thread; None: it belongs to the host. Raises UnknownCaller."""
        try:
            caller, cgroups = self._look(pid)
            named = self._own(cgroups)
            if named is not None:
                return named
            if caller.namespace == self._host_namespace:
                return None
            if caller.namespace is None:
                raise UnknownCaller(f"the pid namespace of process {pid} may not be looked at")
            return self._of_namespace(caller.namespace, pid)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise UnknownCaller(f"no process {pid} is seen") from error

    def close(self) -> None:
        while self._processes:
            self._processes.popitem()[1].close()

    def _look(self, pid: int) -> tuple[_Process, bytes]:
        found = self._processes.get(pid)
        if found is not None:
            try:
                text = found.cgroups()
            except ProcessLookupError:  # the number is another one's by now
                del self._processes[pid]
                found.close()
            else:
                self._processes.move_to_end(pid)
                return found, text
        found = _Process(self._host, pid)
        self._processes[pid] = found
        if len(self._processes) > _MOST_PROCESSES:
            self._processes.popitem(last=False)[1].close()
        return found, found.cgroups()

    def _own(self, cgroups: bytes) -> Home | None:
        """By name; None: it is not in a cgroup named after a container, or in the one that all of
        this host runs in."""
        if cgroups not in self._named:
            if len(self._named) >= _MOST_TEXTS:
                self._named.clear()
            paths = parse_paths(cgroups.decode(errors="surrogateescape"))
            name = container_id(paths)
            theirs = None if name is None or name == self._host_name else of_container(paths, name)
            self._named[cgroups] = None if theirs is None else self._known(theirs)
        return self._named[cgroups]

    def _of_namespace(self, namespace: int, pid: int) -> Home:
        first = self._first.get(namespace)
        if first is not None:
            try:
                process, cgroups = self._look(first)
            except (FileNotFoundError, ProcessLookupError):
                pass
            else:
                if process.namespace == namespace:
                    return self._home_of_first(first, cgroups)
            del self._first[namespace]
        first = first_process(self._host, pid, namespace)
        process, cgroups = self._look(first)
        if process.namespace != namespace:
            raise ProcessLookupError
        if len(self._first) >= _MOST_TEXTS:
            self._first.clear()
        self._first[namespace] = first
        return self._home_of_first(first, cgroups)

    def _home_of_first(self, first: int, cgroups: bytes) -> Home:
        named = self._own(cgroups)
        if named is not None:
            return named
        paths = parse_paths(cgroups.decode(errors="surrogateescape"))
        return self._known(without_init_scope(paths), first)

    def _known(self, paths: CgroupPaths, first: int | None = None) -> Home:
        key = paths.unified, tuple(sorted(paths.controllers.items())), first
        found = self._homes.get(key)
        if found is None:
            if len(self._homes) >= _MOST_TEXTS:
                self._homes.clear()
                self._named.clear()
            found = self._homes[key] = Home(paths, first)
        return found


def _pid_namespace(host: HostFs, pid: str) -> int | None:
    """None: it has more rights than we have. Raises OSError when it is gone."""
    try:
        return (host.proc / pid / "ns/pid").stat().st_ino
    except PermissionError:
        return None


def container_id(paths: CgroupPaths) -> str | None:
    """The id of the innermost container that one of these paths names; None: none does."""
    found = [ids[-1] for path in paths.all() if (ids := _CONTAINER_ID.findall(path))]
    return found[0] if found else None


def without_init_scope(paths: CgroupPaths) -> CgroupPaths:
    """Where systemd was started, before it moved itself. Beside v1's controllers the root of
    cgroup2 is no container's."""
    controllers = {name: _outside(path) for name, path in paths.controllers.items()}
    unified = None if paths.unified is None else _outside(paths.unified)
    return CgroupPaths(None if controllers and unified == "/" else unified, controllers)


def _outside(path: str) -> str:
    return path.removesuffix(_INIT_SCOPE) or "/"


def first_process(host: HostFs, pid: int, namespace: int) -> int:
    """The process with number 1 in the pid namespace of `pid`, as the host numbers it.

    Raises ProcessLookupError when it has ended, and everything there with it.
    """
    descriptor = os.open(host.of_pid(pid, "ns/pid"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, _NS_GET_TGID_FROM_PIDNS, 1)
    except ProcessLookupError:
        raise
    except OSError:  # before 6.11
        return search_first_process(host, namespace)
    finally:
        os.close(descriptor)


def search_first_process(host: HostFs, namespace: int) -> int:
    """The same by looking at every process. Raises ProcessLookupError."""
    for pid in processes.pids(host.proc):
        try:
            if host.of_pid(pid, "ns/pid").stat().st_ino != namespace:
                continue
            status = host.of_pid(pid, "status").read_bytes()
        except OSError:
            continue
        numbers = status.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
        if numbers and numbers[-1] == b"1":
            return pid
    raise ProcessLookupError
