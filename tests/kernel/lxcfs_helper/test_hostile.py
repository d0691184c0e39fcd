# SPDX-License-Identifier: Apache-2.0
"""Containers that fight their views: what they do stays theirs, and holds up nobody."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import HostFs
from tests.fakes.hanging_mount import HangingMounts
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_container import Kind, RuncContainer
from tests.kernel.lxcfs_helper.agent_process import (
    AgentProcess,
    LoopingReader,
    attached,
    covered,
    exactly,
    free_kib,
    processors,
    total_kib,
    whole_meminfo,
)

HOST = HostFs()
MEMINFO = "/proc/meminfo"
ONLINE = "/sys/devices/system/cpu/online"
PYTHON = "/usr/bin/python3"
HOST_CPUS = os.cpu_count() or 1
pytestmark = [
    pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no memory and cpu controllers here"),
    pytest.mark.skipif(HOST_CPUS < 2, reason="one CPU cannot be limited to one"),
]

Make = Callable[..., RuncContainer]


@pytest.fixture
def make() -> Iterator[Make]:
    """Containers of runc, all gone at the end."""
    parent = f"nodeshare-test-{secrets.token_hex(6)}"
    made: list[RuncContainer] = []

    def make(name: str, kind: Kind = Kind.PLAIN) -> RuncContainer:
        made.append(RuncContainer(name, parent, kind=kind))
        made[-1].create()
        made[-1].start()
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.remove()


@pytest.fixture
def neighbour(make: Make, agent: AgentProcess) -> Iterator[RuncContainer]:
    """It is served well all the time; and the host keeps what is its own."""
    one = make("neighbour")
    agent.list_containers(one)
    agent.start()
    eventually(covered(one), "the neighbour is covered")
    checks = {
        MEMINFO: whole_meminfo(total_kib(one)),
        "/proc/cpuinfo": processors(1),
        ONLINE: exactly("0\n"),
    }
    before = _seen_by_the_host()
    with LoopingReader(one, checks) as reader:
        yield one
        free = free_kib(one)
        holding = one.hold(16)
        eventually(lambda: free - free_kib(one) > 8 * 1024, "the neighbour's values are fresh")
        holding.kill()
    assert reader.problems == []
    assert _seen_by_the_host() == before
    assert not agent.ended(), "the agent goes on"


def _seen_by_the_host() -> list[tuple[str, str]]:
    """What is mounted over its own files, and what they say of the machine."""
    stacks = mountinfo.by_place(mountinfo.read(HOST.proc))
    over = [(place, stack[-1].fstype) for place, stack in stacks.items()]
    ours = [one for one in over if one[0].startswith(("/proc/", "/sys/devices"))]
    return [*sorted(ours), (ONLINE, Path(ONLINE).read_text())]


@pytest.mark.parametrize("kind", [Kind.USER_NAMESPACE, Kind.PRIVILEGED])
def test_one_that_unmounts_mounts_over_and_makes_writable(
    neighbour: RuncContainer, agent: AgentProcess, make: Make, kind: Kind
) -> None:
    bad = make("bad", kind)
    agent.list_containers(neighbour, bad)
    eventually(covered(bad), "covered as any other")
    script = f"""
