# SPDX-License-Identifier: Apache-2.0
"""The running agent: who runs here, what moved, what is missing. Three loops over one `Coverage`.

The event loop owns all state; only the runtime's socket and the work in other mount namespaces are
called from worker threads, so that neither holds up the heartbeat. When this ends, for whatever
reason, every file stays where it is and keeps answering.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from agents.agent import AgentContext
from agents.cgroups import LinuxCgroups
from agents.containers import Containers
from agents.cri import CriContainers
from agents.errors import AgentError, Unavailable
from agents.mounts import LinuxMounts, MountFeatures, Mounts
from agents.threads import Worker
from lxcfs_helper import metrics
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.coverage import Coverage, Order, Sweep
from lxcfs_helper.files import ViewFiles, views_directory
from lxcfs_helper.inject import Injector, Outcome, Result
from lxcfs_helper.status import status

#: How often every target is checked, whether or not anything seems to have changed.
VERIFY_S = 5.0
_RUNTIME_LIMIT_S = 5.0
#: One container has half a dozen targets, each bounded by the namespace process.
_INJECT_LIMIT_S = 60.0
_RETRY_S = 5.0


async def run(context: AgentContext) -> None:
    """Never returns."""
    _raise_descriptor_limit()
    mounts = LinuxMounts()
    features = mounts.features()
    files = ViewFiles(views_directory(context.node.run_dir), mounts, context.host.proc)
    await _prepare(context, features, files)
    containers = CriContainers(context.node.cri_socket, timeout_s=_RUNTIME_LIMIT_S)
    service = Service(context, containers, files, mounts)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.follow_changes)
            nursery.start_soon(service.follow_containers)
            nursery.start_soon(service.keep_fresh)
            nursery.start_soon(service.keep_attached)
    finally:
        service.close()
        containers.close()


class Service:
    """What the loops share."""

    def __init__(
        self, context: AgentContext, containers: Containers, files: ViewFiles, mounts: Mounts
    ) -> None:
        assert isinstance(context.section, ViewConfig)
        cgroups = LinuxCgroups(context.host)
        self._context = context
        self._containers = containers
        self._runtime = Worker("the container runtime")
        self._entering = Worker("work in a container's mount namespace")
        self._coverage = Coverage(context.section, context.host, cgroups, files)
        self._injector = Injector(context.host, cgroups, mounts, context.namespaces)
        self._beneath = mounts.features().beneath
        self._sweep = Sweep()
        self._counters = metrics.Counters(context.registry)
        self._to_attach = trio.Event()
        self._warned: dict[str, str] = {}
        context.registry.register(metrics.collector(lambda: context.status.value))

    async def follow_changes(self) -> None:
        """Apply each changed section to the next sweep."""
        async for section in self._context.changes:
            assert isinstance(section, ViewConfig)
            self._coverage.config = section

    async def follow_containers(self) -> None:
        """Ask the runtime who runs, and have new containers covered at once."""
        while True:
            try:
                running = await self._runtime.call(
                    self._containers.list, timeout_s=_RUNTIME_LIMIT_S
                )
                self._coverage.observe(running)
                self._refresh()
                self._context.readiness.ready()
            except AgentError as error:
                self._context.readiness.not_ready(str(error))
            await trio.sleep(self._coverage.config.poll)

    async def keep_fresh(self) -> None:
        """Bring files up to date on every heartbeat."""
        while True:
            await trio.sleep(self._coverage.config.heartbeat)
            try:
                self._refresh()
            except AgentError as error:
                self._context.readiness.not_ready(str(error))

    async def keep_attached(self) -> None:
        """Attach what is new, and check everything every few seconds."""
        checked = -VERIFY_S
        while True:
            self._to_attach = trio.Event()
            everything = trio.current_time() - checked >= VERIFY_S
            if everything:
                checked = trio.current_time()
                self._injector.keep([one.id for one in self._coverage.all()])
            for order in self._coverage.orders(everything=everything):
                await self._inject(order)
            self._publish()
            with trio.move_on_after(VERIFY_S):
                await self._to_attach.wait()

    def close(self) -> None:
        self._coverage.close()

    def _refresh(self) -> None:
        self._sweep = self._coverage.refresh()
        self._counters.swept(self._sweep)
        self._publish()
        if any(one.pending for one in self._coverage.all()):
            self._to_attach.set()

    async def _inject(self, order: Order) -> None:
        work: Callable[[], Mapping[Path, Result]] = partial(
            self._injector.reconcile, order.located, order.wishes
        )
        try:
            results = await self._entering.call(work, timeout_s=_INJECT_LIMIT_S)
        except Unavailable as error:
            results = {w.target: Result(Outcome.FAILED, (), str(error)) for w in order.wishes}
        self._counters.injected(results.values(), repair=not order.expected)
        self._log_failure(order, results)
        self._coverage.settle(order, results, beneath=self._beneath)

    def _log_failure(self, order: Order, results: Mapping[Path, Result]) -> None:
        """One line when a container's views cannot be attached, not one for every try."""
        container = order.located.container
        reasons = {result.reason for result in results.values() if result.reason}
        reason = "; ".join(sorted(reasons))
        if reason and self._warned.get(container.id) != reason:
            self._context.log.warning(
                "views not attached",
                pod=f"{container.pod.namespace}/{container.pod.name}",
                container=container.name,
                pid=order.located.process.pid,
                error=reason,
            )
        if reason:
            self._warned[container.id] = reason
        else:
            self._warned.pop(container.id, None)

    def _publish(self) -> None:
        self._context.status.set(status(self._coverage, self._sweep, beneath=self._beneath))


async def _prepare(context: AgentContext, features: MountFeatures, files: ViewFiles) -> None:
    """Wait until files can be made and attached at all."""
    if not (features.open_tree and features.mount_setattr):
        context.readiness.not_ready(
            "the kernel cannot attach files to running containers, or does not let us; it needs "
            "Linux 5.12 and CAP_SYS_ADMIN"
        )
        await trio.sleep_forever()
    while True:
        try:
            files.adopt()
        except Unavailable as error:
            context.readiness.not_ready(str(error))
            await trio.sleep(_RETRY_S)
        else:
            return


def _raise_descriptor_limit() -> None:
    """A dozen cgroup files of every container stay open; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
