# SPDX-License-Identifier: Apache-2.0
"""System calls of containers that runc made with our profile, answered by the agent's own command:
real programs, real quotas and cpusets, changed while they run.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agents import holder_start
from agents.overview import look
from lxcfs_helper.agent import AGENT
from tests.fakes import seccomp_program, system_calls
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_container import Kind, RuncContainer
from tests.fakes.runc_node import RuncNode
from tests.fakes.system_calls import GLIBC, MUSL
from tests.kernel.lxcfs_helper.agent_process import total_kib

HOST = frozenset(os.sched_getaffinity(0))
MIB = 1 << 20
NARROW = os.uname().machine == "x86_64"

pytestmark = [
    pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no memory and cpu controllers here"),
    pytest.mark.skipif(len(HOST) < 2, reason="one CPU cannot be limited to one"),
]


class Answered:
    """An agent that answers, and containers with its profile."""

    def __init__(self, directory: Path) -> None:
        self.programs = system_calls.compiled(directory / "calls")
        self.node = RuncNode(
            directory, "{heartbeat: 100ms, poll: 100ms, affinity: {enabled: true, hold: 5s}}"
        )
        self.profile: Mapping[str, Any] = {}

    def start(self) -> None:
        self.node.start()
        profile = self.node.kubelet_dir / "seccomp/nodeshare/runtime-default.json"
        eventually(profile.exists, "the profile installed", 60)
        eventually(self.node.seccomp_socket.exists, "the holder listens", 60)
        self.profile = json.loads(profile.read_text())

    def make(self, name: str, **fields: Any) -> RuncContainer:
        return self.node.make(name, seccomp=self.profile, binds=self.programs, **fields)

    def remove(self, one: RuncContainer) -> None:
        self.node.runtime.made.remove(one)
        one.remove()

    def status(self) -> Mapping[str, Any]:
        """What the agent says of answering."""
        (agent,) = look([AGENT], self.node.run_dir)
        assert agent.document is not None, agent.problem
        return dict(agent.document["affinity"])

    def holder(self) -> int:
        """The pid of the one that listens now."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(holder_start.socket_path(self.node.run_dir)))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return int.from_bytes(credentials[:4], sys.byteorder)

    def program(self, container_id: str, *words: str) -> subprocess.Popen[str]:
        """Under a filter that is handed over as if it were the container's."""
        number = 204 if NARROW else 123
        script = (
            "import os, sys; from tests.fakes import seccomp_program as program; "
            f"program.hand_over(sys.argv[1], sys.argv[2], program.install({number})); "
            "os.execv(sys.argv[3], sys.argv[3:])"
        )
        argv = [str(self.node.seccomp_socket), container_id, str(self.programs["/calls"] / "glibc")]
        return subprocess.Popen(
            [sys.executable, "-c", script, *argv, *words],
            cwd=Path(seccomp_program.__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answered]:
    made = Answered(tmp_path_factory.mktemp("answered"))
    try:
        made.start()
        yield made
    finally:
        made.node.close()


@pytest.fixture(scope="module")
def containers(answered: Answered) -> Mapping[Kind, RuncContainer]:
    """One of each kind of root, used by many tests."""
    return {
        kind: answered.make(kind.value.replace(" ", "-"), kind=kind, memory=300 * MIB)
        for kind in (Kind.PLAIN, Kind.USER_NAMESPACE)
    }


@pytest.fixture
def one(containers: Mapping[Kind, RuncContainer]) -> Iterator[RuncContainer]:
    """Limited to one CPU and 300 MiB; so it is again afterwards."""
    container = containers[Kind.PLAIN]
    try:
        yield container
    finally:
        container.limit(memory=300 * MIB, cpus=1)


def cpus(mask: str) -> frozenset[int]:
    """Those in what `mask` printed."""
    bits = int(mask.split()[1], 16)
    return frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)


def told(one: RuncContainer, *words: str) -> list[str]:
    """What a shell inside prints for these commands."""
    return one.run("sh", "-c", "; ".join(words)).splitlines()


def running(one: RuncContainer) -> set[str]:
    """The names of the programs that run inside."""
    found = set()
    for pid in (one.directory("cpu") / "cgroup.procs").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return found


@pytest.mark.parametrize(
    ("quota", "count"),
    [(0.5, 1), (1, 1), (2.5, min(3, len(HOST))), (0, len(HOST))],
    ids=["half", "one", "two and a half", "none"],
)
def test_programs_count_the_cpus_of_the_quota(one: RuncContainer, quota: float, count: int) -> None:
    one.limit(cpus=quota)
    words = [f"{GLIBC} mask", f"{MUSL} mask", "nproc", "busybox nproc", f"{GLIBC} threads"]
    glibc, musl, *counted = told(one, *words)
    assert counted == [str(count)] * 3
    assert len(cpus(glibc)) == count
    assert glibc == musl


