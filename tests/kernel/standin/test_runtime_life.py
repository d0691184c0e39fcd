# SPDX-License-Identifier: Apache-2.0
"""Containers that come and go: nothing is left of them, nor of those that never started."""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import PROC, HostFs
from agents.standin.cgroup_tree import hierarchies
from agents.standin.pods import DeviceNode
from agents.standin.runtime import ContainerRunner
from tests.fakes.containers import container, exists


def traces(directory: Path, parent: str, host: HostFs) -> dict[str, list[str]]:
    """What there is of containers: files, cgroups, mounts on the host, children of ours."""
    return {
        "files": sorted(str(path) for path in directory.rglob("*")),
        "cgroups": [
            str(path) for root in hierarchies(host.cgroup) for path in (root / parent).glob("*/**")
        ],
        "mounts": [entry.mount_point for entry in mountinfo.below(mountinfo.read(PROC), directory)],
        "children": _children(),
    }


def _children() -> list[str]:
    return (PROC / f"self/task/{os.getpid()}/children").read_text().split()


def test_nothing_is_left_of_a_removed_container(
    runner: ContainerRunner, directory: Path, cgroup_parent: str, host: HostFs
) -> None:
    before = traces(directory, cgroup_parent, host)
    running = runner.start(container())
    during = traces(directory, cgroup_parent, host)
    assert during["cgroups"]
    assert not during["mounts"], "the host sees no mount of a container"
    runner.remove(running.start.id)
    assert traces(directory, cgroup_parent, host) == before
    assert runner.containers() == ()
    runner.remove(running.start.id)  # once more is no error


def test_close_removes_all(directory: Path, cgroup_parent: str, host: HostFs) -> None:
    children = _children()
    runner = ContainerRunner(directory, cgroup_parent, host)
    pids = [runner.start(container()).pid for _ in range(3)]
    runner.close()
    assert not [pid for pid in pids if exists(pid)]
    assert not directory.exists()
    assert not [root for root in hierarchies(host.cgroup) if (root / cgroup_parent).exists()]
    assert _children() == children
    runner.close()
    with pytest.raises(AgentError, match="closed"):
        runner.start(container())
    assert not directory.exists()


def test_two_containers_of_one_pod_share_its_cgroup_until_the_last_is_gone(
    runner: ContainerRunner, cgroup_parent: str, host: HostFs
) -> None:
    first, second = container(), container()
    second = type(second)(second.id, first.pod, first.pod_uid, second.spec)
    cgroups = [Path(runner.start(one).cgroup) for one in (first, second)]
    assert cgroups[0].parent == cgroups[1].parent
    pod = hierarchies(host.cgroup)[0] / cgroups[0].parent.relative_to("/")
    runner.remove(first.id)
    assert pod.is_dir()
    runner.remove(second.id)
    assert not pod.exists()


REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "missing command": (
        ("nope",),
        {},
        'exec: "nope": executable file not found in $PATH',
    ),
    "missing path": (
        ("/nope",),
        {},
        'exec: "/nope": stat /nope: no such file or directory',
    ),
    "not executable": (("/etc/passwd",), {}, 'exec: "/etc/passwd": permission denied'),
    "missing device": (
        ("true",),
        {"devices": [DeviceNode(Path("/dev/nodeshare-none"), "/dev/nvidia0")]},
        "lstat /dev/nodeshare-none: no such file or directory",
    ),
    "no device": (
        ("true",),
        {"devices": [DeviceNode(Path("/etc/passwd"), "/dev/nvidia0")]},
        "/etc/passwd: not a device node",
    ),
    "cpuset of other machines": (
        ("true",),
        {"cpuset": "4000"},
        "cannot set a cpuset '4000'",
    ),
}


@pytest.mark.parametrize(("command", "fields", "text"), REFUSED.values(), ids=REFUSED)
def test_a_container_that_cannot_start_says_why_and_leaves_nothing(
    runner: ContainerRunner,
    directory: Path,
    cgroup_parent: str,
    host: HostFs,
    command: tuple[str, ...],
    fields: dict[str, Any],
    text: str,
) -> None:
    if "cpuset" in fields and "cpuset" in runner.missing_controllers:
        pytest.skip("no cpuset controller")
    before = traces(directory, cgroup_parent, host)
    with pytest.raises(AgentError) as raised:
        runner.start(container(*command, **fields))
    assert text in str(raised.value)
    assert traces(directory, cgroup_parent, host) == before
    assert runner.containers() == ()


def test_a_container_starts_once(runner: ContainerRunner) -> None:
    start = container()
    runner.start(start)
    with pytest.raises(AgentError, match="exists already"):
        runner.start(start)


def test_quick_cycles(
    runner: ContainerRunner, directory: Path, cgroup_parent: str, host: HostFs, soak: bool
) -> None:
    before = traces(directory, cgroup_parent, host)
    descriptors = len(os.listdir(PROC / "self/fd"))
    for _ in range(500 if soak else 20):
        running = runner.start(container(memory_bytes=64 << 20))
        assert runner.exec(running.start.id, ["true"], timeout_s=10).ok
        runner.remove(running.start.id)
    assert traces(directory, cgroup_parent, host) == before
    assert len(os.listdir(PROC / "self/fd")) == descriptors


def test_many_at_once(runner: ContainerRunner, directory: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: runner.start(container()), range(8)))
        assert len({one.pid for one in started}) == 8
        for _ in pool.map(lambda one: runner.remove(one.start.id), [*started, *started]):
            pass
    assert runner.containers() == ()
    assert [path.name for path in directory.iterdir()] == [".nodeshare-run"]


def test_a_cgroup_tree_that_is_read_only_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("")
    (tmp_path / "cgroup.procs").write_text("")
    parent = f"nodeshare-test-{secrets.token_hex(4)}"
    (tmp_path / parent).write_text("in the way, as EROFS would be")
    with pytest.raises(AgentError, match="privileged"):
        ContainerRunner(tmp_path / "run", parent, HostFs(cgroup=tmp_path))


def test_cgroup_v2_alone(directory: Path, cgroup_parent: str, host: HostFs) -> None:
    """Where both versions are mounted, a runner that is shown v2 alone works with that."""
    version_2 = next(
        (root for root in hierarchies(host.cgroup) if (root / "cgroup.controllers").exists()), None
    )
    if version_2 is None:
        pytest.skip("no cgroup v2")
    runner = ContainerRunner(directory, cgroup_parent, HostFs(cgroup=version_2))
    try:
        running = runner.start(container("sh", "-c", "setsid sleep 1000 & wait"))
        lines = (PROC / f"{running.pid}/cgroup").read_text().splitlines()
        assert f"0::{running.cgroup}" in lines
        seen = runner.exec(running.start.id, ["cat", "/sys/fs/cgroup/cgroup.procs"], timeout_s=10)
        assert seen.output.split()[:2] == ["1", "2"], "its own cgroup is at the usual place"
        runner.stop(running.start.id)
        assert not exists(running.pid)
    finally:
        runner.close()
    assert not directory.exists()
