# SPDX-License-Identifier: Apache-2.0
"""Cover a container the moment it is told of: what `first_views` asks of the agent's views. For the
event loop; knows no call and no descriptor.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.containers import Container
from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.logs import Logger
from lxcfs_helper.affinity.values import Terms
from lxcfs_helper.attaching import Attaching
from lxcfs_helper.config import ViewName
from lxcfs_helper.coverage import Coverage
from lxcfs_helper.host_reading import CLOCK_TICKS


@dataclass(frozen=True, slots=True)
class Covering:
    """What is there."""

    coverage: Coverage
    attaching: Attaching
    host: HostFs
    log: Logger

    def cover(self, container: Container) -> Terms | None:
        """Take it in, with files that are up to date; how its calls are answered, None: nothing is
        to be shown there."""
        try:
            self.coverage.take(container)
        except (AgentError, OSError) as error:
            self.log.warning("container not covered", container=container.id, error=str(error))
        return self.terms(container.id)

    def terms(self, container_id: str) -> Terms | None:
        """As things stand now."""
        one = self.coverage.selected(container_id)
        if one is None:
            return None
        process = one.located.process
        return Terms(
            one.located.cgroup,
            one,
            self.coverage,
            process.start_ticks / CLOCK_TICKS,
            _boot_offset_s(self.host, process.pid),
            ViewName.UPTIME in one.selected,
        )

    async def attach(self, container_id: str) -> bool:
        """Returns when its views are attached; whether all are."""
        return await self.attaching.at_once(container_id)


def _boot_offset_s(host: HostFs, pid: int) -> int:
    """How far its time namespace shifts the time since boot (time_namespaces(7))."""
    try:
        lines = host.of_pid(pid, "timens_offsets").read_text().splitlines()
    except OSError:  # it is gone, or this kernel has none
        return 0
    fields = [line.split() for line in lines]
    return next((int(seconds) for name, seconds, _ in fields if name in _BOOT_CLOCK), 0)


#: By name or, before Linux 5.15, by number.
_BOOT_CLOCK = ("boottime", "7")
