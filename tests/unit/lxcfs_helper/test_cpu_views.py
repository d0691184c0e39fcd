# SPDX-License-Identifier: Apache-2.0
"""cpuinfo of every architecture, and the directories of CPUs and nodes, tell of the same CPUs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcfs_helper.container_limits import Limit, Limits
from lxcfs_helper.facts import ContainerFacts, HostCpus
from lxcfs_helper.views import cpu, cpuinfo, stat
from tests.fakes.recorded_hosts import facts

ARM64 = "processor\t: {n}\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n\n"
POWER = "processor\t: {n}\ncpu\t\t: POWER9\nclock\t\t: 2300.000000MHz\n\n"
POWER_END = "timebase\t: 512000000\nplatform\t: pSeries\nmodel\t\t: IBM,9009-42A\n\n"
ARM32 = "processor\t: {n}\nmodel name\t: ARMv7 Processor rev 4\n\n"
ARM32_END = "Hardware\t: Board\nRevision\t: a02082\nSerial\t\t: 00000000deadbeef\n\n"
RISCV = "processor\t: {n}\nhart\t\t: {n}\nisa\t\t: rv64imafdc\n\n"
LOONGARCH_BEGIN = "system type\t\t: generic-loongson-machine\n\n"
LOONGARCH = "processor\t\t: {n}\npackage\t\t\t: 1\ncore\t\t\t: {n}\nglobal_id\t\t: {n}\n\n"
S390_BEGIN = (
    "vendor_id       : IBM/S390\n# processors    : 8\nbogomips per cpu: 3033.00\n"
    "max thread id   : 1\n"
    "cache0          : level=1 type=Data scope=Private size=128K\n"
    + "".join(
        f"processor {n}: version = FF,  identification = 0{n}3F67,  machine = 2964\n"
        for n in range(8)
    )
    + "\n"
)
S390 = (
    "cpu number      : {n}\nphysical id     : 1\ncore id         : {n}\nbook id         : 3\n"
    "siblings        : 8\ncpu cores       : 4\nversion         : FF\nmachine         : 2964\n\n"
)


def shown(text: str) -> str:
    """Of a host with these eight CPUs, for a container that may use half of 2 and 3."""
    host, container = facts("v2-nested")
    limits = Limits(quota=Limit(1.5, "/pod"), allowed=frozenset({2, 3}))
    return cpuinfo.render(replace(host, cpuinfo=text), replace(container, limits=limits)).decode()


def eight(block: str) -> str:
    return "".join(block.replace("{n}", str(n)) for n in range(8))


def two(block: str) -> str:
    return "".join(block.replace("{n}", str(n)) for n in range(2))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(eight(ARM64), two(ARM64), id="64-bit Arm"),
        pytest.param(
            eight(ARM32) + ARM32_END,
            two(ARM32) + ARM32_END.replace("00000000deadbeef", "0"),
            id="32-bit Arm, without its serial number",
        ),
        pytest.param(eight(POWER) + POWER_END, two(POWER) + POWER_END, id="Power"),
        pytest.param(eight(RISCV), two(RISCV), id="RISC-V"),
        pytest.param(
            LOONGARCH_BEGIN + eight(LOONGARCH),
            LOONGARCH_BEGIN + two(LOONGARCH).replace(": 1\ncore", ": 0\ncore"),
            id="LoongArch",
        ),
        pytest.param(
            S390_BEGIN + eight(S390),
            "vendor_id       : IBM/S390\n# processors    : 2\nbogomips per cpu: 3033.00\n"
            "max thread id   : 1\ncache0          : level=1 type=Data scope=Private size=128K\n"
            "processor 0: version = FF,  identification = 023F67,  machine = 2964\n"
            "processor 1: version = FF,  identification = 033F67,  machine = 2964\n\n"
            + two(S390)
            .replace("siblings        : 8", "siblings        : 2")
            .replace("cpu cores       : 4", "cpu cores       : 2")
            .replace("physical id     : 1", "physical id     : 0")
            .replace("book id         : 3", "book id         : 0"),
            id="s390",
        ),
        pytest.param("vendor_id : IBM\n\n", "vendor_id : IBM\n\n", id="no CPU that we know"),
    ],
)
def test_every_architecture(host: str, expected: str) -> None:
    assert shown(host) == expected


def test_x86_is_one_package_of_single_threaded_cores() -> None:
    host, container = facts("v2-nested")
    text = cpuinfo.render(host, container).decode()
    blocks = [dict(re.findall(r"^(\S[^\t:]*)\t*: ?(.*)$", b, re.M)) for b in text.split("\n\n")[:2]]
    for number, block in enumerate(blocks):
        assert block["siblings"] == block["cpu cores"] == "2"
        assert block["processor"] == block["core id"] == block["apicid"] == str(number)
        assert block["physical id"] == "0"
        assert block["model name"].startswith("Intel(R) Xeon(R)")


TOPOLOGY = (
    *("thread_siblings", "thread_siblings_list", "core_cpus", "core_cpus_list", "core_siblings"),
    *("core_siblings_list", "package_cpus", "package_cpus_list", "die_cpus", "die_cpus_list"),
    *("core_id", "die_id", "cluster_id", "physical_package_id", "ppin"),
)
CACHES: tuple[dict[str, str], ...] = (
    {"level": "1", "type": "Data", "size": "32K"},
    {"level": "2", "type": "Unified", "size": "1024K"},
    {"level": "3", "type": "Unified", "size": "32768K"},
)

cpu_limits = st.builds(
    Limits,
    quota=st.none() | st.floats(0.01, 100).map(lambda cpus: Limit(cpus, "/")),
    allowed=st.none() | st.frozensets(st.integers(0, 99), min_size=1),
)


def container(limits: Limits) -> ContainerFacts:
    _, one = facts("v2-nested")
    times = one.account.times
    return replace(
        one,
        limits=limits,
        account=stat.begin(
            times,
            capacity=limits.capacity(BIG.cpus),
            count=limits.cpu_count(BIG.cpus),
            age_s=100.0,
            now=1.0,
        ),
    )


BIG = replace(
    facts("v2-nested")[0],
    cpus=frozenset(range(80)),
    cpuinfo="".join(f"processor\t: {n}\ncore id\t\t: {n}\n\n" for n in range(80)),
    sys_cpus=HostCpus(frozenset(TOPOLOGY), CACHES, {"kernel_max": "8191"}),
)


def cpus_of(text: bytes) -> set[int]:
    """A list as any program reads it."""
    found: set[int] = set()
    for part in text.decode().strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def bits_of(text: bytes) -> set[int]:
    """A mask as any program reads it."""
    number = int(text.decode().strip().replace(",", ""), 16)
    return {cpu for cpu in range(number.bit_length()) if number >> cpu & 1}


@given(cpu_limits)
def test_everything_that_tells_of_cpus_tells_of_the_same(limits: Limits) -> None:
    one = container(limits)
    count = limits.cpu_count(BIG.cpus)
    everybody = set(range(count))
    tree, nodes = cpu.render(BIG, one), cpu.render_nodes(BIG, one)
    assert 1 <= count <= len(limits.cpus(BIG.cpus))
    for name in ("online", "possible", "present"):
        assert cpus_of(tree[name]) == everybody
    assert cpus_of(nodes["node0/cpulist"]) == bits_of(nodes["node0/cpumap"]) == everybody
    directories = {path.split("/")[0] for path in tree if re.match(r"cpu\d", path)}
    assert directories == {f"cpu{n}" for n in everybody}
    assert "cpu0/topology/ppin" not in tree, "the machine's number is not the container's to know"
    for n in everybody:
        topology, cache = f"cpu{n}/topology", f"cpu{n}/cache"
        assert bits_of(tree[f"{topology}/thread_siblings"]) == {n}
        assert cpus_of(tree[f"{topology}/core_cpus_list"]) == {n}
        assert bits_of(tree[f"{topology}/package_cpus"]) == everybody
        assert cpus_of(tree[f"{topology}/die_cpus_list"]) == everybody
        assert tree[f"{topology}/core_id"] == f"{n}\n".encode()
        assert bits_of(tree[f"{cache}/index1/shared_cpu_map"]) == {n}
        assert cpus_of(tree[f"{cache}/index2/shared_cpu_list"]) == everybody
    assert cpuinfo.render(BIG, one).count(b"processor\t: ") == count
    assert len(re.findall(rb"^cpu\d+ ", stat.render(BIG, one), re.MULTILINE)) == count


@pytest.mark.parametrize(
    ("cpus", "possible", "expected"),
    [
        (range(1), 1, "1"),
        (range(2), 2, "3"),
        (range(4, 5), 5, "10"),
        (range(32), 32, "ffffffff"),
        (range(33), 33, "1,ffffffff"),
        (range(2), 64, "00000000,00000003"),
        (range(63, 64), 64, "80000000,00000000"),
    ],
)
def test_a_mask_is_as_the_kernel_writes_it(cpus: range, possible: int, expected: str) -> None:
    assert cpu.mask(cpus, possible) == expected
