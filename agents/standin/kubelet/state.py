# SPDX-License-Identifier: Apache-2.0
"""Devices and who holds them, under one lock, with the checkpoint behind them.

The lock is never held across a call to a plugin or to the runtime. Knows no pod specification.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.errors import AgentError
from agents.standin.kubelet import checkpoint
from agents.standin.kubelet.allocations import Allocation, Allocations
from agents.standin.kubelet.devices import DeviceTable, PluginDevice
from agents.standin.kubelet.events import EventKind, EventLog


@dataclass(frozen=True, slots=True)
class ResourceState:
    """One resource now. `last_error` is what the kubelet would have in its log about the plugin."""

    capacity: int
    allocatable: int
    allocated: int
    plugin_alive: bool
    last_error: str | None = None


class DeviceState:
    """What the kubelet knows of devices. `changed` is its lock, and is notified at every change."""

    def __init__(self, directory: Path, changed: threading.Condition, events: EventLog) -> None:
        self.changed = changed
        self._path = directory / checkpoint.FILE_NAME
        self._events = events
        self._errors: dict[str, str] = {}
        self.table = DeviceTable()
        self.allocations = Allocations()

    def load(self) -> None:
        """Begin as after a restart: allocations as they were, resources with nothing."""
        try:
            found = checkpoint.read(self._path)
        except AgentError as error:
            self._events.add(EventKind.CHECKPOINT_UNREADABLE, "", error.message)
            found = checkpoint.Checkpoint()
        with self.changed:
            self.allocations = Allocations(found.allocations)
            self.table.restore(found.resources, time.monotonic())
            self._save()

    def connect(self, resource: str) -> None:
        with self.changed:
            self.table.connect(resource)
            self._errors.pop(resource, None)
            self.changed.notify_all()

    def list_devices(self, resource: str, devices: Sequence[PluginDevice]) -> None:
        with self.changed:
            self.table.replace(resource, devices)
            self._save()

    def lose(self, resource: str, error: str) -> None:
        with self.changed:
            self.table.lose(resource, time.monotonic())
            self._errors[resource] = error
            self.changed.notify_all()

    def expire(self, grace_s: float) -> list[str]:
        with self.changed:
            gone = self.table.expire(time.monotonic(), grace_s)
            if gone:
                self._save()
            return gone

    def note_error(self, resource: str, error: str) -> None:
        with self.changed:
            self._errors[resource] = error
            self.changed.notify_all()

    def add_allocation(self, allocation: Allocation) -> None:
        with self.changed:
            self.allocations.add(allocation)
            self._save()

    def free_pod(self, uid: str) -> None:
        with self.changed:
            if self.allocations.free_pod(uid):
                self._save()

    def keep_pods(self, uids: Iterable[str]) -> None:
        """Free what pods hold that do not exist any more."""
        with self.changed:
            if self.allocations.keep_pods(uids):
                self._save()

    def resources(self) -> dict[str, ResourceState]:
        with self.changed:
            return {
                name: ResourceState(
                    *self.table.count(name),
                    len(self.allocations.in_use(name)),
                    self.table.connected(name),
                    self._errors.get(name),
                )
                for name in self.table.names()
            }

    def _save(self) -> None:
        """With the lock held: whoever sees the change finds it in the file as well.

        A file that cannot be written costs the memory of a restart, and nothing that runs.
        """
        try:
            checkpoint.write(self._path, self.allocations.all(), self.table.healthy_by_resource())
        except OSError as error:
            self._events.add(EventKind.CHECKPOINT_UNWRITABLE, "", str(error))
        self.changed.notify_all()
