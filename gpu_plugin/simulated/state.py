# SPDX-License-Identifier: Apache-2.0
"""What happens on a simulated machine: a text file to which every change is appended as one line.

Readers (this module, and the C library of the tests) follow the file and apply the lines in order;
what a line says holds until a later one says otherwise. Appending needs no lock: each writer adds
its line with one O_APPEND write. A last line without its newline is not there yet; nonsense is
skipped. A replaced or shortened file is read anew from its start. Words are separated by
one blank; `-` stands for "none"; a device is the UUID of a GPU or a slice; memory is in bytes.

    hold <device> <pid> <start ticks|-> <bytes|-> <kinds>   a process (pid on the host) has memory
                                       while it lives; compute, graphics, mps, joined by `+`
    busy <device> <pid> <percent>      its part of the device's time, until its next `hold`
    release <device|*> <pid>           it holds no more
    utilisation <gpu> <gpu %> <memory %>
    lose <gpu> | recover <gpu>         fallen off the bus | back
    unplug <gpu> | plug <gpu>          not in the list of GPUs any more | again
    demand <gpu> <word>                the driver wants a reset, a reboot, ... (`DEMANDS`); nothing
    xid <device> <code>                a critical error, seen once by whoever waits for events
    deaf <gpu> | hearing <gpu>         it tells of no events | it does again
    remove <slice> | restore <slice>   the MIG geometry changes
    make <gpu> <slice> <gpu instance> <compute instance> <bytes> <profile>   a new slice
    mig <gpu> on|off                   its slices are there only while MIG is on
    hang <gpu> <milliseconds>          every call about it takes that long; 0: no more
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
from collections.abc import Collection, Iterator
from dataclasses import astuple
from pathlib import Path

from agents import hostfs
from agents.errors import Unavailable
from agents.processes import identify
from gpu_plugin.devices import ProcessKind
from gpu_plugin.simulated.happenings import Made, State


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
            self._state = State(xids=self._state.xids, loads=self._state.loads)
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

    def busy(self, uuid: str, pid: int, percent: int) -> None:
        """From now on the process uses that part of the device's time."""
        self._append("busy", uuid, pid, percent)

    def release(self, pid: int, uuid: str = "*") -> None:
        """It holds nothing on the device (on any, unless named) any more."""
        self._append("release", uuid, pid)

    def utilise(self, uuid: str, *, gpu_percent: int, memory_percent: int) -> None:
        self._append("utilisation", uuid, gpu_percent, memory_percent)

    def lose(self, uuid: str) -> None:
        self._append("lose", uuid)

    def recover(self, uuid: str) -> None:
        self._append("recover", uuid)

    def unplug(self, uuid: str, *, unplugged: bool = True) -> None:
        self._append("unplug" if unplugged else "plug", uuid)

    def demand(self, uuid: str, word: str) -> None:
        """One of `DEMANDS`, or `nothing`."""
        self._append("demand", uuid, word)

    def xid(self, uuid: str, code: int) -> None:
        self._append("xid", uuid, code)

    def deafen(self, uuid: str, *, deaf: bool = True) -> None:
        self._append("deaf" if deaf else "hearing", uuid)

    def hang(self, uuid: str, milliseconds: int) -> None:
        """Every call about this GPU (or one of its slices) takes that long."""
        self._append("hang", uuid, milliseconds)

    def switch_mig(self, uuid: str, *, on: bool) -> None:
        self._append("mig", uuid, "on" if on else "off")

    def make(self, slice_: Made) -> None:
        """A new MIG slice."""
        self._append("make", *astuple(slice_))

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
