# SPDX-License-Identifier: Apache-2.0
"""Read the host's files into the values that views are rendered from.

Decides nothing and knows no container. What cannot change while CPUs neither come nor go, and
nobody sets the clock, is read once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from agents.cgroup_formats import parse_cpu_list
from agents.errors import Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.facts import HostCpus, HostFacts
from lxcfs_helper.views import TARGETS

_BOOT_TIME = re.compile(r"^btime (\d+)$", re.MULTILINE)
_DISK = re.compile(r"^ *(\d+) +(\d+) +(\S+)", re.MULTILINE)
#: What process start times are counted in, for a second.
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

#: When the clock is set by more than this, the host was booted at another time.
_CLOCK_SET_S = 0.5

#: Of the CPU directory: what tells of the kernel and the type of processor, not of its use.
_CONSTANTS = ("kernel_max", "smt/active", "vulnerabilities/*")
#: Dynamic files of /proc that nothing is rendered from.
_COMPARED = (
    *("stat", "loadavg", "uptime", "diskstats"),
    *("pressure/cpu", "pressure/memory", "pressure/io"),
)
#: Of a cache: its shape. Whose it is depends on who is shown.
_CACHE_SHAPE = (
    "type",
    "level",
    "size",
    "coherency_line_size",
    "number_of_sets",
    "physical_line_partition",
    "ways_of_associativity",
)


class HostReader:
    """`targets` are all that views can be shown at."""

    def __init__(self, host: HostFs, targets: Collection[Path] = TARGETS) -> None:
        self._host = host
        self._targets = targets
        self._cpus_text = ""
        self._cpus: frozenset[int] = frozenset()
        self._cpuinfo = ""
        self._boot_time = 0
        self._clocks_apart_s = 0.0
        self._sys_cpus = HostCpus()
        self._offers: frozenset[Path] = frozenset()

    def read(self) -> HostFacts:
        """Raises Unavailable when the host's files are not where they should be."""
        try:
            meminfo = parse_meminfo((self._host.proc / "meminfo").read_text())
            self._read_cpus()
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"cannot read the host's own files: {error}",
                remedy="check node.host in the configuration",
            ) from error
        return HostFacts(
            meminfo,
            self._cpuinfo,
            self._cpus,
            self._boot_time,
            CLOCK_TICKS,
            self._sys_cpus,
            _disks(self._host),
            self._offers,
        )

    def read_for_people(self) -> HostFacts:
        """With the files that people compare."""
        host = self.read()
        proc = self._host.proc
        return replace(host, texts=_texts(proc, [proc / name for name in _COMPARED]))

    def _read_cpus(self) -> None:
        text = (self._host.cpu_devices / "online").read_text()
        apart_s = _clocks_apart_s()
        if text == self._cpus_text and abs(apart_s - self._clocks_apart_s) < _CLOCK_SET_S:
            return
        cpus = parse_cpu_list(text)
        boot_time = _BOOT_TIME.search((self._host.proc / "stat").read_text())
        if cpus is None or boot_time is None:
            raise ValueError("no CPU is online, or there is no boot time")
        self._cpuinfo = (self._host.proc / "cpuinfo").read_text(errors="surrogateescape")
        self._sys_cpus = _sys_cpus(self._host.cpu_devices, min(cpus))
        self._offers = frozenset(at for at in self._targets if self._host.located(at).exists())
        self._cpus, self._boot_time, self._cpus_text = cpus, int(boot_time[1]), text
        self._clocks_apart_s = apart_s


def _clocks_apart_s() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def parse_meminfo(text: str) -> dict[str, int]:
    """`Name:   number [kB]` lines, in order."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon:
            values[name] = int(rest.removesuffix("kB"))
    if "MemTotal" not in values:
        raise ValueError("meminfo has no MemTotal")
    return values


def _disks(host: HostFs) -> dict[tuple[int, int], str]:
    try:
        text = (host.proc / "diskstats").read_text(errors="surrogateescape")
    except OSError:  # a kernel without block devices
        return {}
    return {(int(major), int(minor)): name for major, minor, name in _DISK.findall(text)}


def _sys_cpus(directory: Path, cpu: int) -> HostCpus:
    own = directory / f"cpu{cpu}"
    topology = own / "topology"
    names = frozenset(os.listdir(topology)) if topology.is_dir() else frozenset()
    caches = [
        _texts(cache, [cache / name for name in _CACHE_SHAPE])
        for cache in sorted(own.glob("cache/index*"), key=lambda path: int(path.name[5:]))
    ]
    files = [file for pattern in _CONSTANTS for file in sorted(directory.glob(pattern))]
    return HostCpus(names, tuple(caches), _texts(directory, files))


def _texts(directory: Path, files: Collection[Path]) -> Mapping[str, str]:
    """What can be read of these, by the path below the directory."""
    found = {}
    for file in files:
        try:
            found[str(file.relative_to(directory))] = file.read_text().rstrip("\n")
        except OSError:  # not on this processor
            continue
    return found
