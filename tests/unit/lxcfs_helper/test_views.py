# SPDX-License-Identifier: Apache-2.0
"""Views of recorded containers, with values worked out from the formulas, and their properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cgroup_formats import CpuTimes, Headroom
from agents.cgroup_io_formats import IoCounts
from lxcfs_helper.config import ViewName
from lxcfs_helper.container_limits import Limit, Limits
from lxcfs_helper.facts import ContainerFacts, HostFacts, MemoryFacts
from lxcfs_helper.host_reading import parse_meminfo
from lxcfs_helper.views import TARGETS, VIEWS, meminfo
from tests.fakes.recorded_hosts import NAMES, facts

KIB = 1024
LIMITED = [name for name in NAMES if name != "v2-unlimited"]

#: In kB. v1: 402653184 is the pod's limit; the rest follows from the recorded files.
EXPECTED = {
    "v2-nested": {
        "MemTotal": 1792 * KIB,
        "MemFree": (1792 - 1080) * KIB,
        "MemAvailable": (1536 - 1080 + 150 + 110 + 30) * KIB,
        "Buffers": 0,
        "Cached": 300 * KIB,
        "SwapCached": 2 * KIB,
        "Active": (640 + 110) * KIB,
        "Inactive": (100 + 150) * KIB,
        "Active(anon)": 640 * KIB,
        "Inactive(file)": 150 * KIB,
        "SwapTotal": 512 * KIB,
        "SwapFree": (512 - 96) * KIB,
        "Dirty": 3 * KIB,
        "Writeback": 1 * KIB,
        "AnonPages": 700 * KIB,
        "Mapped": 120 * KIB,
        "Shmem": 40 * KIB,
        "KReclaimable": 30 * KIB,
        "Slab": 40 * KIB,
        "SReclaimable": 30 * KIB,
        "SUnreclaim": 10 * KIB,
        "KernelStack": 2 * KIB,
        "PageTables": 6 * KIB,
        "Percpu": 1 * KIB,
        "AnonHugePages": 128 * KIB,
        "Mlocked": 0,
        "CommitLimit": 0,
        "HugePages_Total": 0,
        "VmallocTotal": 34359738367,
        "Hugepagesize": 2048,
    },
    "v2-old-kernel": {
        "MemTotal": 512 * KIB,
        "MemFree": (512 - 320) * KIB,
        "MemAvailable": (512 - 320 + 60 + 40 + 8) * KIB,
        "SwapTotal": 0,
        "SwapFree": 0,
        "PageTables": 0,
    },
    "v1-hybrid": {
        "MemTotal": 384 * KIB,
        "Cached": 42008576 // KIB,
        "AnonPages": 103501824 // KIB,
        "Dirty": 41943040 // KIB,
        "Inactive(file)": 41943040 // KIB,
        "Slab": 0,
        "SReclaimable": 0,
        "KReclaimable": 0,
        "SwapTotal": 0,
    },
}


@pytest.mark.parametrize("name", LIMITED)
def test_meminfo_of_recorded_containers(name: str) -> None:
    shown = parse_meminfo(meminfo.render(*facts(name)).decode())
    expected = EXPECTED[name]
    assert {field: shown[field] for field in expected} == expected


def test_meminfo_of_v1_reckons_with_the_pods_headroom() -> None:
    host, container = facts("v1-hybrid")
    shown = parse_meminfo(meminfo.render(host, container).decode())
    assert container.memory.headroom is not None
    assert shown["MemAvailable"] == container.memory.headroom.value // KIB
    assert shown["MemFree"] == (402653184 - container.memory.used) // KIB


@pytest.mark.parametrize("name", NAMES)
def test_meminfo_shows_no_field_that_is_not_allowed(name: str) -> None:
    host, container = facts(name)
    shown = parse_meminfo(meminfo.render(host, container).decode())
    assert shown.keys() <= meminfo.ALLOWED
    assert list(shown) == [field for field in host.meminfo if field in meminfo.ALLOWED]
    assert "DirectMap4k" not in shown


@pytest.mark.parametrize("name", NAMES)
def test_lines_look_as_the_kernel_writes_them(name: str) -> None:
    host, container = facts(name)
    lines = meminfo.render(host, container).decode().splitlines()
    width = len("MemTotal:       ") + 8 + len(" kB")
    assert {len(line) for line in lines if line.startswith(("MemTotal", "Dirty"))} == {width}
    assert any(line == "HugePages_Total:       0" for line in lines) or "HugePages_Total" not in (
        host.meminfo
    )


def marked_host() -> HostFacts:
    """A host in which every number is one that no container has."""
    host, _ = facts("v2-nested")
    marks = {field: 7_000_001 + number * 13 for number, field in enumerate(host.meminfo)}
    return replace(host, meminfo={**marks, "MemTotal": 64_000_001, "MemAvailable": 63_000_001})


bytes_ = st.integers(0, 1 << 36)
stats = st.dictionaries(
    st.sampled_from(sorted({name for names in meminfo.FROM_STAT.values() for name in names})),
    bytes_,
)
optional_bytes = st.none() | bytes_


@st.composite
def containers(draw: st.DrawFn) -> ContainerFacts:
    _, container = facts("v2-nested")
    limit, swap = draw(optional_bytes), draw(optional_bytes)
    limits = Limits(
        memory=None if limit is None else Limit(limit, "/"),
        swap=None if swap is None else Limit(swap, "/"),
        quota=draw(st.none() | st.floats(0.01, 300).map(lambda q: Limit(q, "/"))),
        allowed=draw(st.none() | st.frozensets(st.integers(0, 9), min_size=1)),
    )
    room = draw(optional_bytes)
    memory = MemoryFacts(
        draw(bytes_),
        draw(stats),
        None if room is None else Headroom(room, "/"),
        draw(optional_bytes),
        draw(st.none() | st.just(0)),
    )
    return replace(container, limits=limits, memory=memory)


@given(containers())
def test_no_host_value_leaks_and_numbers_are_sane(container: ContainerFacts) -> None:
    host = marked_host()
    shown = parse_meminfo(meminfo.render(host, container).decode())
    total = shown["MemTotal"]
    limit = container.limits.memory
    leaked = {
        field
        for field, value in shown.items()
        if value == host.meminfo[field] and field not in meminfo.CONSTANT
    }
    may_equal = {"MemAvailable"} | (
        {"MemTotal"} if limit is None or limit.value >= host.memory_bytes else set()
    )
    swap = container.limits.swap
    if swap is None or swap.value >= host.meminfo["SwapTotal"] * KIB:
        may_equal |= {"SwapTotal", "SwapFree"}
    assert leaked <= may_equal
    assert all(value >= 0 for value in shown.values())
    assert shown["MemFree"] + shown["Cached"] + shown["SReclaimable"] <= total + 2
    assert shown["MemAvailable"] <= min(total, host.meminfo["MemAvailable"])
    assert shown["SwapFree"] <= shown["SwapTotal"]


@given(containers(), st.integers(0, 1 << 36))
def test_meminfo_keeps_its_length_while_the_limits_stay(
    container: ContainerFacts, used: int
) -> None:
    host = marked_host()
    # Without swap a v1 container may show less swap than its limit: its length is its own affair.
    memory = replace(container.memory, swappiness=None)
    before = meminfo.render(host, replace(container, memory=memory))
    after = meminfo.render(host, replace(container, memory=replace(memory, used=used, stat={})))
    assert len(before) == len(after)


@pytest.mark.parametrize(
    ("swappiness", "swap_used", "total", "free"),
    [(60, 64, 256, 192), (0, 64, 64, 0), (60, None, 0, 0), (60, 999, 256, 0)],
)
def test_swap(swappiness: int, swap_used: int | None, total: int, free: int) -> None:
    host, container = facts("v2-nested")
    memory = replace(
        container.memory,
        swappiness=swappiness,
        swap_used=None if swap_used is None else swap_used << 20,
    )
    limits = replace(container.limits, swap=Limit(256 << 20, "/"))
    shown = parse_meminfo(
        meminfo.render(host, replace(container, memory=memory, limits=limits)).decode()
    )
    assert (shown["SwapTotal"], shown["SwapFree"]) == (total * KIB, free * KIB)


def test_a_container_without_limits_is_shown_the_hosts_own_files() -> None:
    host, container = facts("v2-unlimited")
    assert not any(view.applies(container.limits, host) for view in VIEWS.values())
    host, container = facts("v2-nested")
    assert all(view.applies(container.limits, host) for view in VIEWS.values())


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        pytest.param(
            Limits(memory=Limit(1 << 30, "/")),
            "meminfo loadavg swaps diskstats pressure uptime",
            id="memory alone",
        ),
        pytest.param(
            Limits(quota=Limit(1.5, "/")),
            "cpuinfo stat loadavg diskstats pressure cpu uptime",
            id="CPU alone",
        ),
        pytest.param(
            Limits(memory=Limit(1 << 60, "/"), quota=Limit(1000.0, "/"), swap=Limit(0, "/")),
            "",
            id="limits above what the host has",
        ),
    ],
)
def test_only_what_a_limit_makes_differ_is_shown(limits: Limits, shown: str) -> None:
    host, _ = facts("v2-nested")
    applied = {name.value for name, view in VIEWS.items() if view.applies(limits, host)}
    assert applied == set(shown.split())


def test_every_target_is_a_file_of_a_kernel_file_system() -> None:
    assert len(TARGETS) == len(set(TARGETS)) == 13
    assert all(target.parts[1] in ("proc", "sys") for target in TARGETS)
    names = [file.name for view in VIEWS.values() for file in view.files]
    assert len(set(names)) == len(names), "each has a file of its own"


@given(
    st.floats(0, 1e7),
    st.floats(0, 1e7),
    st.lists(st.integers(0, 1 << 50), min_size=6, max_size=6),
    bytes_,
)
def test_what_moves_is_as_long_as_before(
    age_s: float, used_s: float, counts: list[int], swapped: int
) -> None:
    """It is written in place, and nobody may read half of two texts."""
    host, container = facts("v2-nested")
    host = replace(host, disks={(8, 0): "sda"})
    moved = replace(
        container,
        age_s=age_s,
        account=replace(container.account, times=CpuTimes(used_s, 0.0, 0.0)),
        io={(8, 0): IoCounts(*counts)},
        memory=replace(container.memory, swap_used=swapped),
    )
    still = replace(container, io={(8, 0): IoCounts()})
    for name in (ViewName.UPTIME, ViewName.DISKSTATS, ViewName.SWAPS):
        (file,) = VIEWS[name].files
        assert len(file.render(host, moved)) == len(file.render(host, still)), name
