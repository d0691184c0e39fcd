# SPDX-License-Identifier: Apache-2.0
"""The plugins that registered: calls them back, reads their lists, drops them at the end.

A plugin is told nothing of its fate; it sees its stream closed at most. Chooses no device.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from agents import unix_grpc
from agents.errors import ConfigError
from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.devices import PluginDevice
from agents.standin.kubelet.endpoint import Endpoint, PluginError, go_text
from agents.standin.kubelet.events import EventKind, EventLog, OpenCalls
from agents.standin.kubelet.state import DeviceState

_JOIN_S = 2.0


class Plugins:
    """One endpoint for each resource: the one that registered last."""

    def __init__(
        self, directory: Path, state: DeviceState, behaviour: Behaviour, events: EventLog
    ) -> None:
        self.calls = OpenCalls(events)
        self._directory = directory
        self._state = state
        self._behaviour = behaviour
        self._events = events
        # The state's lock is ours too: one lock cannot be taken in two orders.
        self._lock = state.changed
        self._current: dict[str, Endpoint] = {}
        self._open: set[Endpoint] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def endpoint(self, resource: str) -> Endpoint | None:
        """The one that registered last, be it alive or not."""
        with self._lock:
            return self._current.get(resource)

    def connect(self, resource: str, endpoint_name: str) -> None:
        """Inside Register: dial back, take the options, begin to read. Raises PluginError."""
        self._stopping.wait(self._behaviour.dial_back_delay_s)
        if not self._behaviour.dial_back:
            return
        socket = Path(os.path.normpath(f"{self._directory}/{endpoint_name}"))
        endpoint = self._opened(resource, socket)
        try:
            endpoint.connect()
        except PluginError:
            self._close(endpoint)
            raise
        self._make_current(endpoint)
        self._run(self._read, endpoint)
        if self._behaviour.duplicate_stream:
            self._run(self._read_in_vain, self._opened(resource, socket))

    def stop(self) -> None:
        """End every stream and every call that is out; what the table holds stays as it is."""
        with self._lock:
            self._stopping.set()
            endpoints, threads = list(self._open), list(self._threads)
        for endpoint in endpoints:
            endpoint.stop()
        for thread in threads:
            thread.join(_JOIN_S)

    def _opened(self, resource: str, socket: Path) -> Endpoint:
        try:
            endpoint = Endpoint(resource, socket, self._behaviour, self.calls)
        except ConfigError as error:
            raise PluginError(f"failed to dial device plugin: {error.message}") from error
        with self._lock:
            self._open.add(endpoint)
            stopping = self._stopping.is_set()
        if stopping:
            self._close(endpoint)
            raise PluginError("the kubelet is stopping")
        return endpoint

    def _close(self, endpoint: Endpoint) -> None:
        endpoint.stop()
        with self._lock:
            self._open.discard(endpoint)

    def _make_current(self, endpoint: Endpoint) -> None:
        with self._lock:
            former = self._current.get(endpoint.resource)
            self._current[endpoint.resource] = endpoint
            self._state.connect(endpoint.resource)
        options = endpoint.options
        self._events.add(
            EventKind.REGISTERED,
            endpoint.resource,
            f"{endpoint.socket.name}, preferred allocation: "
            f"{options.get_preferred_allocation_available}, "
            f"pre-start: {options.pre_start_required}",
        )
        if former is not None and not former.stopped:
            text = f"{endpoint.socket.name} takes the place of {former.socket.name}"
            self._events.add(EventKind.REPLACED, endpoint.resource, text)
            if not self._behaviour.keep_replaced_stream:
                self._close(former)

    def _run(self, target: Callable[[Endpoint], None], endpoint: Endpoint) -> None:
        name = f"plugin {endpoint.resource}"
        thread = threading.Thread(target=target, args=[endpoint], name=name, daemon=True)
        with self._lock:
            # Started with the lock held: `stop` may join only what was started.
            thread.start()
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]

    def _read(self, endpoint: Endpoint) -> None:
        error = endpoint.watch(self._on_list)
        with self._lock:
            current = self._current[endpoint.resource]
            replaced = current is not endpoint
            kept = replaced and self._behaviour.keep_replaced_stream and not current.stopped
        if not self._stopping.is_set() and (kept or not replaced):
            self._lose(current, error)
        self._close(endpoint)

    def _read_in_vain(self, endpoint: Endpoint) -> None:
        endpoint.watch(lambda _endpoint, _devices: None)
        self._close(endpoint)

    def _on_list(self, endpoint: Endpoint, devices: Sequence[PluginDevice]) -> None:
        with self._lock:
            replaced = self._current[endpoint.resource] is not endpoint
            if replaced and not self._behaviour.keep_replaced_stream:
                return
            self._state.list_devices(endpoint.resource, devices)
        healthy = sum(device.healthy for device in devices)
        text = f"{len(devices)} devices, {healthy} healthy"
        self._events.add(EventKind.LISTED, endpoint.resource, text)
        if twice := len(devices) - len({device.id for device in devices}):
            text = f"{twice} devices are listed more than once; the kubelet counts each id once"
            self._events.add(EventKind.LIST_ODD, endpoint.resource, text)

    def _lose(self, endpoint: Endpoint, error: grpc.RpcError | None) -> None:
        """The plugin's own stream ended: everything it has is unhealthy from now on."""
        code, details = unix_grpc.status(error) if error else (grpc.StatusCode.OK, "")
        reason = go_text(error) if error else "EOF"
        text = f"ListAndWatch ended unexpectedly for device plugin: {reason}"
        too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details
        self._close(endpoint)
        self._state.lose(endpoint.resource, text)
        kind = EventKind.LIST_TOO_LARGE if too_large else EventKind.STREAM_ENDED
        self._events.add(kind, endpoint.resource, text)
