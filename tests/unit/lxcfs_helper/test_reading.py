# SPDX-License-Identifier: Apache-2.0
"""A container is read source by source, and the host as far as it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cgroups import LinuxCgroups
from agents.errors import Unavailable
from agents.hostfs import PROC, SYS, HostFs
from lxcfs_helper import host_reading
from lxcfs_helper.facts import LoadAccount
from lxcfs_helper.host_reading import HostReader
from lxcfs_helper.reading import ContainerReader
from lxcfs_helper.sources import EVERYTHING, Source
from tests.fakes import view_cases
from tests.fakes.recorded_hosts import PID

CASE = "v2-quota-above-and-cpuset"
CGROUP = "sys/fs/cgroup/kubepods/pod1/c1"


@pytest.fixture
def fs(tmp_path: Path) -> HostFs:
    return view_cases.write(CASE, tmp_path)


def reader(fs: HostFs, cgroups: LinuxCgroups | None = None) -> ContainerReader:
    cgroups = cgroups or LinuxCgroups(fs)
    return ContainerReader(cgroups.open(cgroups.paths(PID)), fs.proc, 1000.0)


def test_only_what_is_asked_for_is_read(fs: HostFs, tmp_path: Path) -> None:
    cgroups = LinuxCgroups(fs)
    host, one = HostReader(fs).read(), reader(fs, cgroups)
    first = one.read(int(Source.MEMORY), host, 1100.0)
    assert first is not None
    assert first.memory.used == 600 << 20
    assert (first.account.at, first.io, first.load) == (0.0, None, LoadAccount())
    assert first.limits.memory is not None, "limits are always known"
    (tmp_path / CGROUP / "memory.current").write_text(f"{500 << 20}\n")
    cgroups.read_anew()
    second = one.read(int(Source.CPU), host, 1101.0)
    assert second is not None
    assert second.memory is first.memory
    assert second.account.at == 1101.0
    assert second.age_s == 101.0
    third = one.read(int(Source.MEMORY | Source.IO), host, 1102.0)
    assert third is not None
    assert third.memory.used == 500 << 20
    assert third.account is second.account
    assert third.io is not None
    one.close()


def test_a_container_that_is_gone_is_none_and_leaves_what_was_known(
    fs: HostFs, tmp_path: Path
) -> None:
    host, one = HostReader(fs).read(), reader(fs)
    (tmp_path / CGROUP / "memory.current").unlink()
    assert one.read(int(Source.MEMORY), host, 1100.0) is None
    assert one.read(int(Source.CPU), host, 1100.0) is not None
    assert one.facts is not None
    one.close()


def test_what_is_accounted_goes_on_from_the_files_of_an_earlier_agent(fs: HostFs) -> None:
    host, one = HostReader(fs).read(), reader(fs)
    assert one.read(int(EVERYTHING), host, 1100.0) is not None
    shown = {
        "stat": b"cpu  99999 0 1000 12000 0 0 0 3000 0 0\ncpu0 3333 0 333 4000 0 0 0 1000 0 0\n",
        "loadavg": b"1.50 0.75 0.25 1/2 0\n",
    }
    one.resume(shown.get, host.ticks_per_second)
    assert one.facts is not None
    assert one.facts.account.total.user_s == 999.99
    assert one.facts.load.averages == (1.5, 0.75, 0.25)
    one.close()


def test_pressure_files_are_the_containers_own(fs: HostFs, tmp_path: Path) -> None:
    (tmp_path / CGROUP / "cpu.pressure").write_text("some total=0\n")
    one = reader(fs)
    facts = one.read(int(Source.LIMITS), HostReader(fs).read(), 1100.0)
    assert facts is not None
    assert {name: (file.path, file.root) for name, file in facts.pressure.items()} == {
        "cpu": (tmp_path / CGROUP / "cpu.pressure", "/kubepods/pod1/c1/cpu.pressure")
    }
    one.close()


def test_what_the_host_offers_and_tells(fs: HostFs) -> None:
    host = HostReader(fs).read_for_people()
    assert {PROC / "meminfo", PROC / "pressure/io", SYS / "devices/system/node"} <= host.offers
    assert PROC / "pressure/irq" not in host.offers
    assert host.disks == {(8, 0): "sda", (8, 1): "sda1", (259, 0): "nvme0n1"}
    assert host.sys_cpus.constants == {
        "kernel_max": "8191",
        "smt/active": "1",
        "vulnerabilities/meltdown": "Not affected",
    }
    assert [cache["level"] for cache in host.sys_cpus.caches] == ["1", "3"]
    assert host.texts["loadavg"].startswith("7.11")
    assert HostReader(fs).read().texts == {}


def test_cpus_that_come_and_go_are_noticed(fs: HostFs, tmp_path: Path) -> None:
    one = HostReader(fs)
    before = one.read()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\n\n")
    assert one.read().cpuinfo == before.cpuinfo, "read once"
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-1\n")
    after = one.read()
    assert after.cpus == {0, 1}
    assert after.cpuinfo != before.cpuinfo


def test_a_host_without_disks_or_meminfo(fs: HostFs, tmp_path: Path) -> None:
    (tmp_path / "proc/diskstats").unlink()
    assert HostReader(fs).read().disks == {}
    (tmp_path / "proc/meminfo").write_text("nonsense\n")
    with pytest.raises(Unavailable, match="host's own files"):
        HostReader(fs).read()


def test_the_boot_time_follows_a_clock_that_is_set(
    fs: HostFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart_s = 1000.0
    monkeypatch.setattr(host_reading, "_clocks_apart_s", lambda: apart_s)
    one = HostReader(fs)
    before = one.read().boot_time
    text = (fs.proc / "stat").read_text()
    (fs.proc / "stat").write_text(text.replace(f"btime {before}", f"btime {before + 3600}"))
    apart_s += 0.1
    assert one.read().boot_time == before, "not read again"
    apart_s += 3600
    assert one.read().boot_time == before + 3600
