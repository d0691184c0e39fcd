# SPDX-License-Identifier: Apache-2.0
"""Shows after every scan who uses what: to each container its own part, in its files; to the host
all of it, as the value behind metrics and `/status.json`; to the API server what was done.

Never holds up a scan: what blocks is done by a worker, for the newest scan when it has time.
Decides nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry, Gauge

from agents.errors import Unavailable
from agents.logs import Logger
from agents.pod_event import PodEvent
from agents.published import Published
from agents.threads import Worker
from gpu_plugin import container_overview, pod_notice
from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer
from gpu_plugin.container_activity import ActivityClock
from gpu_plugin.container_overview import SHOWN_ACTS, ActRow, Overview
from gpu_plugin.container_page import VALID_S
from gpu_plugin.container_pages import Batch, ContainerPages
from gpu_plugin.container_status import short_name
from gpu_plugin.inventory import Device, devices_of
from gpu_plugin.observation import Inventory
from gpu_plugin.recent_scans import RecentScans
from gpu_plugin.termination import LastWords
from gpu_plugin.verdicts import Act, Action, Outcome, Verdict

#: So many acts wait for a disk that hangs; older ones are not told in the files any more.
_WAITING_ACTS = 500


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `rest_s` passes between two rounds of files, `limit_s` is for one round."""

    rest_s: float = 0.2
    limit_s: float = 10.0


class ContainerWatch:
    """`overview` is the last scan in rows. `scanned` is called for every scan, in the event loop;
    `run` writes the files. `observing`: nothing is ever done, and what would have been is told.
    """

    def __init__(
        self,
        containers: Path,
        proc: Path,
        *,
        inventory: Callable[[], Inventory | None],
        tell_pod: Callable[[PodEvent], None],
        observing: bool,
        registry: CollectorRegistry,
        log: Logger,
        timing: Timing | None = None,
    ) -> None:
        self._inventory, self._tell_pod = inventory, tell_pod
        self._observing = observing
        self._log, self._timing = log, timing or Timing()
        self._pages = ContainerPages(containers, proc, log)
        self._last_words = LastWords(proc)
        self._worker = Worker("the disk of the containers' files")
        self._clock = ActivityClock()
        self._recent = RecentScans()
        self._acts: deque[ActRow] = deque(maxlen=SHOWN_ACTS)
        self._known: dict[ContainerKey, GpuContainer] = {}
        self._batch: Batch | None = None
        self._untold: deque[Act] = deque(maxlen=_WAITING_ACTS)
        self._wake = trio.Event()
        self._stuck = False
        self._devices: tuple[Inventory | None, Mapping[str, Device]] = (None, {})
        self.overview = Published(Overview())
        self._unshown = Gauge(
            "nodeshare_gpu_unshown_containers",
            "Allocations whose files in the container could not be written at the last attempt.",
            registry=registry,
        )

    def scanned(
        self, accounting: Accounting, verdicts: Iterable[Verdict], acts: Iterable[Act]
    ) -> None:
        """`acts` are those since the scan before. Never blocks."""
        told = {(one.container, one.device): one for one in verdicts}
        accounting, found = self._recent.joined(accounting, told)
        # Of two agents in an update one acts: what the other only would have done is no news.
        done = tuple(a for a in acts if self._observing or a.outcome is not Outcome.OBSERVED)
        devices = self._known_devices()
        before, self._known = self._known, {one.key: one for one in accounting.containers}
        both = {**before, **self._known}
        for act in done:
            name = short_name(act.device, devices)
            self._acts.append(container_overview.act_row(act, both, name))
            if event := pod_notice.pod_event(act, both.get(act.container), name):
                self._tell_pod(event)
        activity = self._clock.look(accounting)
        self.overview.set(
            container_overview.overview(
                accounting, found, activity, devices, tuple(reversed(self._acts))
            )
        )
        inventory = self._inventory()
        simulated = inventory is not None and inventory.machine.simulated
        self._untold.extend(done)
        self._batch = Batch(accounting, found, activity, devices, simulated)
        self._wake.set()

    def before_end(self, container: GpuContainer, act: Act) -> None:
        """Leave the reason where it is looked for when the container's first process, which is
        ended next, has ended. In a worker thread; for a moment at most.
        """
        if container.main is not None and container.key.pod_uid is not None:
            name = short_name(act.device, self._known_devices())
            text = pod_notice.termination_message(act, name)
            self._last_words.leave(container.main, container.key.pod_uid, text)

    def shown(self) -> Overview:
        """The last scan; empty when it is so old that it says nothing about now."""
        last = self.overview.snapshot
        return last.value if time.monotonic() - last.at < VALID_S else Overview()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self._write()
            await trio.sleep(self._timing.rest_s)

    async def _write(self) -> None:
        assert self._batch is not None
        acts = tuple(self._untold)
        self._untold.clear()
        batch = replace(self._batch, acts=acts)
        refused = self._worker.stuck_s > 0
        spared = [
            container
            for act in acts
            if act.action is Action.SPARE and (container := self._known.get(act.container))
        ]

        def show() -> int:
            for container in spared:
                self._withdraw(container)
            return self._pages.write(batch)

        try:
            failed = await self._worker.call(show, timeout_s=self._timing.limit_s)
        except Unavailable as error:
            if not self._stuck:
                self._log.warning("containers cannot be shown their GPU memory", error=str(error))
            self._stuck = True
            if refused:  # an earlier round hangs; this one was not begun
                self._untold.extendleft(reversed(acts))
            return
        self._stuck = False
        self._unshown.set(failed)

    def _withdraw(self, container: GpuContainer) -> None:
        """It was asked to end, and goes on: it was not ended by us when it ends one day."""
        if container.main is not None and container.key.pod_uid is not None:
            with suppress(OSError, Unavailable):
                self._last_words.withdraw(
                    container.main, container.key.pod_uid, pod_notice.LAST_WORDS
                )

    def _known_devices(self) -> Mapping[str, Device]:
        """By UUID, in the order of the machine."""
        inventory = self._inventory()
        if inventory is not self._devices[0]:
            found = devices_of(inventory.machine) if inventory else ()
            self._devices = (inventory, {device.uuid: device for device in found})
        return self._devices[1]
