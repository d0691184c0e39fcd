# SPDX-License-Identifier: Apache-2.0
"""A node on a test bench: an embedded kubelet, a runtime without processes, scripted plugins.

Everything that it starts is stopped by the exit stack it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.standin.kubelet import Behaviour, EmbeddedKubelet, EventKind
from agents.standin.pods import ContainerSpec, PodSpec, RestartPolicy
from tests.fakes.plugin import FakePlugin
from tests.fakes.runtime import FakeRuntime

RESOURCE = "nodeshare/test"
#: No limit that a healthy test comes near.
PATIENCE_S = 10.0


class Bench:
    """A node under test: its kubelet, its runtime, and whatever plugins a test starts."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.runtime = FakeRuntime()
        self._stack = stack
        self.kubelet = self.new_kubelet()

    @property
    def plugin_directory(self) -> Path:
        return self.directory / "device-plugins"

    def new_kubelet(self, **behaviour: Any) -> EmbeddedKubelet:
        """Another kubelet on the same directory and runtime, not started; stopped at the end."""
        settings = {"tick_s": 0.01, "dial_timeout_s": 5.0, **behaviour}
        self.kubelet = EmbeddedKubelet(
            self.directory, self.runtime, behaviour=Behaviour(**settings), rng=random.Random(7)
        )
        self._stack.callback(self.kubelet.stop)
        return self.kubelet

    def start(self, **behaviour: Any) -> EmbeddedKubelet:
        kubelet = self.new_kubelet(**behaviour)
        kubelet.start()
        return kubelet

    def plugin(self, *, register: bool = True, **settings: Any) -> FakePlugin:
        """Started, and unless told otherwise registered and listed."""
        options = settings.pop("options", {})
        plugin = FakePlugin(
            self.plugin_directory, options=pb.DevicePluginOptions(**options), **settings
        )
        self._stack.callback(plugin.stop)
        plugin.start()
        if register:
            self.register(plugin)
        return plugin

    def register(self, plugin: FakePlugin) -> None:
        before = len(self.kubelet.events.of(EventKind.LISTED, plugin.resource))
        plugin.register()
        self.until(lambda: len(self.kubelet.events.of(EventKind.LISTED, plugin.resource)) > before)

    def send(self, plugin: FakePlugin, listed: list[pb.Device]) -> None:
        """Send a list, and wait until the kubelet has it."""
        before = len(self.kubelet.events.of(EventKind.LISTED, plugin.resource))
        plugin.send(listed)
        self.until(lambda: len(self.kubelet.events.of(EventKind.LISTED, plugin.resource)) > before)

    def until(self, condition: Callable[[], bool]) -> None:
        assert self.kubelet.wait_for(condition, PATIENCE_S), self.kubelet.events.all()

    def counts(self, resource: str = RESOURCE) -> tuple[int, int]:
        """Capacity and allocatable."""
        state = self.kubelet.resources()[resource]
        return state.capacity, state.allocatable


def pod(
    name: str = "a",
    count: int = 1,
    *,
    resources: Mapping[str, int] | None = None,
    restart: RestartPolicy = RestartPolicy.NEVER,
) -> PodSpec:
    """One container `main` that asks for `count` of the test resource."""
    wanted = {RESOURCE: count} if resources is None else resources
    spec = ContainerSpec("main", ["sleep"], resources=wanted)
    return PodSpec(name, [spec], restart_policy=restart)
