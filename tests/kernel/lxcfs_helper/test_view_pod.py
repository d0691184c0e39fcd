# SPDX-License-Identifier: Apache-2.0
"""The view agent in a container of its own, as its DaemonSet has it: with it goes its mount
namespace, and what it lent from the host stays.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts, Propagation
from tests.fakes.lent_paths import in_container
from tests.fakes.real_container import LIMITS_AVAILABLE, RealContainer, eventually
from tests.kernel.lxcfs_helper.agent_process import (
    AgentProcess,
    covered,
    free_kib,
    reading,
    views,
)

pytestmark = pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no cgroup can be limited here")


class AgentPod(AgentProcess):
    """Its run directory is lent by the host, Bidirectional."""

    def __init__(self, directory: Path) -> None:
        self._told = directory / "told"
        self._told.mkdir()
        super().__init__(self._told)
        self.run_dir = directory / "run"
        self.run_dir.mkdir()
        self._roots: list[Path] = []

    def wrap(self, argv: list[str]) -> list[str]:
        root = Path(tempfile.mkdtemp(prefix="nodeshare-container-"))
        self._roots.append(root)
        return in_container(argv, root, lent=[self.run_dir], bound=[self._told])

    def namespace(self) -> Path:
        """Of its mounts."""
        assert self._process is not None
        return (PROC / str(self._process.pid) / "ns/mnt").readlink()

    def remove(self) -> None:
        self.kill()
        self.files.unmount()
        for root in self._roots:
            shutil.rmtree(root)


@pytest.fixture
def agent_pod(tmp_path: Path) -> Iterator[AgentPod]:
    mounts = LinuxMounts()
    mounts.bind(tmp_path, tmp_path)
    try:
        mounts.set_propagation(tmp_path, Propagation.PRIVATE)
        mounts.set_propagation(tmp_path, Propagation.SHARED)
        one = AgentPod(tmp_path)
        try:
            yield one
        finally:
            one.remove()
    finally:
        mounts.unmount(tmp_path, detach=True)


def shows_fresh_values(one: RealContainer) -> None:
    """Somebody looks after its files."""
    free = free_kib(one)
    holding = one.hold(4)
    eventually(lambda: free_kib(one) < free - 4096, "fresh values", 30)
    holding.kill()
    eventually(lambda: free_kib(one) > free - 4096, "and fresh again", 30)


def test_readers_never_notice_that_the_agents_pod_is_replaced(
    agent_pod: AgentPod, make_container: Callable[..., RealContainer], soak: bool
) -> None:
    one = make_container(memory=256 << 20)
    agent_pod.list_containers(one)
    agent_pod.start()
    eventually(covered(one), "everything attached", 30)
    assert agent_pod.namespace() != (PROC / "self/ns/mnt").readlink()
    places = {entry.mount_id for entry in views(one)}
    reader = reading(one)
    with reader:
        for _ in range(20 if soak else 2):
            agent_pod.kill()
            eventually(partial(reader.has_read, reader.reads + 200), "reads while nobody is there")
            agent_pod.start()
            shows_fresh_values(one)
            assert {entry.mount_id for entry in views(one)} == places, "adopted, not replaced"
    assert reader.problems == []
    tmpfs = mountinfo.at(mountinfo.read(PROC), agent_pod.files.directory)
    assert len(tmpfs) == 1, "one, which the node has too"
