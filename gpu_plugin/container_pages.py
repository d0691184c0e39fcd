# SPDX-License-Identifier: Apache-2.0
"""Brings the files of all containers up to date after a scan: writes those that say something else,
and each again from time to time, so that who reads one can tell that somebody still looks.

Blocks (procfs, the disk): one worker thread. Decides no text (`container_status`,
`container_events`), and knows no driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agents.logs import Logger
from agents.processes import ProcessKey
from gpu_plugin import container_events
from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer
from gpu_plugin.container_activity import Activity, Place
from gpu_plugin.container_events import Event
from gpu_plugin.container_files import EVENTS, STATUS, STATUS_JSON, ContainerFiles, FileKey
from gpu_plugin.container_page import Page, page
from gpu_plugin.container_status import ContainerStatus, Surroundings, short_name, status_of
from gpu_plugin.inventory import Device
from gpu_plugin.verdicts import Act, Verdict

#: Seconds after which a file is written again although it says the same.
HEARTBEAT_S = 15.0
#: Seconds for which a file waits when nothing but the card's load moved.
_LOAD_S = 10.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One scan, and what was done since the last batch."""

    accounting: Accounting
    verdicts: Mapping[Place, Verdict]
    activity: Mapping[Place, Activity]
    devices: Mapping[str, Device]
    simulated: bool
    acts: tuple[Act, ...] = ()


@dataclass(slots=True)
class _Kept:
    """One directory. `page` is what its files say; `written_at` is on the monotonic clock;
    `file` is the one with the events that are known.
    """

    events: tuple[Event, ...] = ()
    file: FileKey | None = None
    status: ContainerStatus | None = None
    page: Page | None = None
    written_at: float = -HEARTBEAT_S
    wall: float = 0.0
    events_due: bool = False
    problems: dict[str, str] = field(default_factory=dict)


