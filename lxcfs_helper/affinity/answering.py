# SPDX-License-Identifier: Apache-2.0
"""Which answer a call gets: whose it is, whom it asks about, and what that one is to be told.

Touches no memory and sends nothing; knows containers by their id and terms alone.
"""

from __future__ import annotations

from agents.cgroups import LinuxCgroups
from agents.hostfs import HostFs
from agents.seccomp_notify import Notification
from lxcfs_helper.affinity import answers, threads
from lxcfs_helper.affinity.answers import Answer
from lxcfs_helper.affinity.syscalls import ABIS, Call
from lxcfs_helper.affinity.values import Terms, Values


class Answering:
    """For one thread at a time. Raises Unavailable on a machine whose calls are not known."""

    def __init__(self, host: HostFs) -> None:
        self._host = host
        self._cgroups = LinuxCgroups(host)
        self._affinities = threads.Affinities(host)
        self._values: dict[str, tuple[Terms, Values]] = {}

    def answer(
        self, container_id: str, terms: Terms, call: Call, asked: Notification
    ) -> Answer | None:
        """None: it is the kernel's to answer. Raises Unavailable or OSError when values cannot be
        read."""
        if call is Call.SCHED_GETAFFINITY:
            return self._affinity(container_id, terms, asked)
        if call is Call.SYSINFO:
            info = self._of(container_id, terms).system()
            abi = ABIS[asked.architecture]
            return None if info is None else answers.system_info(abi, info, asked.arguments[0])
        return None

    def forget(self, container_id: str) -> None:
        """It is gone."""
        known = self._values.pop(container_id, None)
        if known is not None:
            known[1].close()

    def close(self) -> None:
        for container_id in [*self._values]:
            self.forget(container_id)

    def _affinity(self, container_id: str, terms: Terms, asked: Notification) -> Answer | None:
        pid, length, address = asked.arguments[:3]
        values = self._of(container_id, terms)
        thread = threads.meant(self._host, asked.pid, _signed(pid), values.threads)
        if thread is None or not self._is_its(thread, asked.pid, container_id):
            return None
        real = self._affinities.of(thread)
        if real is None:
            return None
        return answers.affinity(
            ABIS[asked.architecture],
            length,
            address,
            real=real,
            wanted=values.cpus(real),
            masks=self._affinities.masks,
        )

    def _is_its(self, thread: int, caller: int, container_id: str) -> bool:
        """Where pid namespaces are shared, one may ask about another's threads."""
        if thread == caller:
            return True
        try:
            return any(container_id in path for path in self._cgroups.paths(thread).all())
        except OSError:
            return False

    def _of(self, container_id: str, terms: Terms) -> Values:
        known = self._values.get(container_id)
        if known is None or known[0] != terms:
            self.forget(container_id)
            known = self._values[container_id] = terms, Values(container_id, terms, self._cgroups)
        return known[1]


def _signed(pid: int) -> int:
    """A pid_t, of a register."""
    pid &= 0xFFFF_FFFF
    return pid - (1 << 32) if pid >> 31 else pid