@pytest.mark.parametrize("quota", [1, 2.5])
def test_a_cpuset_smaller_than_the_quota_counts_and_a_larger_one_does_not(
    one: RuncContainer, quota: float
) -> None:
    cpuset = one.directory("cpuset") / "cpuset.cpus"
    before = cpuset.read_text()
    try:
        for allowed in sorted(HOST)[:2]:
            cpuset.write_text(str(allowed))
            one.limit(cpus=quota)
            assert cpus(one.run(GLIBC, "mask")) == {allowed}
        cpuset.write_text(",".join(map(str, sorted(HOST)[:2])))
        assert len(cpus(one.run(GLIBC, "mask"))) == min(2, quota)
    finally:
        cpuset.write_text(before)


def test_a_quota_that_changes_is_followed_at_once_and_the_masks_are_nested(
    one: RuncContainer,
) -> None:
    first = cpus(one.run(GLIBC, "mask"))
    one.limit(cpus=2)
    second = cpus(one.run(GLIBC, "mask"))
    assert (len(first), len(second)) == (1, 2)
    assert first < second
    one.limit(cpus=0.5)
    assert cpus(one.run(GLIBC, "mask")) == first


def test_every_way_to_ask_is_answered_as_the_kernel_would(
    answered: Answered, one: RuncContainer
) -> None:
    program = answered.programs["/calls"] / "glibc"
    natively = subprocess.check_output([program, "errors"], text=True)
    assert one.run(GLIBC, "errors") == natively
    assert one.run(MUSL, "errors") == natively


def test_others_of_the_container_are_told_alike_and_pinning_is_real(one: RuncContainer) -> None:
    size, mask = one.run(GLIBC, "mask").split()
    alike = f"{size} {mask}\n"
    assert one.run(GLIBC, "others") == f"thread {size}\n{mask}\n{alike * 4}pinned 0 1\n"
    one.limit(cpus=2)
    assert one.run(GLIBC, "others").endswith("pinned 0 1\n")


