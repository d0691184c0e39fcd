# SPDX-License-Identifier: Apache-2.0
"""What happens on a simulated machine: a text file to which every change is appended as one line.

Readers (this module, and the C library of the tests) follow the file and apply the lines in order;
what a line says holds until a later one says otherwise. Appending needs no lock: each writer adds
its line with one O_APPEND write. A last line without its newline is not there yet; nonsense is
skipped. A replaced or shortened file is read anew from its start. Words are separated by
one blank; `-` stands for "none"; a device is the UUID of a GPU or a slice; memory is in bytes.

    hold <device> <pid> <start ticks|-> <bytes|-> <kinds>   a process (pid on the host) has memory
                                       while it lives; compute, graphics, mps, joined by `+`
    release <device|*> <pid>           it holds no more
    utilisation <gpu> <gpu %> <memory %>
    lose <gpu> | recover <gpu>         fallen off the bus | back
    xid <device> <code>                a critical error, seen once by whoever waits for events
    remove <slice> | restore <slice>   the MIG geometry changes
    slow <symbol|*> <milliseconds>     an NVML function takes that long; 0: no more
    missing <symbol> | present <symbol>   the driver lacks an NVML function (NVML's own names)
    deny <symbol> | permit <symbol>    insufficient permissions
    limit <gpu> <soft|-> <hard|-> <cgroup directory>   set by a simulated driver, or by hand
    unload | reload                    the kernel driver goes | comes (back), with all handles stale
    crowd <n>                          n process lists grow while they are read (C library only)
    clear                              forget all of the above but the xids

Knows no machine: a line about a device that does not exist has no effect.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agents import hostfs
from agents.errors import Unavailable
from agents.processes import identify
from gpu_plugin.devices import ProcessKind


@dataclass(frozen=True, slots=True)
class Hold:
    """Memory that one process holds on one device. `used` None: the driver cannot tell."""

    uuid: str
    pid: int
    start_ticks: int | None
    used: int | None
    kinds: tuple[ProcessKind, ...]

    def alive(self, proc: Path) -> bool:
        """Whether the process is still the one that took the memory."""
        key = identify(proc, self.pid)
        return key is not None and self.start_ticks in (None, key.start_ticks)


@dataclass(slots=True)
class State:
    """All lines so far. `xids` only grows, so that a reader can keep its place in it."""

    holds: dict[tuple[str, int], Hold] = field(default_factory=dict)
    utilisation: dict[str, tuple[int, int]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    slow_ms: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    limits: dict[tuple[str, str], tuple[int | None, int | None]] = field(default_factory=dict)
    loaded: bool = True
    xids: list[tuple[str, int]] = field(default_factory=list)

    def apply(self, line: str) -> None:
        """One line of the file; one that makes no sense changes nothing."""
        verb, _, rest = line.partition(" ")
        try:
            if action := _VERBS.get(verb):
                action(self, rest)
        except (ValueError, KeyError):
            return  # half a line of a writer that died, or a newer writer's


def _hold(state: State, rest: str) -> None:
    uuid, pid, start, used, kinds = rest.split(" ")
    state.holds[uuid, int(pid)] = Hold(
        uuid, int(pid), _number(start), _number(used), tuple(map(ProcessKind, kinds.split("+")))
    )


def _release(state: State, rest: str) -> None:
    uuid, pid = rest.split(" ")
    for key in [key for key in state.holds if key[1] == int(pid) and uuid in ("*", key[0])]:
        del state.holds[key]


def _utilisation(state: State, rest: str) -> None:
    uuid, gpu, memory = rest.split(" ")
    state.utilisation[uuid] = (int(gpu), int(memory))


def _xid(state: State, rest: str) -> None:
    uuid, code = rest.split(" ")
    state.xids.append((uuid, int(code)))


def _slow(state: State, rest: str) -> None:
    symbol, milliseconds = rest.split(" ")
    state.slow_ms[symbol] = int(milliseconds)


def _limit(state: State, rest: str) -> None:
    uuid, soft, hard, cgroup = rest.split(" ", 3)
    state.limits[uuid, cgroup] = (_number(soft), _number(hard))


def _reload(state: State, _: str) -> None:
    state.loaded = True


def _unload(state: State, _: str) -> None:
    state.loaded = False


def _clear(state: State, _: str) -> None:
    fresh = State(xids=state.xids)
    for name in State.__slots__:
        setattr(state, name, getattr(fresh, name))


def _number(word: str) -> int | None:
    return None if word == "-" else int(word)


_VERBS: dict[str, Callable[[State, str], None]] = {
    "hold": _hold,
    "release": _release,
    "utilisation": _utilisation,
    "lose": lambda state, rest: state.lost.add(rest),
    "recover": lambda state, rest: state.lost.discard(rest),
    "xid": _xid,
    "remove": lambda state, rest: state.removed.add(rest),
    "restore": lambda state, rest: state.removed.discard(rest),
    "slow": _slow,
    "missing": lambda state, rest: state.missing.add(rest),
    "present": lambda state, rest: state.missing.discard(rest),
    "deny": lambda state, rest: state.denied.add(rest),
    "permit": lambda state, rest: state.denied.discard(rest),
    "limit": _limit,
    "unload": _unload,
    "reload": _reload,
    "clear": _clear,
}


class StateReader:
    """Follows a state file. A file that is not there means a machine on which nothing happens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state = State()
        self._inode = 0
        self._offset = 0

    def read(self) -> State:
        """The state now. Costs one stat when nothing was written; treat it as read-only."""
        with self._lock:
            for line in self._new_lines():
                self._state.apply(line)
            return self._state

    def _new_lines(self) -> Iterator[str]:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            self._state = State(xids=self._state.xids)
            self._inode, self._offset = stat.st_ino, 0
        if stat.st_size == self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        yield from complete.decode(errors="replace").split("\n")


