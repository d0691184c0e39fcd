# SPDX-License-Identifier: Apache-2.0
"""Every form in which a container's cgroup is written, one row each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.container_cgroups import ContainerCgroup, Outside, Place, find, node_root

UID = "8a5a1b1c-52f4-4d2b-9c1e-0123456789ab"
OTHER_UID = "11111111-2222-3333-4444-555555555555"
STATIC = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
ID, OTHER, NODE = "ab" * 32, "cd" * 32, "ef" * 32
SLICE = UID.replace("-", "_")

KUBEPODS = f"/kubepods/burstable/pod{UID}"
SYSTEMD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice"
KIND = f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE}.slice"


def v2(path: str) -> str:
    return f"0::{path}\n"


def v1(path: str, unified: str | None = None) -> str:
    """As Docker's and the kubelet's hosts have it; hybrid with `unified`."""
    lines = [f"12:memory:{path}", f"11:cpu,cpuacct:{path}", "2:rdma:/", f"1:name=systemd:{path}"]
    return "\n".join(lines + ([] if unified is None else [f"0::{unified}"])) + "\n"


def at(path: str, pod: str | None = UID, id_: str = ID) -> ContainerCgroup:
    return ContainerCgroup(pod, id_, path)


ROWS: dict[str, tuple[str, Place]] = {
    # -- drivers and versions
    "v1, cgroupfs, burstable": (v1(f"{KUBEPODS}/{ID}"), at(f"{KUBEPODS}/{ID}")),
    "v1, cgroupfs, guaranteed": (
        v1(f"/kubepods/pod{UID}/{ID}"),
        at(f"/kubepods/pod{UID}/{ID}"),
    ),
    "v1, cgroupfs, best effort": (
        v1(f"/kubepods/besteffort/pod{UID}/{ID}"),
        at(f"/kubepods/besteffort/pod{UID}/{ID}"),
    ),
    "v1, systemd, containerd": (
        v1(f"{SYSTEMD}/cri-containerd-{ID}.scope"),
        at(f"{SYSTEMD}/cri-containerd-{ID}.scope"),
    ),
    "v1, systemd, guaranteed": (
        v1(f"/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
        at(f"/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
    ),
    "v2, cgroupfs": (v2(f"{KUBEPODS}/{ID}"), at(f"{KUBEPODS}/{ID}")),
    "v2, systemd, containerd": (
        v2(f"{SYSTEMD}/cri-containerd-{ID}.scope"),
        at(f"{SYSTEMD}/cri-containerd-{ID}.scope"),
    ),
    "v2, systemd, CRI-O": (v2(f"{SYSTEMD}/crio-{ID}.scope"), at(f"{SYSTEMD}/crio-{ID}.scope")),
    "v2, systemd, CRI-O with crun": (
        v2(f"{SYSTEMD}/crio-{ID}.scope/container"),
        at(f"{SYSTEMD}/crio-{ID}.scope"),
    ),
    "v2, cgroupfs, CRI-O with crun": (
        v2(f"{KUBEPODS}/crio-{ID}/container"),
        at(f"{KUBEPODS}/crio-{ID}"),
    ),
    "v2, systemd, docker below the kubelet": (
        v2(f"{SYSTEMD}/docker-{ID}.scope"),
        at(f"{SYSTEMD}/docker-{ID}.scope"),
    ),
    "v2, systemd, libpod": (
        v2(f"{SYSTEMD}/libpod-{ID}.scope/container"),
        at(f"{SYSTEMD}/libpod-{ID}.scope"),
    ),
    "v2, systemd, no prefix": (v2(f"{SYSTEMD}/{ID}.scope"), at(f"{SYSTEMD}/{ID}.scope")),
    "kubelet for systemd, containerd for cgroupfs": (
        v2(f"/system.slice/containerd.service/kubepods-pod{SLICE}.slice:cri-containerd:{ID}"),
        at(f"/system.slice/containerd.service/kubepods-pod{SLICE}.slice:cri-containerd:{ID}"),
    ),
    "hybrid, cgroup2 says it too": (
        v1(f"{KUBEPODS}/{ID}", f"{KUBEPODS}/{ID}"),
        at(f"{KUBEPODS}/{ID}"),
    ),
    "hybrid, cgroup2 is empty": (v1(f"{KUBEPODS}/{ID}", "/"), at(f"{KUBEPODS}/{ID}")),
    "hybrid, cgroup2 is a systemd unit's": (
        v1(f"{SYSTEMD}/crio-{ID}.scope", "/system.slice/containerd.service"),
        at(f"{SYSTEMD}/crio-{ID}.scope"),
    ),
    "v1 without the memory controller": (
        f"3:pids:{KUBEPODS}/{ID}\n1:name=systemd:/\n",
        at(f"{KUBEPODS}/{ID}"),
    ),
    "a named hierarchy alone controls nothing": (
        f"4:memory:/\n1:name=systemd:{KUBEPODS}/{ID}\n0::/\n",
        Outside.HOST,
    ),
    "static pod, cgroupfs": (
        v1(f"/kubepods/burstable/pod{STATIC}/{ID}"),
        at(f"/kubepods/burstable/pod{STATIC}/{ID}", STATIC),
    ),
    "static pod, systemd": (
        v2(f"/kubepods.slice/kubepods-burstable-pod{STATIC}.slice/crio-{ID}.scope"),
        at(f"/kubepods.slice/kubepods-burstable-pod{STATIC}.slice/crio-{ID}.scope", STATIC),
    ),
    "a cgroup that was removed": (v1(f"{KUBEPODS}/{ID} (deleted)"), at(f"{KUBEPODS}/{ID}")),
    # -- a reader in a cgroup namespace of its own
    "private namespace, another QoS class": (
        v2(f"/../../../burstable/pod{UID}/{ID}"),
        at(f"/../../../burstable/pod{UID}/{ID}"),
    ),
    "private namespace, another pod of the class": (
        v2(f"/../../pod{UID}/{ID}"),
        at(f"/../../pod{UID}/{ID}"),
    ),
    "private namespace, the same pod": (v2(f"/../{ID}"), at(f"/../{ID}", None)),
    "private namespace, systemd": (
        v2(f"/../../kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
        at(f"/../../kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
    ),
    "private namespace, the reader itself": (v2("/"), Outside.HOST),
    "private namespace, a host process": (v2("/../../../../system.slice/x.service"), Outside.HOST),
    # -- nested roots
    "kind, v2, agent in the node's namespace": (
        v2(f"{KIND}/cri-containerd-{ID}.scope"),
        at(f"{KIND}/cri-containerd-{ID}.scope"),
    ),
    "k3s without root": (
        v2(f"/user.slice/user-1000.slice/user@1000.service/k3s.service{KUBEPODS}/{ID}"),
        at(f"/user.slice/user-1000.slice/user@1000.service/k3s.service{KUBEPODS}/{ID}"),
    ),
    "custom cgroup root": (v1(f"/team/node{KUBEPODS}/{ID}"), at(f"/team/node{KUBEPODS}/{ID}")),
    "custom cgroup root, systemd": (
        v2(f"/team.slice/team-kubepods.slice/team-kubepods-pod{SLICE}.slice/crio-{ID}.scope"),
        at(f"/team.slice/team-kubepods.slice/team-kubepods-pod{SLICE}.slice/crio-{ID}.scope"),
    ),
    # -- what a container makes below its own
    "systemd in the container": (
        v2(f"{SYSTEMD}/crio-{ID}.scope/system.slice/sshd.service"),
        at(f"{SYSTEMD}/crio-{ID}.scope"),
    ),
    "docker in the container": (
        v1(f"{KUBEPODS}/{ID}/docker/{OTHER}"),
        at(f"{KUBEPODS}/{ID}"),
    ),
    "a kubelet in the container": (
        v1(f"{KUBEPODS}/{ID}/kubepods/burstable/pod{OTHER_UID}/{OTHER}"),
        at(f"{KUBEPODS}/{ID}"),
    ),
    "a forged pod below its own": (
        v2(f"{KUBEPODS}/{ID}/pod{OTHER_UID}/{OTHER}"),
        at(f"{KUBEPODS}/{ID}"),
    ),
    "a forged pod below docker's": (
        v2(f"/docker/{ID}/kubepods/pod{OTHER_UID}/{OTHER}"),
        at(f"/docker/{ID}", None),
    ),
    "a forged line (the kernel forbids newlines alone)": (
        v2(f"{KUBEPODS}/{ID}/x\x0c9:memory:/kubepods/pod{OTHER_UID}/{OTHER}"),
        at(f"{KUBEPODS}/{ID}"),
    ),
    "a forged monitor below its own": (
        v2(f"{KUBEPODS}/{ID}/crio-conmon-{OTHER}.scope"),
        at(f"{KUBEPODS}/{ID}"),
    ),
    "a colon in a name below its own": (
        v1(f"{KUBEPODS}/{ID}/0::/{OTHER}"),
        at(f"{KUBEPODS}/{ID}"),
    ),
    # -- without a pod
    "docker, cgroupfs": (v1(f"/docker/{ID}"), at(f"/docker/{ID}", None)),
    "docker, systemd": (
        v2(f"/system.slice/docker-{ID}.scope"),
        at(f"/system.slice/docker-{ID}.scope", None),
    ),
    "docker, a cgroup parent": (v1(f"/jobs/{ID}"), at(f"/jobs/{ID}", None)),
    "podman, systemd": (
        v2(f"/machine.slice/libpod-{ID}.scope/container"),
        at(f"/machine.slice/libpod-{ID}.scope", None),
    ),
    "podman, its own pod, systemd": (
        v2(f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope"),
        at(f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope", None),
    ),
    "podman, cgroupfs": (
        v1(f"/libpod_parent/libpod-{ID}"),
        at(f"/libpod_parent/libpod-{ID}", None),
    ),
    "podman, its own pod, cgroupfs": (
        v1(f"/libpod_parent/{OTHER}/libpod-{ID}"),
        at(f"/libpod_parent/{OTHER}/libpod-{ID}", None),
    ),
    "podman without root": (
        v2(f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"),
        at(
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            None,
        ),
    ),
    # -- no container
    "host, v1": (v1("/system.slice/gdm.service"), Outside.HOST),
    "host, v2": (v2("/user.slice/user-0.slice/session-1.scope"), Outside.HOST),
    "host, the root": (v2("/"), Outside.HOST),
    "the kubelet and its runtime": (v2("/system.slice/containerd.service"), Outside.HOST),
    "nothing": ("", Outside.HOST),
    "a host cgroup that is called like a pod": (v2("/system.slice/podman.service"), Outside.HOST),
    "pod, and no uid": (v1("/kubepods-like/pod-scheduler/worker"), Outside.HOST),
    "an id that is too short": (v1(f"/docker/{ID[:-1]}"), Outside.HOST),
    "an id with more behind": (v1(f"/docker/{ID}x"), Outside.HOST),
    "CRI-O's monitor": (v2(f"{SYSTEMD}/crio-conmon-{ID}.scope"), Outside.HOST),
    "podman's monitor": (v2(f"/machine.slice/libpod-conmon-{ID}.scope"), Outside.HOST),
    "in a pod, and no container's": (v1(KUBEPODS), Outside.UNKNOWN),
    "a sandbox beside the containers": (v2(f"{SYSTEMD}/kata_overhead"), Outside.UNKNOWN),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_where_a_process_is(row: tuple[str, Place]) -> None:
    text, expected = row
    assert find(text) == expected


def test_a_node_that_is_a_container_itself() -> None:
    node = f"/docker/{NODE}"
    pod = f"{node}/kubelet/kubepods/burstable/pod{UID}/{ID}"
    for own in (node, f"{node}/init.scope", f"{node}/kubelet/kubepods/pod{OTHER_UID}/{OTHER}"):
        root = node_root(v1(own))
        assert root == node
        assert find(v1(pod), root) == at(pod)
        assert find(v1(f"{node}/kubelet"), root) is Outside.HOST
        assert find(v1(node), root) is Outside.HOST
    beside = f"/docker/{OTHER}"
    assert find(v1(beside), node) == at(beside, None, OTHER)
    assert find(v1(f"{node}0/x"), node) is Outside.HOST


@pytest.mark.parametrize("own", ["/", f"{KUBEPODS}/{ID}", "/system.slice/nodeshare.service"])
def test_a_node_that_is_none(own: str) -> None:
    """Also where the agent's own pod makes no node of it."""
    assert node_root(v1(own)) == "/"
    assert node_root(v2(own)) == "/"


_NAMES = st.one_of(
    st.sampled_from(
        [
            f"pod{OTHER_UID}",
            OTHER,
            f"crio-{OTHER}.scope",
            f"crio-conmon-{OTHER}.scope",
            f"kubepods-pod{OTHER_UID.replace('-', '_')}.slice:cri-containerd:{OTHER}",
            "kubepods",
            "libpod_parent",
            f"libpod-{OTHER}",
            " (deleted)",
            "..",
        ]
    ),
    st.text(st.characters(exclude_characters="/\n", exclude_categories=["Cs"]), min_size=1),
)


@given(st.lists(_NAMES, max_size=6), st.booleans())
def test_nothing_that_a_container_makes_below_its_own_changes_who_it_is(
    names: list[str], first_version: bool
) -> None:
    own = f"{KUBEPODS}/{ID}"
    path = "/".join([own, *names])
    assert find(v1(path) if first_version else v2(path)) == at(own)


@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    find(text, node_root(text))
