# SPDX-License-Identifier: Apache-2.0
"""Views in real containers: what programs see, across the agent's death, changes and the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agents import mountinfo
from agents.config import NodeConfig
from agents.hostfs import HostFs
from agents.namespaces import NamespaceHelper
from lxcfs_helper.config import ViewName
from lxcfs_helper.eject import eject
from lxcfs_helper.explain import explain
from lxcfs_helper.explain_text import report
from lxcfs_helper.files import views_directory
from lxcfs_helper.views import VIEWS
from tests.fakes.real_container import RealContainer, eventually
from tests.kernel.lxcfs_helper.agent_process import (
    TARGETS,
    AgentProcess,
    attached,
    covered,
    free_kib,
    reading,
    total_kib,
    total_kib_of_host,
    views,
)

MIB = 1 << 20
HOST_CPUS = os.cpu_count() or 1
CPU_TARGETS = {
    str(target)
    for name in (ViewName.CPUINFO, ViewName.STAT, ViewName.CPU)
    for target in VIEWS[name].targets
}
pytestmark = pytest.mark.skipif(HOST_CPUS < 2, reason="one CPU cannot be limited to one")

MakeContainer = Callable[..., RealContainer]


def has_less_free(container: RealContainer, kib: int) -> bool:
    return free_kib(container) < kib


def has_more_free(container: RealContainer, kib: int) -> bool:
    return free_kib(container) > kib


def busy_ticks(container: RealContainer) -> int:
    fields = container.read("/proc/stat").split()
    return int(fields[1]) + int(fields[3])


def test_programs_inside_see_the_limits(agent: AgentProcess, make_container: MakeContainer) -> None:
    one = make_container(memory=256 * MIB, cpus=1.0)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")

    assert one.run("free", "-m").splitlines()[1].split()[1] == "256"
    count = "import os; print(os.cpu_count(), os.sysconf('SC_NPROCESSORS_CONF'))"
    assert one.run("/usr/bin/python3", "-c", count).split() == ["1", "1"]
    assert one.run("grep", "-c", "^processor", "/proc/cpuinfo").strip() == "1"
    assert one.run("grep", "-c", "^cpu[0-9]", "/proc/stat").strip() == "1"
    assert one.run("cat", "/sys/devices/system/cpu/online").strip() == "0"
    assert one.run("lscpu", "--parse=CPU").splitlines()[-1] == "0"
    top = one.run("top", "-b", "-n", "1")
    assert "256.0 total" in top or "262144 total" in top
    # Tools that compute differences get sane ones.
    idle = int(one.run("vmstat", "1", "2").splitlines()[-1].split()[14])
    assert 0 <= idle <= 100


def test_what_a_container_sees_is_explained(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container(memory=256 * MIB, cpus=1.0)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    node = NodeConfig(run_dir=agent.run_dir)
    (told,) = explain(node, str(one.pid))
    states = {name: shown.state for name, shown in told.views.items()}
    assert states.pop(ViewName.UPTIME) == "not attached"
    assert set(states.values()) == {"attached"}
    cgroup = f"/{one.parent}/{one.id}"
    views = json.loads(report([told]).text(as_json=True))["containers"][0]["views"]
    total = views["meminfo"]["values"][0]
    assert (total["what"], total["container"]) == ("MemTotal", f"{256 * 1024} kB")
    assert total["host"] == f"{total_kib_of_host()} kB"
    assert total["from"].endswith(f" of {cgroup}")
    assert views["cpu"]["values"][0]["container"] == "0"
    assert views["cpu"]["values"][0]["host"] != "0"
    page = report([told]).text(as_json=False)
    rows = [line.split() for line in page.splitlines()]
    assert ["memory", "256", "MiB", "[0]"] in rows
    assert ["CPU", "quota", "1", "CPUs", "[0]"] in rows
    assert ["[0]", cgroup] in rows


def test_use_shows_within_a_heartbeat(agent: AgentProcess, make_container: MakeContainer) -> None:
    one = make_container(memory=256 * MIB)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    before, busy_before = free_kib(one), busy_ticks(one)
    one.hold(64)
    eventually(lambda: before - free_kib(one) > 60 * 1024, "64 MiB less are free")
    eventually(lambda: busy_ticks(one) > busy_before, "CPU time was used")


def test_a_view_can_be_neither_written_nor_unmounted_by_the_container(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    assert "Read-only file system" in one.run("sh", "-c", "echo nonsense > /proc/meminfo")
    assert "Read-only file system" in one.run(
        "sh", "-c", "echo 0-99 > /sys/devices/system/cpu/online"
    )
    # Root as a container runtime makes it: without CAP_SYS_ADMIN.
    said = one.run("setpriv", "--bounding-set", "-sys_admin", "umount", "/proc/meminfo")
    assert "superuser" in said or "permitted" in said
    assert covered(one)()
    assert total_kib(one) == 256 * 1024


def test_readers_never_notice_that_the_agent_dies_and_comes_back(
    agent: AgentProcess, make_container: MakeContainer, soak: bool
) -> None:
    one = make_container(memory=256 * MIB)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    reader = reading(one)
    with reader:
        for _ in range(100 if soak else 5):
            reads, free = reader.reads, free_kib(one)
            agent.kill()
            eventually(partial(reader.has_read, reads + 200), "reads while nobody is there")
            mounts = _places(one)
            agent.start()
            holding = one.hold(4)
            eventually(partial(has_less_free, one, free - 4096), "fresh values again")
            holding.kill()
            eventually(partial(has_more_free, one, free - 4096), "and fresh again")
            assert _places(one) == mounts, "adopted, not replaced"
    assert reader.problems == []


def test_a_new_tmpfs_replaces_what_an_earlier_one_left(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container(memory=256 * MIB)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    reader = reading(one)
    with reader:
        agent.kill()
        agent.files.unmount()  # as after the loss of an agent's own mount namespace
        before = _places(one)
        agent.start()
        eventually(lambda: not before & _places(one), "every mount replaced")
        eventually(covered(one), "everything attached")
    assert reader.problems == []


def test_changed_limits_are_shown_and_lifted_limits_show_the_host(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container(memory=256 * MIB, cpus=1.0)
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    one.limit(memory=512 * MIB)
    eventually(lambda: total_kib(one) == 512 * 1024, "the new memory limit")
    one.limit(cpus=0)
    eventually(lambda: not CPU_TARGETS & set(attached(one)), "CPU views taken away")
    assert "/proc/meminfo" in attached(one)
    assert (
        one.read("/sys/devices/system/cpu/online")
        == Path("/sys/devices/system/cpu/online").read_text()
    )
    one.limit(cpus=0.5)
    eventually(covered(one), "CPU views back")
    assert one.read("/sys/devices/system/cpu/online") == "0\n"


def test_a_lost_mount_is_put_back(agent: AgentProcess, make_container: MakeContainer) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    one.run("umount", "/proc/stat")
    eventually(covered(one), "the mount is back", timeout_s=20)


def test_a_container_that_is_excluded_later_gets_the_host_back(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    one = make_container()
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "everything attached")
    agent.list_containers(one, namespace="kube-system")
    eventually(lambda: attached(one) == [], "everything taken away")
    assert total_kib(one) > 256 * 1024


def test_containers_come_and_go_while_they_are_being_covered(
    agent: AgentProcess, make_container: MakeContainer
) -> None:
    agent.start()
    stays = make_container("stays")
    for number in range(4):
        goes = make_container(f"goes-{number}")
        agent.list_containers(stays, goes)
        if number % 2:
            eventually(partial(attached, goes), "at least one attached")
        goes.kill()
    agent.list_containers(stays)
    eventually(covered(stays), "the one that stays is covered")
    eventually(lambda: agent.has_files_of() == {stays.id}, "files of the others are removed")


def test_eject_leaves_nothing(
    agent: AgentProcess, make_container: MakeContainer, namespaces: NamespaceHelper
) -> None:
    one, two = make_container("one"), make_container("two")
    agent.list_containers(one, two)
    agent.start()
    eventually(covered(one, two), "both covered")
    agent.kill()
    done = eject(HostFs(), namespaces, agent.files)
    assert (done.mounts >= 2 * len(TARGETS), done.problems) == (True, ())
    for container in (one, two):
        entries = mountinfo.read(HostFs().proc, container.pid)
        assert not [e for e in entries if e.source == agent.files.source]
        assert total_kib(container) == total_kib_of_host()
    assert not views_directory(agent.run_dir).exists()


def _places(container: RealContainer) -> set[tuple[int, str, tuple[int, int]]]:
    """What stands where: the kernel uses numbers of mounts again, so they say little alone."""
    files = (entry for entry in views(container) if entry.fstype == "tmpfs")
    return {(entry.mount_id, entry.mount_point, entry.device) for entry in files}
