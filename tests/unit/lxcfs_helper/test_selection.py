# SPDX-License-Identifier: Apache-2.0
"""Which containers, and being sure that a process is the container's."""

from __future__ import annotations

import pytest

from agents.cgroup_formats import CgroupPaths
from agents.containers import Container, Pod
from lxcfs_helper.config import InjectConfig
from lxcfs_helper.selection import (
    Exclusion,
    belongs,
    exclusion,
    misunderstood,
    names_container,
    own_cgroup,
)

ID = "3f1c9a5e7b2d"
NAMESPACE, EXCLUDED = Exclusion.NAMESPACE, Exclusion.EXCLUDED_NAMESPACE


def container() -> Container:
    return Container(ID, "main", Pod("ada", "jupyter-hub", "uid"), 42)


def pod(namespace: str, said: str | None = None, **labels: str) -> Pod:
    annotations = {} if said is None else {"nodeshare/view": said}
    return Pod("ada", namespace, "uid", labels, annotations)


@pytest.mark.parametrize(
    ("namespaces", "exclude", "namespace", "expected"),
    [
        pytest.param(["*"], [], "any", None, id="everybody"),
        pytest.param(["jupyter*"], [], "jupyter-hub", None, id="a pattern"),
        pytest.param(["jupyter*"], [], "my-jupyter", NAMESPACE, id="patterns are anchored"),
        pytest.param(["*"], ["kube-*"], "kube-system", EXCLUDED, id="excluded"),
        pytest.param([], [], "any", NAMESPACE, id="nobody"),
    ],
)
def test_selection_by_namespace(
    namespaces: list[str], exclude: list[str], namespace: str, expected: Exclusion | None
) -> None:
    inject = InjectConfig(namespaces=tuple(namespaces), exclude=tuple(exclude))
    assert exclusion(inject, pod(namespace)) is expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"app": "hub", "component": "singleuser-server"}, None),
        ({"app": "hub", "component": "proxy"}, Exclusion.LABELS),
        ({"component": "singleuser-server"}, Exclusion.LABELS),
        ({}, Exclusion.LABELS),
    ],
)
def test_all_labels_must_match(labels: dict[str, str], expected: Exclusion | None) -> None:
    inject = InjectConfig(pod_labels={"app": "hub", "component": "singleuser-*"})
    assert exclusion(inject, pod("a", **labels)) is expected


@pytest.mark.parametrize(
    ("namespace", "said", "expected"),
    [
        pytest.param("jupyter", "false", Exclusion.POD, id="opted out"),
        pytest.param("jupyter", " False ", Exclusion.POD, id="as people write it"),
        pytest.param("jupyter", "true", None, id="selected anyway"),
        pytest.param("other", "true", None, id="opted in"),
        pytest.param("kube-system", "true", EXCLUDED, id="the operator has the last word"),
        pytest.param("jupyter", "maybe", None, id="not understood, so not said"),
        pytest.param("other", "maybe", NAMESPACE, id="not understood, so not selected"),
    ],
)
def test_what_a_pod_says_itself(namespace: str, said: str, expected: Exclusion | None) -> None:
    inject = InjectConfig(namespaces=("jupyter",))
    assert exclusion(inject, pod(namespace, said)) is expected
    labelled = Pod("ada", namespace, "uid", {"nodeshare/view": said})
    assert exclusion(inject, labelled) is expected, "a label says the same"


def test_the_annotation_goes_before_the_label_and_may_have_another_name() -> None:
    both = Pod("ada", "a", "uid", {"nodeshare/view": "false"}, {"nodeshare/view": "true"})
    assert exclusion(InjectConfig(), both) is None
    other = InjectConfig(annotation="example.org/proc")
    assert exclusion(other, pod("a", "false")) is None
    assert exclusion(other, Pod("a", "a", "u", {}, {"example.org/proc": "false"})) is Exclusion.POD


def test_what_is_wrong_with_a_choice_is_told() -> None:
    assert misunderstood(InjectConfig(), pod("a", "maybe")) == (
        'nodeshare/view is \'maybe\'; write "true" or "false"'
    )
    for fine in ("true", "False", None):
        assert misunderstood(InjectConfig(), pod("a", fine)) is None


def test_cgroups_of_containers_are_told_from_others() -> None:
    id_ = "3f1c9a5e7b2d4f60819a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70"
    assert names_container(f"/kubepods/burstable/pod1/{id_}")
    assert names_container(f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id_}.scope")
    assert not names_container(f"/kubepods/burstable/pod1/{id_}/init.scope")
    assert not names_container("/kubepods.slice/kubepods-pod8a5a1b1c_52f4_4d2b.slice")


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


def test_a_place_in_cgroup2_that_is_not_the_containers_is_none() -> None:
    own = f"/kubepods/pod1/{ID}"
    paths = CgroupPaths("/system.slice/containerd.service", {"memory": own})
    assert own_cgroup(paths, container()) == CgroupPaths(None, {"memory": own})
