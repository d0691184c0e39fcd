# SPDX-License-Identifier: Apache-2.0
"""What people are told of a container's calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cgroup_formats import CgroupPaths
from lxcfs_helper.affinity import explain
from tests.fakes import view_cases

ID = "0123456789abcdef" * 4


def test_a_quota_chooses_some_of_the_cpus_and_memory_is_told_as_the_files_do(
    tmp_path: Path,
) -> None:
    case = view_cases.read("v2-quota-above-and-cpuset", tmp_path)
    affinity, information = explain.told(ID, case.host, case.container)
    assert (affinity.what, affinity.value, affinity.origin) == (
        "sched_getaffinity",
        "1-3",
        "/kubepods/pod1",
    )
    assert affinity.formula == "where it may run", "2.5 CPUs are all three of its cpuset"
    assert information.value.startswith("1.0 GiB, ")
    assert information.origin == "/kubepods/pod1"


@pytest.mark.parametrize(
    ("affinity", "words"),
    [
        (None, "no agent runs"),
        ({}, "not enabled"),
        ({"enabled": True, "problem": "no holder"}, "no holder"),
        ({"enabled": True, "problem": None}, "no seccomp profile of ours"),
    ],
    ids=["no agent", "off", "broken", "not asked"],
)
def test_why_the_kernel_answers(affinity: dict[str, object] | None, words: str) -> None:
    assert words in explain.why_not(affinity)


def test_a_process_is_known_by_its_cgroup() -> None:
    here = CgroupPaths(f"/kubepods/pod1/{ID}/below")
    assert explain.answered_as({"answered": ["f" * 64, ID]}, here) == ID
    assert explain.answered_as({"answered": []}, here) is None
