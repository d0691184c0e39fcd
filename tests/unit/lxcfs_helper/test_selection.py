# SPDX-License-Identifier: Apache-2.0
"""Which containers, and being sure that a process is the container's."""

from __future__ import annotations

import pytest

from agents.cgroup_formats import CgroupPaths
from agents.containers import Container, Pod
from lxcfs_helper.config import InjectConfig
from lxcfs_helper.selection import belongs, own_cgroup, selected

ID = "3f1c9a5e7b2d"


def container(namespace: str = "jupyter-hub") -> Container:
    return Container(ID, "main", Pod("ada", namespace, "uid"), 42)


@pytest.mark.parametrize(
    ("namespaces", "exclude", "namespace", "is_selected"),
    [
        pytest.param(["*"], [], "any", True, id="everybody"),
        pytest.param(["jupyter*"], [], "jupyter-hub", True, id="a pattern"),
        pytest.param(["jupyter*"], [], "my-jupyter", False, id="patterns are anchored"),
        pytest.param(["*"], ["kube-*"], "kube-system", False, id="excluded"),
        pytest.param([], [], "any", False, id="nobody"),
        pytest.param(["Jupyter"], [], "jupyter", False, id="case matters"),
    ],
)
def test_selection(
    namespaces: list[str], exclude: list[str], namespace: str, is_selected: bool
) -> None:
    inject = InjectConfig(namespaces=tuple(namespaces), exclude=tuple(exclude))
    assert selected(inject, container(namespace)) is is_selected


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods/burstable/pod1/{ID}",
        f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
        f"/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope/container",
    ],
)
def test_runtimes_name_the_cgroup_by_the_id(path: str) -> None:
    assert belongs(CgroupPaths(path), container())
    assert belongs(CgroupPaths("/", {"memory": path}), container())
    assert not belongs(CgroupPaths(path.replace(ID, "other")), container())


def test_what_the_container_made_below_its_cgroup_is_cut_off() -> None:
    own = f"/kubepods/pod1/{ID}"
    paths = CgroupPaths(f"{own}/init.scope", {"memory": f"{own}/a/b", "cpu": own, "pids": "/"})
    assert own_cgroup(paths, container()) == CgroupPaths(
        own, {"memory": own, "cpu": own, "pids": "/"}
    )