class ContainerPages:
    """One `write` at a time."""

    def __init__(self, containers: Path, proc: Path, log: Logger) -> None:
        self._files, self._proc, self._log = ContainerFiles(containers), proc, log
        self._kept: dict[str, _Kept] = {}
        self._pids: dict[ProcessKey, int] = {}
        self._failed: frozenset[str] = frozenset()
        #: Container and allocations of the batch before: an act may be about one that just ended.
        self._allocations: dict[ContainerKey, tuple[str, ...]] = {}

    def write(self, batch: Batch) -> int:
        """Returns how many directories could not be written; the log says why, once."""
        containers = batch.accounting.containers
        self._number(containers)
        self._allocations |= {one.key: _allocations(one) for one in containers}
        self._tell(batch)
        failed: dict[str, str] = {}
        for container in containers:
            if names := self._allocations[container.key]:
                self._write(container, names, batch, failed)
        self._forget(containers, batch.acts)
        self._say(failed)
        return len(failed)

    def _write(
        self,
        container: GpuContainer,
        names: Sequence[str],
        batch: Batch,
        failed: dict[str, str],
    ) -> None:
        status = self._status(container, batch)
        for name in names:
            try:
                kept = self._adopted(name)
                self._complain(kept, status, batch.accounting.wall)
                self._bring_up_to_date(name, kept, status, batch.accounting)
            except OSError as error:
                # Also when it is not there: the clean-up makes it again, from its record.
                if isinstance(error, FileNotFoundError):
                    self._kept.pop(name, None)
                failed[name] = error.strerror or str(error)

    def _status(self, container: GpuContainer, batch: Batch) -> ContainerStatus:
        key, uuids = container.key, {grant.device for grant in container.grants}
        uuids |= {use.device for use in container.uses}
        active = {uuid: batch.activity.get((key, uuid)) for uuid in uuids}
        # Activity is on the clock of the scans; people have another.
        offset = batch.accounting.wall - batch.accounting.at
        return status_of(
            container,
            batch.accounting.devices,
            {uuid: found for uuid in uuids if (found := batch.verdicts.get((key, uuid)))},
            Surroundings(
                devices=batch.devices,
                simulated=batch.simulated,
                pids=self._pids,
                active_at={
                    uuid: None if one is None or one.active_at is None else one.active_at + offset
                    for uuid, one in active.items()
                },
                own_utilisation={u: one.utilisation if one else None for u, one in active.items()},
            ),
        )

    def _adopted(self, name: str) -> _Kept:
        kept = self._kept.get(name)
        if kept is None:
            self._files.adopt(name)
            kept = self._kept.setdefault(name, _Kept())
            self._catch_up(name, kept)
        return kept

    def _catch_up(self, name: str, kept: _Kept) -> None:
        """With what an earlier agent told, or another that runs beside this one in an update."""
        file, text = self._files.events(name, kept.file)
        if file != kept.file:
            kept.events = container_events.merged(kept.events, container_events.parse(text))
            kept.file = file

    def _complain(self, kept: _Kept, status: ContainerStatus, wall: float) -> None:
        """What is wrong with what the pod says of its limit, once, and again when it changes."""
        for row in status.devices:
            if row.problem is None:
                kept.problems.pop(row.uuid, None)
            elif kept.problems.get(row.uuid) != row.problem:
                kept.problems[row.uuid] = row.problem
                told = f"{row.name}: {row.problem}"
                if not any(one.text == container_events.safe(told) for one in kept.events):
                    self._add(kept, container_events.event(wall, "limit", told))

    def _bring_up_to_date(
        self, name: str, kept: _Kept, status: ContainerStatus, accounting: Accounting
    ) -> None:
        now, shown = accounting.at, kept.page
        if kept.events_due:
            self._write_events(name, kept)
        if shown is None or kept.events_due or self._differs(kept, status, now):
            shown = page(status, kept.events)
        elif now - kept.written_at < HEARTBEAT_S:
            return
        else:
            status = kept.status or status  # the load may have moved, and waits
        texts = _texts(shown, accounting.wall)
        same = shown is kept.page
        if not (same and self._files.advance(name, _texts(shown, kept.wall), texts)):
            self._files.write(name, texts)
        # Not before: what could not be written is tried again with the next scan.
        kept.status, kept.page, kept.wall = status, shown, accounting.wall
        kept.written_at, kept.events_due = now, False

    def _differs(self, kept: _Kept, status: ContainerStatus, now: float) -> bool:
        assert kept.status is not None
        if status == kept.status:
            return False
        return now - kept.written_at >= _LOAD_S or status.without_load != kept.status.without_load

    def _tell(self, batch: Batch) -> None:
        """Add what was done to the events of those to whom it was done. Those of a container that
        is there are written with the rest.
        """
        told: set[str] = set()
        for act in batch.acts:
            name = short_name(act.device, batch.devices)
            pid = None if act.process is None else self._pids.get(act.process)
            event = container_events.of_act(act, name, pid)
            if event is None:
                continue
            for allocation in self._allocations.get(act.container, ()):
                with suppress(OSError):  # what cannot be written is said when its status is due
                    self._add(self._adopted(allocation), event)
                    told.add(allocation)
        there = {name for one in batch.accounting.containers for name in _allocations(one)}
        for name in told - there:
            with suppress(OSError):
                self._write_events(name, self._adopted(name))

    def _write_events(self, name: str, kept: _Kept) -> None:
        self._catch_up(name, kept)
        self._files.write(name, {EVENTS: container_events.text_of(kept.events)})
        kept.file, _ = self._files.events(name, kept.file)

    def _add(self, kept: _Kept, event: Event) -> None:
        kept.events = container_events.added(kept.events, [event])
        kept.events_due = True

    def _number(self, containers: Iterable[GpuContainer]) -> None:
        """Learn the pids of new processes as their container numbers them."""
        for container in containers:
            for use in container.uses:
                if use.process not in self._pids:
                    pid = _inner_pid(self._proc, use.process.pid)
                    if pid is not None:
                        self._pids[use.process] = pid

    def _forget(self, containers: Sequence[GpuContainer], acts: Iterable[Act]) -> None:
        """What nobody will ask for again. What an act was about stays for one more batch."""
        processes = {use.process for one in containers for use in one.uses}
        processes |= {act.process for act in acts if act.process is not None}
        self._pids = {key: pid for key, pid in self._pids.items() if key in processes}
        keys = {one.key for one in containers} | {act.container for act in acts}
        self._allocations = {k: names for k, names in self._allocations.items() if k in keys}
        known = {name for names in self._allocations.values() for name in names}
        self._kept = {name: kept for name, kept in self._kept.items() if name in known}

    def _say(self, failed: Mapping[str, str]) -> None:
        new = failed.keys() - self._failed
        if new:
            name = min(new)
            self._log.warning(
                "containers cannot be shown their GPU memory",
                count=len(failed),
                path=name,
                error=failed[name],
                hint="look whether node.state_dir can be written and has room",
            )
        elif self._failed and not failed:
            self._log.info("containers are shown their GPU memory again")
        self._failed = frozenset(failed)


def _texts(page: Page, wall: float) -> dict[str, str]:
    return {STATUS: page.text_at(wall), STATUS_JSON: page.json_at(wall)}


def _allocations(container: GpuContainer) -> tuple[str, ...]:
    return tuple(dict.fromkeys(grant.allocation for grant in container.grants))


def _inner_pid(proc: Path, pid: int) -> int | None:
    """In the pid namespace below the host's, which is the container's, whatever else the process
    has made below that; None: it has ended.
    """
    try:
        text = (proc / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None
    found = [line for line in text.split("\n") if line.startswith("NSpid:")]
    numbers = found[0].split()[1:3] if found else ()
    return int(numbers[-1]) if numbers else None