class SimulatedState:
    """Writes a state file: how a demonstration pod holds memory, and how a fault is injected."""

    def __init__(self, path: Path, *, proc: Path = hostfs.PROC) -> None:
        self.path = path
        self._proc = proc

    def hold(
        self,
        uuid: str,
        pid: int,
        used: int | None,
        kinds: Collection[ProcessKind] = (ProcessKind.COMPUTE,),
    ) -> None:
        """From now on the process holds `used` bytes (instead of what it held) on the device."""
        if (key := identify(self._proc, pid)) is None:
            raise Unavailable(f"no process has the pid {pid}: it cannot hold GPU memory")
        words = "+".join(kind.value for kind in kinds)
        self._append("hold", uuid, pid, key.start_ticks, used, words)

    def release(self, pid: int, uuid: str = "*") -> None:
        """It holds nothing on the device (on any, unless named) any more."""
        self._append("release", uuid, pid)

    def utilise(self, uuid: str, *, gpu_percent: int, memory_percent: int) -> None:
        self._append("utilisation", uuid, gpu_percent, memory_percent)

    def lose(self, uuid: str) -> None:
        self._append("lose", uuid)

    def recover(self, uuid: str) -> None:
        self._append("recover", uuid)

    def xid(self, uuid: str, code: int) -> None:
        self._append("xid", uuid, code)

    def remove(self, uuid: str) -> None:
        """Take a MIG slice away."""
        self._append("remove", uuid)

    def restore(self, uuid: str) -> None:
        self._append("restore", uuid)

    def slow(self, symbol: str, milliseconds: int) -> None:
        self._append("slow", symbol, milliseconds)

    def missing(self, symbol: str, *, missing: bool = True) -> None:
        self._append("missing" if missing else "present", symbol)

    def deny(self, symbol: str, *, denied: bool = True) -> None:
        self._append("deny" if denied else "permit", symbol)

    def limit(self, uuid: str, cgroup: str, *, soft: int | None, hard: int | None) -> None:
        self._append("limit", uuid, soft, hard, cgroup)

    def unload_driver(self) -> None:
        self._append("unload")

    def reload_driver(self) -> None:
        self._append("reload")

    def crowd(self, lists: int) -> None:
        """The next so many process lists grow while they are read (C library only)."""
        self._append("crowd", lists)

    def clear(self) -> None:
        self._append("clear")

    def _append(self, *words: object) -> None:
        line = " ".join("-" if word is None else str(word) for word in words)
        if "\n" in line:
            raise ValueError(f"{line!r} is more than one line")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
