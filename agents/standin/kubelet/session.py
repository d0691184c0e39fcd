# SPDX-License-Identifier: Apache-2.0
"""One run of the kubelet, from start to stop: its sockets, and everything it forgets at a restart.

What it remembers comes from the checkpoint; pods are not its business.
"""

from __future__ import annotations

import random
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from agents.standin.kubelet import checkpoint
from agents.standin.kubelet.admission import Admission
from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.events import EventKind, EventLog
from agents.standin.kubelet.node import Node
from agents.standin.kubelet.plugins import Plugins
from agents.standin.kubelet.podresources_server import PodResourcesServer, RateLimit
from agents.standin.kubelet.pods import PodRecord
from agents.standin.kubelet.registration import RegistrationServer
from agents.standin.kubelet.state import DeviceState
from agents.standin.kubelet.termination_logs import TerminationLogs
from agents.standin.kubelet.workers import PodWorkers
from agents.standin.pods import Runtime

DEVICE_PLUGINS = "device-plugins"
POD_RESOURCES = "pod-resources"
SOCKET_NAME = "kubelet.sock"
#: Where `replace_directory` moves the former directory, until the next stop.
_ASIDE = "device-plugins.former"


class Session:
    """Built: directories ready, sockets listening. `serve` answers, `stop` ends it for good."""

    def __init__(
        self,
        kubelet_dir: Path,
        runtime: Runtime,
        behaviour: Behaviour,
        *,
        changed: threading.Condition,
        events: EventLog,
        pods: Callable[[], Iterable[PodRecord]],
        rng: random.Random,
    ) -> None:
        self.stopping = threading.Event()
        plugin_directory = prepare(kubelet_dir, behaviour)
        self.state = DeviceState(plugin_directory, changed, events)
        self.state.load()
        self.node = Node(self.state, behaviour.node_status_period_s)
        self.plugins = Plugins(plugin_directory, self.state, behaviour, events)
        self.admission = Admission(self.state, self.plugins, behaviour, events, rng)
        self.workers = PodWorkers(
            self.state,
            self.plugins,
            self.admission,
            runtime,
            behaviour,
            events,
            TerminationLogs(kubelet_dir),
        )
        self._events = events
        self._registration = RegistrationServer(
            plugin_directory / SOCKET_NAME, self.plugins.connect, self._refused
        )
        self._podresources = PodResourcesServer(
            kubelet_dir / POD_RESOURCES / SOCKET_NAME,
            self.state,
            pods,
            RateLimit(behaviour.podresources_per_s, behaviour.podresources_burst),
        )

    def serve(self) -> None:
        self._registration.start()
        self._podresources.start()

    def stop(self) -> None:
        """Bounded. Calls to plugins that are out end with an error, whoever waits for them."""
        self.stopping.set()
        self.plugins.stop()
        self._registration.stop()
        self._podresources.stop()

    def _refused(self, resource: str, text: str) -> None:
        self._events.add(EventKind.REGISTRATION_REFUSED, resource, text)
        if resource in self.state.table.names():
            self.state.note_error(resource, text)


def prepare(kubelet_dir: Path, behaviour: Behaviour) -> Path:
    """The directories as a kubelet has them before it listens; returns the plugins' one."""
    directory = kubelet_dir / DEVICE_PLUGINS
    if behaviour.replace_directory and directory.exists():
        _replace(directory, kubelet_dir / _ASIDE)
    for path in (directory, kubelet_dir / POD_RESOURCES):
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
    if behaviour.clear_sockets:
        for path in directory.iterdir():
            # Sockets alone: the checkpoint lies here too, and regular files are not the kubelet's
            # to judge.
            with suppress(FileNotFoundError):  # its owner was faster
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()
    return directory


def discard_aside(kubelet_dir: Path) -> None:
    """Take away what `replace_directory` moved aside."""
    aside = kubelet_dir / _ASIDE
    if aside.is_dir():
        for path in aside.iterdir():
            path.unlink()
        aside.rmdir()


def _replace(directory: Path, aside: Path) -> None:
    known = directory / checkpoint.FILE_NAME
    content = known.read_bytes() if known.exists() else None
    directory.rename(aside)
    directory.mkdir(mode=0o750)
    if content is not None:
        (directory / checkpoint.FILE_NAME).write_bytes(content)
