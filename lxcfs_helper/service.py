# SPDX-License-Identifier: Apache-2.0
"""The running agent: who runs here, what moved, what is missing. A few loops over one `Coverage`.

The event loop owns all state; only the runtime's socket and the work in other mount namespaces are
called from worker threads, so that neither holds up the heartbeat. What the kernel and the runtime
tell on their own only wakes a loop, which looks for itself: without it everything goes on, later.
When this ends, for whatever reason, every file stays where it is and keeps answering.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Collection, Sequence

import trio

from agents.agent import AgentContext
from agents.cgroup_events import CgroupChanges
from agents.cgroups import LinuxCgroups
from agents.containers import Container, Containers, Pods
from agents.cri import CriContainers
from agents.errors import AgentError, Unavailable
from agents.mounts import LinuxMounts, MountFeatures, Mounts
from agents.threads import Worker
from lxcfs_helper import metrics
from lxcfs_helper.affinity.covering import Covering
from lxcfs_helper.affinity.service import Affinity
from lxcfs_helper.attaching import Attaching
from lxcfs_helper.compat.keeper import Keeper
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.coverage import Coverage
from lxcfs_helper.files import ViewFiles, views_directory
from lxcfs_helper.inject import Injector
from lxcfs_helper.selection import names_container
from lxcfs_helper.status import status
from lxcfs_helper.sweep import Sweep
from lxcfs_helper.told import Told

#: Files of the cgroups of a container (and its pod's), also for answering its calls, and of its
#: views; and how many are left for everything else.
_FILES_EACH, _FILES_LEFT = 60, 256

#: For how long, and how often, the runtime is asked for a container whose cgroup was just made.
_EXPECT_S, _EXPECTING_S = 2.0, 0.1

#: How often limits are looked at, where the kernel does not tell of changes, and where it does.
_LIMITS_S, _LIMITS_TOLD_S = 0.15, 30.0

#: Containers that come and go together are asked for together.
_TOGETHER_S = 0.05

#: How often the runtime is asked when nobody tells of new containers, or it is away.
_UNTOLD_S = 1.0

_RUNTIME_LIMIT_S = 5.0
_RETRY_S = 5.0


async def run(context: AgentContext) -> None:
    """Never returns."""
    _raise_descriptor_limit()
    mounts = LinuxMounts(context.node.selinux_label)
    config, run_dir = context.section, context.node.run_dir
    assert isinstance(config, ViewConfig)
    root = Keeper(
        config.compat_root,
        run_dir,
        context.host,
        mounts,
        context.log,
        start_holder=context.node.holder.start,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(root.run)  # also where nothing can be attached to containers
        await _show_views(context, mounts, root)


async def _show_views(context: AgentContext, mounts: Mounts, root: Keeper) -> None:
    files = ViewFiles(views_directory(context.node.run_dir), mounts, context.host.proc)
    await _prepare(context, mounts.features(), files)
    containers = CriContainers(context.node.cri_socket, timeout_s=_RUNTIME_LIMIT_S)
    told = Told.by_kernel(context, containers)
    service = Service(context, containers, files, mounts, told, root, containers)
    try:
        async with trio.open_nursery() as nursery:
            service.start(nursery)
    finally:
        service.close()
        told.close()
        containers.close()


class Service:
    """What the loops share."""

    def __init__(
        self,
        context: AgentContext,
        containers: Containers,
        files: ViewFiles,
        mounts: Mounts,
        told: Told,
        root: Keeper,
        pods: Pods | None = None,
    ) -> None:
        assert isinstance(context.section, ViewConfig)
        cgroups = LinuxCgroups(context.host)
        self._context = context
        self._containers = containers
        self._told = told
        self._root = root
        root.changed = self._root_changed
        self._runtime = Worker("the container runtime")
        self._coverage = Coverage(
            context.section,
            context.host,
            cgroups,
            files,
            demand=told.demand,
            most=_most_containers(),
        )
        self._beneath = mounts.features().beneath
        self._sweep = Sweep()
        self._counters = metrics.Counters(context.registry)
        self._attaching = Attaching(
            self._coverage,
            Injector(context.host, cgroups, mounts, context.namespaces),
            self._counters,
            context.log,
            beneath=self._beneath,
        )
        covering = Covering(self._coverage, self._attaching, context.host, context.log)
        self._affinity = Affinity(context, covering, pods)
        self._affinity.changed = self._affinity_changed
        self._affinity.configure(context.section.affinity)
        self._attaching.began, self._attaching.ended = self._affinity.began, self._affinity.ended
        self._stirred = trio.Event()
        self._to_list = trio.Event()
        #: Cgroups named like containers that were made lately, and until when to ask for them.
        self._expected: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._listed = False
        self._misunderstood: dict[str, str] = {}
        context.registry.register(
            metrics.collector(lambda: context.status.value, self._affinity.metrics)
        )

    def start(self, nursery: trio.Nursery) -> None:
        """Start every loop."""
        nursery.start_soon(self.follow_changes)
        nursery.start_soon(self.follow_containers)
        nursery.start_soon(self.keep_fresh)
        nursery.start_soon(self._attaching.keep, self._publish)
        nursery.start_soon(self.look_for_limits)
        nursery.start_soon(self._affinity.run)
        nursery.start_soon(self._told.follow_cgroups, self._cgroups_changed)
        nursery.start_soon(self._told.follow_readers, self._read)
        nursery.start_soon(self._told.follow_runtime, self._list_now)

    async def follow_changes(self) -> None:
        """Apply each changed section at once."""
        async for section in self._context.changes:
            assert isinstance(section, ViewConfig)
            self._coverage.config = section
            self._root.configure(section.compat_root)
            self._affinity.configure(section.affinity)
            self._list_now()

    async def follow_containers(self) -> None:
        """Ask the runtime who runs, and have new containers covered at once."""
        while True:
            self._to_list = trio.Event()
            pause_s = _UNTOLD_S
            try:
                running = await self._runtime.call(
                    self._containers.list, timeout_s=_RUNTIME_LIMIT_S
                )
                self._coverage.observe(running)
                self._refresh()
                self._affinity.look()
                self._stirred.set()
                self._publish()
                self._warn_of_misunderstood()
                self._listed = True
                self._problem("runtime", None)
                pause_s = self._pause_s(running)
            except (AgentError, OSError) as error:
                self._fails("runtime", error)
            await trio.sleep(_TOGETHER_S)
            with trio.move_on_after(pause_s):
                await self._to_list.wait()

    async def keep_fresh(self) -> None:
        """Bring files up to date whenever it is time for some."""
        while True:
            with trio.move_on_after(self._coverage.next_look_s()):
                await self._stirred.wait()
            self._stirred = trio.Event()
            if self._coverage.next_look_s() > 0:
                continue
            try:
                self._refresh()
            except (AgentError, OSError) as error:
                self._fails("host", error)
                await trio.sleep(self._coverage.config.heartbeat)

    async def look_for_limits(self) -> None:
        """Where nobody tells of limits that are set anew, look for them; seldom, where somebody
        does: the kernel tells of none that change because CPUs come or go."""
        while True:
            await trio.sleep(_LIMITS_TOLD_S if self._told.by_cgroups else _LIMITS_S)
            self._coverage.check_limits()
            if self._coverage.next_look_s() == 0:
                self._stirred.set()

    def close(self) -> None:
        self._coverage.close()

    def _affinity_changed(self) -> None:
        self._problem("affinity", self._affinity.standing.problem)
        self._publish()
        self._stirred.set()

    def _root_changed(self) -> None:
        self._problem("root", self._root.standing.problem)
        self._publish()

    def _refresh(self) -> None:
        self._sweep = self._coverage.refresh()
        self._counters.swept(self._sweep)
        self._problem("host", None)
        self._attaching.look()

    def _read(self, container_ids: Collection[str]) -> None:
        self._coverage.read_by(container_ids)
        self._stirred.set()

    def _cgroups_changed(self, changes: CgroupChanges) -> None:
        """Limits are looked at at once, new containers are asked for, gone ones are let go."""
        self._coverage.limits_changed(changes)
        self._coverage.removed(changes)
        if not self._told.by_runtime:
            until = trio.current_time() + _EXPECT_S
            self._expected |= dict.fromkeys(filter(names_container, changes.created), until)
        if self._expected or changes.lost:
            self._list_now()
        self._stirred.set()

    def _list_now(self) -> None:
        self._to_list.set()

    def _pause_s(self, running: Sequence[Container]) -> float:
        """Until the runtime is asked again, if nothing wakes it before.

        A cgroup is made before its container runs: the runtime is asked for it for a while, where
        it does not tell on its own. That of a sandbox is never listed.
        """
        now = trio.current_time()
        listed = {container.id for container in running}
        self._expected = {
            path: until
            for path, until in self._expected.items()
            if until > now and not any(one in path for one in listed)
        }
        if self._expected:
            return _EXPECTING_S
        often = not (self._told.by_runtime or self._told.by_cgroups)
        return min(self._coverage.config.poll, _UNTOLD_S if often else math.inf)

    def _fails(self, what: str, error: Exception) -> None:
        """One line in the log until it works again, however its words change."""
        if what not in self._problems:
            self._context.log.warning("not ready", reason=str(error))
        self._problem(what, str(error))

    def _problem(self, what: str, reason: str | None) -> None:
        """Ready is who has no problem at all."""
        before = bool(self._problems)
        if reason is None:
            self._problems.pop(what, None)
        else:
            self._problems[what] = reason
        if self._problems:
            self._context.readiness.not_ready("; ".join(self._problems.values()))
        elif self._listed:
            self._context.readiness.ready()
        if before and not self._problems:
            self._context.log.info("ready again")

    def _warn_of_misunderstood(self) -> None:
        """One line for each pod that says of itself what is not understood."""
        found = {f"{pod.namespace}/{pod.name}": why for pod, why in self._coverage.misunderstood()}
        for pod, why in found.items():
            if self._misunderstood.get(pod) != why:
                self._context.log.warning("pod's choice not understood", pod=pod, error=why)
        self._misunderstood = found

    def _publish(self) -> None:
        features = {"beneath": self._beneath, **self._told.features()}
        views = status(self._coverage, self._sweep, features)
        more = {
            "compat_root": self._root.standing.to_json(),
            "affinity": self._affinity.to_json(),
        }
        self._context.status.set({**views, **more})


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
    """Files of every container stay open; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _most_containers() -> int:
    """As many as leave enough open files for sockets: without them nobody could be told why."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - _FILES_LEFT) // _FILES_EACH)
