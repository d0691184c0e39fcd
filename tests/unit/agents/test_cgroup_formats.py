# SPDX-License-Identifier: Apache-2.0
"""Texts of cgroup files, as v1 and v2 write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import cgroup_formats as formats
from agents.cgroup_formats import CgroupPaths

V1 = """12:pids:/kubepods/pod1/c1
8:cpu,cpuacct:/kubepods/pod1/c1
4:memory:/kubepods/pod1/c1
1:name=systemd:/kubepods/pod1/c1
0::/system.slice/containerd.service
"""


def test_paths_of_v1_and_of_both_side_by_side() -> None:
    assert formats.parse_paths(V1) == CgroupPaths(
        "/system.slice/containerd.service",
        dict.fromkeys(("pids", "cpu", "cpuacct", "memory"), "/kubepods/pod1/c1"),
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("0::/a.slice/b.scope\n", "/a.slice/b.scope", id="plain"),
        pytest.param("0::/odd:name/b\n", "/odd:name/b", id="colons belong to the path"),
        pytest.param("0::/a/b (deleted)\n", "/a/b", id="removed under its processes"),
        pytest.param("0::/\n", "/", id="root"),
    ],
)
def test_paths_of_v2(text: str, path: str) -> None:
    assert formats.parse_paths(text) == CgroupPaths(path)


def test_a_path_out_of_our_own_cgroup_namespace() -> None:
    assert formats.parse_paths("0::/../../kubepods.slice/x\n").outside
    assert not formats.parse_paths("0::/kubepods..slice/x\n").outside


def test_up_leads_to_the_root() -> None:
    assert formats.up("/a/b/c") == ("/a/b/c", "/a/b", "/a", "/")
    assert formats.up("/") == ("/",)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("max\n", None),
        ("536870912\n", 536870912),
        ("0\n", 0),
        ("-1\n", None),
        ("9223372036854771712\n", None),
        ("9223372036854710272\n", None),  # with 64-KiB pages
    ],
)
def test_limits(text: str, limit: int | None) -> None:
    assert formats.parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("5000 10000\n", 0.5), ("20000\n", 0.2)],
)
def test_quota_of_v2(text: str, cpus: float | None) -> None:
    assert formats.parse_cpu_max(text) == cpus


def test_quota_of_v1() -> None:
    assert formats.cpu_quota_v1("-1\n", "100000\n") is None
    assert formats.cpu_quota_v1("250000\n", "100000\n") == 2.5


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8\n", {0, 1, 2, 3, 8}), ("5\n", {5}), ("\n", None), ("0,2,4-5", {0, 2, 4, 5})],
)
def test_cpu_lists(text: str, cpus: set[int] | None) -> None:
    assert formats.parse_cpu_list(text) == cpus


@given(st.frozensets(st.integers(0, 300), min_size=1))
def test_a_cpu_list_reads_back_as_it_was_written(cpus: frozenset[int]) -> None:
    assert formats.parse_cpu_list(formats.format_cpu_list(cpus)) == cpus


def test_memory_stat_of_v1_takes_the_hierarchical_values_under_v2s_names() -> None:
    entries = formats.Entries(formats.V1_MEMORY_NAMES)
    text = b"cache 1\nrss 2\ntotal_cache 10\ntotal_rss 20\ntotal_dirty 3\n"
    assert entries.read(text) == {"file": 10, "anon": 20, "file_dirty": 3}


def test_entries_are_found_again_when_the_file_lists_others() -> None:
    entries = formats.Entries({"b": "B", "d": "D"})
    assert entries.read(b"a 1\nb 2\nc 3\nd 4\n") == {"B": 2, "D": 4}
    assert entries.read(b"a 5\nb 6\nc 7\nd 8\n") == {"B": 6, "D": 8}
    assert entries.read(b"b 1\na 2\n") == {"B": 1}
    assert entries.read(b"") == {}
    assert entries.read(b"a 1\nd 2\nc 3\nb 4\n") == {"B": 4, "D": 2}


def test_cpu_times() -> None:
    usage_all = b"cpu user system\n0 1000000000 500000000\n1 2000000000 0\n"
    times = formats.cpu_times_v1(usage_all, b"nr_periods 9\nthrottled_time 250000000\n")
    assert (times.user_s, times.system_s, times.throttled_s) == (3.0, 0.5, 0.25)
    times = formats.cpu_times_v2(b"user_usec 3000000\nsystem_usec 500000\n", b"")
    assert (times.user_s, times.system_s, times.throttled_s, times.used_s) == (3.0, 0.5, 0.0, 3.5)
