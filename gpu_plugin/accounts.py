# SPDX-License-Identifier: Apache-2.0
"""The work of one scan: whose are the processes that the driver listed, and what was given to whom.
Blocking; of one thread.

Ties `process_origins`, `container_index` and the records of allocations together; `accounting` and
`granting` decide. Asks no driver and no socket: what kubelet and runtime tell is brought here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from agents.container_cgroups import ContainerCgroup
from agents.hostfs import HostFs
from agents.published import Published
from gpu_plugin import accounting
from gpu_plugin.accounting import Accounting
from gpu_plugin.carriers import home_of
from gpu_plugin.container_index import ContainerIndex
from gpu_plugin.container_names import Told
from gpu_plugin.granting import granted
from gpu_plugin.identity import Allocation, Allocations
from gpu_plugin.process_origins import ProcessOrigins
from gpu_plugin.readings import Readings

#: A file system may tell two changes within its clock's grain apart no better than by this.
_GRAIN_NS = 50_000_000


class Accounts:
    """`told` is what kubelet and runtime told last, set by whoever asks them."""

    def __init__(self, host: HostFs, allocations: Allocations) -> None:
        self.told = Published(Told())
        self._origins = ProcessOrigins(host)
        self._index = ContainerIndex(
            host, partial(home_of, allocations.containers), ProcessOrigins(host)
        )
        self._records = _Records(allocations)

    def account(self, readings: Readings) -> Accounting:
        """Raises OSError when the agent's own directory cannot be read."""
        listed = (one.processes for one in readings.values() if one.processes is not None)
        origins = self._origins.of({process.pid for found in listed for process in found})
        places = {origin.place for origin in origins.values()}
        using = {place for place in places if isinstance(place, ContainerCgroup)}
        names, recorded = self._records.read()
        holdings = self._index.look(names, using)
        sizes = {uuid: one.memory.total for uuid, one in readings.items()}
        given = granted(holdings.values(), recorded, self.told.value, sizes.get)
        return accounting.account(
            readings,
            origins,
            given.containers,
            at=time.monotonic(),
            wall=time.time(),
            after_boot=time.clock_gettime(time.CLOCK_BOOTTIME),
            doubts=given.doubts,
        )


class _Records:
    """Names of all allocation directories, and the records of those that have one; read again only
    when something was made, mended or taken away.
    """

    def __init__(self, allocations: Allocations) -> None:
        self._allocations = allocations
        self._read_at: tuple[int, int] | None = None
        self._names: frozenset[str] = frozenset()
        self._recorded: Mapping[str, Allocation] = {}

    def read(self) -> tuple[frozenset[str], Mapping[str, Allocation]]:
        directories = (self._allocations.containers, self._allocations.records)
        first, second = (directory.stat().st_mtime_ns for directory in directories)
        if self._read_at != (first, second):
            now = time.time_ns()
            self._names = self._allocations.names()
            self._recorded = {one.name: one for one in self._allocations.recorded()}
            settled = max(first, second) < now - _GRAIN_NS
            self._read_at = (first, second) if settled else None
        return self._names, self._recorded
