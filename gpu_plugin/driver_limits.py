# SPDX-License-Identifier: Apache-2.0
"""Lets the driver hold containers to their limits: on the cgroup of each, soft = guarantee and
hard = limit (NVML since r615, cgroup v2, no MIG). A program at the limit gets an error, and lives.

What it set it reads back, again and again, and says only of what is in force that it is. What is
not wanted any more it takes away, also what an earlier agent set (`driver_record`). Decides no
limit and ends nobody. Where a driver cannot, it says why, and remembers that for the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.inotify import Happening, Inotify
from agents.logs import Logger
from agents.threads import Worker
from gpu_plugin.accounting import Accounting
from gpu_plugin.devices import MemoryLimits
from gpu_plugin.driver_record import LimitRecord
from gpu_plugin.driver_wanted import Target, Wanted, wanted_of
from gpu_plugin.enforcement import AllLimits
from gpu_plugin.enforcement_cases import Place
from gpu_plugin.nvml import DeviceIsGone, NoSuchCgroup, NotSupported, Nvml

_NO_LIMITS = MemoryLimits(soft=None, hard=None)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds between two looks at what is in force, and for one device's answer."""

    verify_s: float = 5.0
    limit_s: float = 10.0


class DriverLimits:
    """`in_force` are the places where the driver holds a container to its limit; `notes` say why it
    does not where it should, `unsupported` by device why it cannot at all.
    """

    def __init__(
        self,
        nvml: Nvml,
        host: HostFs,
        record: LimitRecord,
        timing: Timing | None = None,
        *,
        log: Logger,
    ) -> None:
        self._nvml, self._root, self._record, self._log = nvml, host.cgroup, record, log
        self._timing = timing or Timing()
        self._workers: dict[str, Worker] = {}
        self._wanted: dict[Place, Wanted] = {}
        #: As they were read back (None: set by an earlier agent).
        self._set: dict[Target, MemoryLimits | None] = {}
        self._answered: frozenset[str] = frozenset()
        self._present: frozenset[str] = frozenset()
        self._watched: dict[int, str] = {}
        self.unsupported: dict[str, str] = {}
        self._session = 0
        self._told, self._wake = trio.Event(), trio.Event()
        self._inotify: Inotify | None = None
        self.in_force: frozenset[Place] = frozenset()
        self.notes: Mapping[Place, str] = {}

    @property
    def has_set(self) -> bool:
        """Whether there are limits that have to be taken away one day."""
        return bool(self._set)

    def want(self, accounting: Accounting, limits: AllLimits, session: int) -> None:
        """What is to be in force from now on, and nothing else; `session` is that of the driver,
        which may be another one after it was opened anew. Never waits.
        """
        if session != self._session:
            self._session = session
            self.unsupported.clear()
        wanted = {one.place: one for one in wanted_of(accounting, limits, self._root)}
        # Of a device that did not answer nothing is known: what was wanted there stays.
        keys = {container.key for container in accounting.containers}
        kept = {
            place: one
            for place, one in self._wanted.items()
            if place[0] in keys and place[1] not in accounting.devices
        }
        cgroups = (f"{self._root}{container.cgroup}" for container in accounting.containers)
        self._answered, self._present = frozenset(accounting.devices), frozenset(cgroups)
        if (found := kept | wanted) != self._wanted or not self._told.is_set():
            self._wanted = found
            self._told.set()
            self._wake.set()

    async def run(self) -> None:
        """Never returns, and does nothing until it is told what is wanted."""
        try:
            self._set = dict.fromkeys(await trio.to_thread.run_sync(self._record.read))
        except OSError as error:
            self._log.warning("limits set in the driver before are not known", error=str(error))
        await self._told.wait()
        try:
            self._inotify = Inotify()
        except Unavailable as error:
            self._log.warning("ends of containers are seen late", error=str(error))
        async with trio.open_nursery() as nursery:
            if self._inotify is not None:
                nursery.start_soon(self._hear, self._inotify)
            while True:
                self._wake = trio.Event()
                await self._round()
                with trio.move_on_after(self._pause_s()):
                    await self._wake.wait()

    def _pause_s(self) -> float:
        return self._timing.verify_s if self._wanted or self._set else float("inf")

    async def _round(self) -> None:
        """One look at all of them, each device by itself."""
        wanted, gone = dict(self._wanted), self._unwanted()
        devices = {place[1] for place in wanted} | {target.device for target in gone}
        found: dict[Place, str | None] = {}
        async with trio.open_nursery() as nursery:
            for uuid in sorted(devices):
                mine = [one for place, one in sorted(wanted.items(), key=str) if place[1] == uuid]
                left = [target for target in gone if target.device == uuid]
                nursery.start_soon(self._on_device, uuid, mine, left, found)
        self.notes = {place: why for place, why in found.items() if why is not None}
        self.in_force = frozenset(place for place, why in found.items() if why is None)

    def _unwanted(self) -> list[Target]:
        """What is to be taken away: not on a device of which nothing is known now."""
        wanted = {one.target for one in self._wanted.values()}
        return sorted(
            target
            for target in self._set
            if target not in wanted
            and (target.device in self._answered or target.cgroup not in self._present)
        )

    async def _on_device(
        self,
        uuid: str,
        wanted: Iterable[Wanted],
        gone: Iterable[Target],
        found: dict[Place, str | None],
    ) -> None:
        for target in gone:
            await self._give_up(target)
        for one in wanted:
            if uuid in self.unsupported:
                return
            try:
                why = await self._hold(one)
            except NotSupported as error:
                self.unsupported[uuid] = str(error)
            except (AgentError, OSError) as error:
                found[one.place] = str(error)
            else:
                found[one.place] = why

    async def _ask(self, uuid: str, question: Callable[[], T]) -> T:
        worker = self._workers.setdefault(uuid, Worker(f"the GPU driver (limits of {uuid})"))
        return await worker.call(question, timeout_s=self._timing.limit_s)

    async def _hold(self, one: Wanted) -> str | None:
        """Why it is not in force (None: it is)."""
        before = self._set.get(one.target)
        found = await self._ask(one.target.device, partial(self._look, one))
        if found is None:
            return "the container's last process has ended"
        if before is None or not one.is_set(found):
            if before is not None and before != replace(found, used=None):
                self._log.warning(
                    "memory limit was lost", device_id=one.target.device, path=one.cgroup
                )
            # From here on there may be something to take away, whatever comes of it.
            self._set[one.target] = before
            self._watch(one.cgroup)
            found = await self._ask(one.target.device, partial(self._apply, one))
            self._set[one.target] = replace(found, used=None)
        if one.in_force(found):
            return None
        return f"its limit is not in force: wanted {one.limits}, found {found}"

    def _look(self, one: Wanted) -> MemoryLimits | None:
        """Blocks. None: too late, because what is set now would not be taken away any more."""
        if ".." in one.cgroup.split("/"):
            raise NotSupported(
                "this agent is in a cgroup namespace of its own, where the cgroups of containers "
                "have no path; run it in the host's"
            )
        if not (self._root / "cgroup.controllers").exists():
            raise NotSupported("the driver limits cgroups of v2 alone, and this node has others")
        if _is_empty(Path(one.cgroup)):
            return None
        return self._nvml.memory_limits(one.target.device, one.cgroup)

    def _apply(self, one: Wanted) -> MemoryLimits:
        """Blocks."""
        self._record.add(one.target)
        self._nvml.set_memory_limits(one.target.device, one.cgroup, one.limits)
        return self._nvml.memory_limits(one.target.device, one.cgroup)

    def _lift(self, target: Target) -> None:
        """Blocks. A guarantee must go before its cgroup does: else it stays with those above."""
        try:
            if Path(target.cgroup).is_dir():
                self._nvml.set_memory_limits(target.device, target.cgroup, _NO_LIMITS)
        except (NoSuchCgroup, DeviceIsGone, NotSupported):
            pass  # then there is nothing to take away
        self._record.remove(target)

    def _watch(self, cgroup: str) -> None:
        """The kernel tells when the last process of a cgroup ends, a moment before the runtime
        removes it.
        """
        if self._inotify is None:
            return
        try:
            number = self._inotify.watch(Path(cgroup) / "cgroup.events", Happening.WRITTEN)
        except (FileNotFoundError, Unavailable):
            return
        self._watched[number] = cgroup

    async def _hear(self, inotify: Inotify) -> None:
        try:
            while True:
                await inotify.wait()
                for event in inotify.read():
                    cgroup = self._watched.get(event.watch)
                    if cgroup is not None and _is_empty(Path(cgroup)):
                        for target in [one for one in self._set if one.cgroup == cgroup]:
                            await self._give_up(target)
        finally:
            inotify.close()

    async def _give_up(self, target: Target) -> None:
        """What the driver did not do is tried again in the next round."""
        for place in [p for p, one in self._wanted.items() if one.target == target]:
            del self._wanted[place]
            self.in_force -= {place}
        try:
            await self._ask(target.device, partial(self._lift, target))
        except (AgentError, OSError):
            return
        self._set.pop(target, None)
        if not any(other.cgroup == target.cgroup for other in self._set):
            for number in [n for n, path in self._watched.items() if path == target.cgroup]:
                del self._watched[number]
                if self._inotify is not None:
                    self._inotify.forget(number)


def _is_empty(cgroup: Path) -> bool:
    try:
        return "populated 0" in (cgroup / "cgroup.events").read_text()
    except OSError:
        return False  # it is gone, or no cgroup v2: the driver will say so