mount -o remount,bind,rw {MEMINFO}; echo nonsense >{MEMINFO}; chmod 666 {MEMINFO}; rm {MEMINFO}
i=0; while [ $i -lt 50 ]; do umount {MEMINFO}; umount /proc/stat; i=$((i+1)); done
mount --bind /proc/version {MEMINFO}
"""
    bad.run("sh", "-c", script)
    assert bad.read(MEMINFO).startswith("Linux version"), "what it mounts over a view stays"
    eventually(lambda: "/proc/stat" in attached(bad), "put back where nothing is", timeout_s=20)
    while bad.read(MEMINFO).startswith("Linux version"):
        bad.run("umount", MEMINFO)
    eventually(covered(bad), "put back there too", timeout_s=20)
    assert total_kib(bad) == 256 * 1024


def test_one_that_leads_elsewhere(
    neighbour: RuncContainer, agent: AgentProcess, make: Make
) -> None:
    bad = make("bad", Kind.PRIVILEGED)
    passwords = Path("/etc/passwd").read_text()
    lead = "mount -t tmpfs none /proc; ln -s /etc/passwd /proc/meminfo; ln -s /etc /proc/pressure"
    bad.from_outside("sh", "-c", lead)
    agent.list_containers(neighbour, bad)
    eventually(lambda: ONLINE in attached(bad) or _cpu_tree(bad), "what is not misled is covered")
    assert not [place for place in attached(bad) if place.startswith("/proc")]
    assert bad.read("/etc/passwd") == passwords == Path("/etc/passwd").read_text()
    bad.from_outside("umount", "/proc")
    eventually(covered(bad), "covered when it leads nowhere", timeout_s=20)


def _cpu_tree(one: RuncContainer) -> bool:
    return "/sys/devices/system/cpu" in attached(one)


def test_one_whose_files_never_answer(
    neighbour: RuncContainer, agent: AgentProcess, make: Make
) -> None:
    bad = make("bad", Kind.PRIVILEGED)
    with HangingMounts(bad.pid, "/proc", "/sys") as mounts:
        agent.list_containers(neighbour, bad)
        good = make("good")
        agent.list_containers(bad, neighbour, good)
        eventually(covered(good), "one that comes later is covered")
        assert attached(bad) == []
        assert not mounts.taken.is_set(), "nobody looked there"


def test_one_that_is_frozen_or_stopped_while_it_is_covered(
    neighbour: RuncContainer, agent: AgentProcess, make: Make
) -> None:
    frozen, stopped = make("frozen"), make("stopped")
    frozen.pause()
    os.kill(stopped.pid, signal.SIGSTOP)
    agent.list_containers(neighbour, frozen, stopped)
    eventually(covered(frozen, stopped), "covered all the same")
    frozen.resume()
    os.kill(stopped.pid, signal.SIGCONT)
    assert frozen.run("cat", ONLINE) == stopped.run("cat", ONLINE) == "0\n"


def test_one_that_opens_everything_ten_thousand_times(
    neighbour: RuncContainer, agent: AgentProcess, make: Make
) -> None:
    bad = make("bad")
    agent.list_containers(neighbour, bad)
    eventually(covered(bad), "covered as any other")
    program = f"""
import os, resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (10100, 10100))
kept = [os.open({MEMINFO!r}, os.O_RDONLY) for _ in range(10000)]
open("/tmp/opened", "w").close()
while not os.path.exists("/tmp/go"): time.sleep(0.01)
texts = {{os.pread(one, 65536, 0)[:40] for one in kept}}
open("/tmp/seen.new", "w").write(str(sorted(texts)))
os.rename("/tmp/seen.new", "/tmp/seen")
time.sleep(600)
"""
    bad.enter(PYTHON, "-c", program)
    root = Path(f"/proc/{bad.pid}/root/tmp")
    eventually((root / "opened").exists, "ten thousand open files")
    agent.kill()
    agent.files.unmount()  # every mount has to be replaced under them
    agent.start()
    eventually(covered(bad, neighbour), "replaced")
    (root / "go").touch()
    eventually((root / "seen").exists, "all read")
    assert (root / "seen").read_text().count("MemTotal:         262144 kB") == 1


def test_ones_that_end_while_they_are_being_covered(
    neighbour: RuncContainer, agent: AgentProcess, make: Make
) -> None:
    for delay_s in (0.0, 0.02, 0.1, 0.15, 0.2):
        bad = make(f"bad-{delay_s}")
        agent.list_containers(neighbour, bad)
        with pytest.raises(AssertionError):
            eventually(lambda: False, "nothing: this is only to wait", timeout_s=delay_s)
        bad.kill()
    agent.list_containers(neighbour)
    eventually(lambda: agent.has_files_of() == {neighbour.id}, "their files are removed")
