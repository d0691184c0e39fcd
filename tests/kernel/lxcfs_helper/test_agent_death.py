# SPDX-License-Identifier: Apache-2.0
"""The agent may die at any moment: readers see no gap, and the next agent puts things right."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import HostFs
from agents.namespaces import NamespaceHelper
from lxcfs_helper.eject import eject
from lxcfs_helper.files import is_ours
from tests.fakes.real_container import RealContainer, eventually
from tests.kernel.lxcfs_helper.agent_process import (
    TARGETS,
    AgentProcess,
    attached,
    covered,
    reading,
    total_kib,
    total_kib_of_host,
    views,
)

MakeContainer = Callable[..., RealContainer]
HOST = HostFs()
pytestmark = pytest.mark.skipif(
    (os.cpu_count() or 1) < 2, reason="one CPU cannot be limited to one"
)


def piled(one: RealContainer) -> dict[str, int]:
    """Places with more than one mount of ours."""
    entries = mountinfo.read(HOST.proc, one.pid)
    places = Counter(entry.mount_point for entry in entries if is_ours(entry, entry.source))
    return {place: number for place, number in places.items() if number > 1 and place in TARGETS}


@pytest.mark.soak
def test_killed_at_any_step_of_its_work(
    agent: AgentProcess, make_container: MakeContainer, soak: bool, beneath: bool
) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    agent.kill()
    moments = range(1, 120) if soak else (1, 2, 6, 15, 28, 41)
    died = 0
    with reading(one) as reader:
        for moment in moments:
            agent.files.unmount()  # so that the next one has to replace every mount
            agent.start(dies_at=moment)
            eventually(lambda: agent.ended() or _all_of(one, agent), "dead, or done before that")
            died += agent.ended()
            agent.kill()
        agent.start()
        eventually(lambda: _all_of(one, agent), "every mount is of the present tmpfs")
        eventually(covered(one), "everything attached")
    assert reader.problems == []
    assert reader.reads > len(moments)
    assert died >= min(len(moments), 40) - 2, "it does die in the middle of its work"
    if beneath:
        assert piled(one) == {}, "what was begun and not finished is finished"


def _all_of(one: RealContainer, agent: AgentProcess) -> bool:
    """Whether everything shown is of the tmpfs that is mounted now."""
    try:
        number = agent.files.directory.stat().st_dev
    except FileNotFoundError:
        return False
    ours = [entry for entry in views(one) if entry.fstype == "tmpfs"]
    return all(entry.device == (os.major(number), os.minor(number)) for entry in ours)


def test_what_is_lost_while_nobody_is_there_is_put_back_by_the_next(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one, other = make_container("one"), make_container("other")
    agent.list_containers(one, other)
    agent.start()
    eventually(covered(one, other), "both covered")
    agent.kill()
    one.run("umount", "/proc/stat")
    one.run("umount", "/proc/meminfo")
    one.run("mount", "--bind", "/proc/version", "/proc/cpuinfo")
    mounts = {entry.mount_id for entry in views(other)}
    agent.start()
    eventually(lambda: {"/proc/stat", "/proc/meminfo"} <= set(attached(one)), "both are back")
    assert total_kib(one) == 256 * 1024
    assert one.read("/proc/cpuinfo").startswith("Linux version"), "what others mounted stays"
    assert {entry.mount_id for entry in views(other)} == mounts, "adopted, not replaced"


def test_a_file_that_was_deleted_meanwhile_is_replaced(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    agent.kill()
    for path in (agent.files.directory / one.id).iterdir():
        if path.is_file():
            path.unlink()
    agent.start()
    eventually(lambda: not any("deleted" in view.root for view in views(one)), "new files shown")
    eventually(covered(one), "everything attached")
    assert total_kib(one) == 256 * 1024


def test_eject_after_a_death_with_everything_in_use(
    agent: AgentProcess, make_container: MakeContainer, namespaces: NamespaceHelper
) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    one.enter("unshare", "-m", "sh", "-c", "exec 3</proc/meminfo; sleep 600")
    eventually(lambda: _nested(one) is not None, "a mount namespace inside")
    agent.kill()
    one.run("umount", "/proc/stat")
    with Path(f"/proc/{one.pid}/root/proc/meminfo").open() as kept:
        done = eject(HOST, namespaces, agent.files)
        # More: whatever made a mount namespace here meanwhile got copies of our mounts.
        assert (done.problems, done.namespaces >= 2) == ((), True)
        assert "MemTotal" in kept.read(), "who has it open can go on reading"
    nested = _nested(one)
    assert nested is not None
    for pid in (one.pid, nested):
        assert not [e for e in mountinfo.read(HOST.proc, pid) if is_ours(e, agent.files.source)]
    assert total_kib(one) == total_kib_of_host()
    assert not agent.files.directory.exists()


def _nested(one: RealContainer) -> int | None:
    """A process in the container's pid namespace, in another mount namespace than its first."""
    namespace = (HOST.proc / str(one.pid) / "ns/mnt").stat().st_ino
    for name in os.listdir(HOST.proc):
        process = HOST.proc / name
        try:
            inside = (process / "ns/pid").stat().st_ino == one.pid_namespace
            elsewhere = (process / "ns/mnt").stat().st_ino != namespace
            if inside and elsewhere and (process / "comm").read_text() == "sleep\n":
                return int(name)
        except (OSError, ValueError):
            continue
    return None
