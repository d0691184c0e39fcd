# SPDX-License-Identifier: Apache-2.0
"""Cgroups of v2, v1 and both, on trees that look like them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from agents.errors import AgentError
from agents.hostfs import HostFs
from agents.standin.cgroup_limits import Limits, missing
from agents.standin.cgroup_tree import CgroupTree, hierarchies

PATH = "/nodeshare-demo/kubepods/burstable/pod1/c1"
LEVELS = ("", *(str(level)[1:] for level in reversed(Path(PATH).parents)), PATH[1:])
V2 = {
    "cgroup.controllers": "cpuset cpu io memory pids",
    "cgroup.subtree_control": "",
    "cgroup.procs": "",
    "cpu.max": "max 100000",
    "cpuset.cpus": "",
    "memory.max": "max",
    "memory.swap.max": "max",
}


def lay_out(root: Path, files: Mapping[str, str]) -> None:
    """The same files at every level down to the container, as the kernel makes them."""
    for level in LEVELS:
        (root / level).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (root / level / name).write_text(content)


def tree(cgroup: Path) -> CgroupTree:
    return CgroupTree(HostFs(cgroup=cgroup), "nodeshare-demo")


def test_v2_sets_limits_and_hands_controllers_down(tmp_path: Path) -> None:
    lay_out(tmp_path, V2)
    tree(tmp_path).create(PATH, Limits(1500, 64 << 20, "0-1"))
    leaf = tmp_path / PATH[1:]
    assert (leaf / "cpu.max").read_text() == "150000 100000"
    assert (leaf / "memory.max").read_text() == str(64 << 20)
    assert (leaf / "memory.swap.max").read_text() == "0"
    assert (leaf / "cpuset.cpus").read_text() == "0-1"
    for level in LEVELS[:-1]:
        control = (tmp_path / level / "cgroup.subtree_control").read_text()
        assert set(control.split()) == {"+cpu", "+memory", "+cpuset", "+pids", "+io"}, level
    assert (leaf / "cgroup.subtree_control").read_text() == "", "it would take no process then"
    assert (leaf.parent / "memory.max").read_text() == "max", "limits are the container's alone"


def test_v2_asks_only_for_what_is_there_and_not_yet_handed_down(tmp_path: Path) -> None:
    lay_out(tmp_path, V2 | {"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "cpu"})
    tree(tmp_path).create(PATH)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_v2_without_a_controller_says_which_limits_are_missing(tmp_path: Path) -> None:
    files = {name: text for name, text in V2.items() if not name.startswith(("cpuset", "cpu."))}
    lay_out(tmp_path, files | {"cgroup.controllers": "memory"})
    cgroups = tree(tmp_path)
    cgroups.create(PATH, Limits(1500, 64 << 20, "0"))
    assert cgroups.missing(PATH) == {"cpu", "cpuset"}
    assert (tmp_path / PATH[1:] / "memory.max").read_text() == str(64 << 20)


def v1(cgroup: Path) -> None:
    """Two controllers mounted together with the usual links, one alone, and v2 beside them."""
    lay_out(
        cgroup / "cpu,cpuacct",
        {"cgroup.procs": "", "cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "50000"},
    )
    (cgroup / "cpu").symlink_to("cpu,cpuacct")
    (cgroup / "cpuacct").symlink_to("cpu,cpuacct")
    lay_out(
        cgroup / "cpuset",
        {
            "cgroup.procs": "",
            "cpuset.cpus": "",
            "cpuset.mems": "",
            "cpuset.cpu_exclusive": "0",
        },
    )
    (cgroup / "cpuset/cpuset.cpus").write_text("0-7\n")
    (cgroup / "cpuset/cpuset.mems").write_text("0\n")
    lay_out(
        cgroup / "memory",
        {
            "cgroup.procs": "",
            "memory.limit_in_bytes": "9223372036854771712",
            "memory.memsw.limit_in_bytes": "9223372036854771712",
        },
    )
    lay_out(cgroup / "unified", {"cgroup.procs": "", "cgroup.controllers": ""})
    (cgroup / "unified/cgroup.subtree_control").write_text("")


def test_v1_sets_each_limit_in_its_hierarchy(tmp_path: Path) -> None:
    v1(tmp_path)
    cgroups = tree(tmp_path)
    assert [root.name for root in cgroups.roots] == ["cpu,cpuacct", "cpuset", "memory", "unified"]
    cgroups.create(PATH, Limits(500, 64 << 20, "3"))
    leaf = PATH[1:]
    assert (tmp_path / "cpu" / leaf / "cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "cpu" / leaf / "cpu.cfs_period_us").read_text() == "100000"
    assert (tmp_path / "memory" / leaf / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (tmp_path / "memory" / leaf / "memory.memsw.limit_in_bytes").read_text() == str(64 << 20)
    assert (tmp_path / "cpuset" / leaf / "cpuset.cpus").read_text() == "3"
    assert (tmp_path / "cpuset" / leaf / "cpuset.mems").read_text() == "0\n"
    pod = (tmp_path / "cpuset" / leaf).parent
    assert (pod / "cpuset.cpus").read_text() == "0-7\n", "an empty one would take no process"
    assert cgroups.missing(PATH) == frozenset()


def test_no_limit_writes_nothing(tmp_path: Path) -> None:
    lay_out(tmp_path, V2)
    tree(tmp_path).create(PATH, Limits())
    assert (tmp_path / PATH[1:] / "memory.max").read_text() == "max"
    assert (tmp_path / PATH[1:] / "cpu.max").read_text() == "max 100000"


def test_a_quota_is_never_less_than_the_kernel_takes(tmp_path: Path) -> None:
    lay_out(tmp_path, V2)
    tree(tmp_path).create(PATH, Limits(cpu_millis=1))
    assert (tmp_path / PATH[1:] / "cpu.max").read_text() == "1000 100000"


def test_a_refused_limit_names_the_value(tmp_path: Path) -> None:
    (tmp_path / "memory.max").mkdir()  # as good as any file that cannot be written
    with pytest.raises(AgentError, match="memory limit of 42 bytes: Is a directory"):
        Limits(memory_bytes=42).write(tmp_path)


def test_missing_asks_all_directories(tmp_path: Path) -> None:
    for name, file in (("a", "cpu.max"), ("b", "memory.limit_in_bytes")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    assert missing([tmp_path / "a", tmp_path / "b"]) == {"cpuset"}


@pytest.mark.parametrize(
    "parent",
    ["", "/", ".", "kubepods", "/kubepods", "a/nodeshare", "nodeshare/..", "nodeshare/./a"],
)
def test_a_parent_that_could_be_anothers_is_refused(tmp_path: Path, parent: str) -> None:
    lay_out(tmp_path, V2)
    with pytest.raises(AgentError, match="does not begin with 'nodeshare'"):
        CgroupTree(HostFs(cgroup=tmp_path), parent)


@pytest.mark.parametrize(
    "path", ["/", "/nodeshare-demo2", "/kubepods/pod1", "/nodeshare-demo/../x"]
)
def test_a_path_outside_the_parent_is_refused(tmp_path: Path, path: str) -> None:
    lay_out(tmp_path, V2)
    for act in (tree(tmp_path).create, tree(tmp_path).remove, tree(tmp_path).processes):
        with pytest.raises(AgentError, match="is not below '/nodeshare-demo'"):
            act(path)


def test_no_cgroups_at_all_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    assert hierarchies(tmp_path / "none") == ()
    with pytest.raises(AgentError, match="mount cgroup2"):
        tree(tmp_path)


def test_members_of_all_levels_and_hierarchies_count(tmp_path: Path) -> None:
    v1(tmp_path)
    (tmp_path / "cpuset" / PATH[1:] / "cgroup.procs").write_text("11\n12\n0\n")
    (tmp_path / "unified" / PATH[1:] / "cgroup.procs").write_text("12\n13\n")
    (tmp_path / "memory/nodeshare-demo/cgroup.procs").write_text("14\n")
    (tmp_path / "memory/cgroup.procs").write_text("1\n")
    assert tree(tmp_path).processes("/nodeshare-demo") == {11, 12, 13, 14}
    assert tree(tmp_path).processes(PATH) == {11, 12, 13}
    assert tree(tmp_path).processes("/nodeshare-demo/none") == frozenset()


def test_removing_and_pruning_leave_what_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    cgroups = tree(tmp_path)
    for path in (PATH, "/nodeshare-demo/kubepods/burstable/pod2/c2"):
        cgroups.create(path)
    assert cgroups.remove(PATH) == ()
    cgroups.prune(PATH)
    assert cgroups.existing() == (
        "/nodeshare-demo/kubepods/burstable/pod2/c2",
        "/nodeshare-demo/kubepods/burstable/pod2",
        "/nodeshare-demo/kubepods/burstable",
        "/nodeshare-demo/kubepods",
        "/nodeshare-demo",
    )
    (tmp_path / "nodeshare-demo/kubepods/busy").touch()
    left = cgroups.remove("/nodeshare-demo", timeout_s=0.01)
    assert left == (tmp_path / "nodeshare-demo",)
    assert sorted(os.listdir(tmp_path / "nodeshare-demo/kubepods")) == ["busy"]


def test_a_tree_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "nodeshare-demo").touch()
    with pytest.raises(AgentError, match="privileged") as raised:
        tree(tmp_path).create(PATH)
    assert "cannot make cgroup" in str(raised.value)