@pytest.mark.parametrize("kind", [Kind.PLAIN, Kind.USER_NAMESPACE], ids=lambda kind: kind.value)
def test_sysinfo_tells_what_the_files_do(
    containers: Mapping[Kind, RuncContainer], kind: Kind
) -> None:
    one = containers[kind]
    glibc, musl, _, busybox, mask = told(
        one, f"{GLIBC} sysinfo", f"{MUSL} sysinfo", "busybox free -b | head -2", f"{GLIBC} mask"
    )
    uptime, total, free, buffers, swap, _, threads, unit = map(int, glibc.split())
    assert total == 300 * MIB == total_kib(one) * 1024
    assert int(musl.split()[1]) == int(busybox.split()[1]) == total
    assert 0 < free < total
    assert (buffers, swap, unit) == (0, 0, 1)
    assert 1 <= threads < 20
    assert abs(uptime - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
    assert len(cpus(mask)) == 1


@pytest.mark.skipif(not NARROW, reason="callers of 32 bits are known here on x86-64 alone")
def test_callers_of_32_bits_have_their_own_layout(one: RuncContainer) -> None:
    mask, information = one.run(GLIBC, "narrow").splitlines()
    size, bits = mask.split()
    assert (size, int(bits, 16).bit_count()) == ("4", 1)
    refused, done, total, unit, threads, beyond = information.split()
    assert (refused, done, total, unit, beyond) == ("-22", "0", str(300 * MIB), "1", "ffffffff")
    assert 1 <= int(threads) < 20
    one.limit(memory=6 << 30)
    total, unit = one.run(GLIBC, "narrow").splitlines()[1].split()[2:4]
    assert int(total) * int(unit) == 6 << 30


def test_the_first_program_sees_the_views(answered: Answered) -> None:
    script = "head -1 /proc/meminfo; nproc; cat /sys/devices/system/cpu/online"
    command = ("sh", "-c", f"({script}) >/dev/shm/first; exec sleep 600")
    one = answered.make("first", memory=200 * MIB, command=command)
    text = Path(f"/proc/{one.pid}/root/dev/shm/first")
    eventually(lambda: text.exists() and text.read_text().count("\n") == 3, "what it saw", 60)
    assert text.read_text().split() == ["MemTotal:", str(200 << 10), "kB", "1", "0"]


def test_what_was_taken_away_is_there_again_for_the_next_exec(one: RuncContainer) -> None:
    first = ("sed", "-n", "1p", "/proc/meminfo")
    assert one.run(*first).split()[1] == str(300 << 10)
    one.from_outside("umount", "/proc/meminfo")
    assert one.run(*first).split()[1] == str(300 << 10)


@pytest.mark.parametrize(
    "annotations",
    [
        {"io.kubernetes.cri.sandbox-namespace": "kube-system"},
        {"nodeshare/view": "false"},
        {"io.kubernetes.cri.container-type": "sandbox"},
    ],
    ids=["namespace", "own word", "sandbox"],
)
def test_who_is_left_out_is_answered_by_the_kernel(
    answered: Answered, annotations: Mapping[str, str]
) -> None:
    parent = f"nodeshare-test-{secrets.token_hex(6)}"
    fields: Any = {"seccomp": answered.profile, "binds": answered.programs, "memory": 200 * MIB}
    one = RuncContainer("excluded", parent, annotations=annotations, **fields)  # and listed nowhere
    try:
        one.create()
        one.start()
        mask, information = told(one, f"{GLIBC} mask", f"{GLIBC} sysinfo")
        assert cpus(mask) == HOST
        assert int(information.split()[1]) > 200 * MIB
    finally:
        one.remove()


def test_many_callers_at_once_all_get_their_own_answers(
    containers: Mapping[Kind, RuncContainer], one: RuncContainer, *, soak: bool
) -> None:
    one.limit(cpus=2)
    calls = 20_000 if soak else 200
    word = f"{GLIBC} storm {calls} & {MUSL} storm {calls} & {GLIBC} storm {calls} & wait"
    with ThreadPoolExecutor() as pool:
        answers = [*pool.map(lambda container: told(container, word), containers.values())]
    for count, lines in zip((2, 1), answers, strict=True):
        assert len(set(lines)) == 1
        assert len(lines) == 3
        mask, different = lines[0].split()
        assert (int(mask, 16).bit_count(), different) == (count, "0")


def test_an_agent_that_is_killed_under_load_is_succeeded(
    answered: Answered, containers: Mapping[Kind, RuncContainer], one: RuncContainer, *, soak: bool
) -> None:
    rounds, calls = (100, 200_000) if soak else (1, 500)
    with ThreadPoolExecutor() as pool:
        storms = [pool.submit(told, each, f"{GLIBC} storm {calls}") for each in containers.values()]
        for _ in range(rounds):
            answered.node.kill()
            answered.node.start()
            eventually(lambda: len(cpus(one.run(GLIBC, "mask"))) == 1, "answered again", 60)
        for storm in storms:
            (line,) = storm.result(timeout=240)
            assert len(line.split()) == 2


def test_when_the_holder_is_killed_programs_that_run_notice_nothing(
    answered: Answered, one: RuncContainer
) -> None:
    before = answered.holder()
    with ThreadPoolExecutor() as pool:
        storm = pool.submit(told, one, f"{GLIBC} storm 2000")
        eventually(lambda: "glibc" in running(one), "it calls", 60)
        os.kill(before, signal.SIGKILL)
        (line,) = storm.result(timeout=240)
        assert line.split()[1] == "0"
    eventually(lambda: one.run("true") == "", "the next holder listens", 60)
    assert answered.holder() != before
    assert len(cpus(one.run(GLIBC, "mask"))) == 1


@pytest.mark.loud
def test_memory_that_never_comes_holds_up_nobody_else(
    answered: Answered, one: RuncContainer
) -> None:
    other = answered.make("slow")
    before = answered.status()["hung"]
    program = answered.program(other.id, "slow")
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "asks\n"
        for _ in range(5):
            assert len(cpus(one.run(GLIBC, "mask"))) == 1
        eventually(lambda: answered.status()["hung"] == before + 1, "a thread replaced", 60)
        assert cpus(other.run(GLIBC, "mask")) == HOST  # left alone for a while
        assert program.poll() is None
    finally:
        program.kill()
        program.communicate(timeout=60)
        answered.remove(other)
    assert len(cpus(one.run(GLIBC, "mask"))) == 1


def test_containers_that_end_are_let_go(answered: Answered, one: RuncContainer) -> None:
    def kept(containers: int) -> bool:
        """So many, and no descriptor of an exec that has ended."""
        status = answered.status()
        return bool(status["containers"] == status["descriptors"] == containers)

    before = len(answered.node.runtime.made)
    one.run("true")
    eventually(lambda: kept(before), "execs let go", 60)
    made = [answered.make(f"brief-{number}") for number in range(2)]
    eventually(lambda: kept(before + 2), "attended", 60)
    for each in made:
        answered.remove(each)
    eventually(lambda: kept(before), "let go", 60)
    assert answered.status()["problem"] is None
