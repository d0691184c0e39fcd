# SPDX-License-Identifier: Apache-2.0
"""A container runner for one test, with names of its own, that leaves nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import PROC, HostFs
from agents.mounts import LinuxMounts, Propagation
from agents.standin.cgroup_tree import CgroupTree, hierarchies
from agents.standin.leftovers import sweep
from agents.standin.pods import RunningContainer
from agents.standin.runtime import ContainerRunner
from tests.fakes.containers import container

Start = Callable[..., RunningContainer]


@pytest.fixture
def host() -> HostFs:
    return HostFs()


@pytest.fixture
def cgroup_parent(host: HostFs) -> Iterator[str]:
    """A parent of this test's own. No directory of it may be left, in any hierarchy."""
    name = f"nodeshare-test-{secrets.token_hex(4)}"
    yield name
    left = [root / name for root in hierarchies(host.cgroup) if (root / name).exists()]
    if left:
        tree = CgroupTree(host, name)
        tree.kill(tree.parent, timeout_s=5)
        tree.remove(tree.parent)
    assert not left, f"cgroups left: {left}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def runner(directory: Path, cgroup_parent: str, host: HostFs) -> Iterator[ContainerRunner]:
    """Closed in the end; what a failing test leaves is swept."""
    made = ContainerRunner(directory, cgroup_parent, host)
    try:
        yield made
        made.close()
        assert not directory.exists()
    finally:
        sweep(directory, cgroup_parent, host)


@pytest.fixture
def start(runner: ContainerRunner) -> Start:
    """Start a container with this command and these fields."""
    return lambda *command, **fields: runner.start(container(*command, **fields))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount of its own peer group, as a mounter's root is."""
    mounts, path = LinuxMounts(), tmp_path / "shared"
    path.mkdir()
    mounts.mount("shared", path, "tmpfs")
    mounts.set_propagation(path, Propagation.PRIVATE)
    mounts.set_propagation(path, Propagation.SHARED)
    try:
        yield path
    finally:
        for entry in reversed(mountinfo.below(mountinfo.read(PROC), path)):
            mounts.unmount(Path(entry.mount_point), detach=True)
