# SPDX-License-Identifier: Apache-2.0
"""What runtimes tell of a container when they hand it over."""

from __future__ import annotations

from agents.seccomp_connection import SeccompState
from lxcfs_helper.affinity.pods import told

ID = "0123456789abcdef" * 4


def test_containerd() -> None:
    said = {
        "io.kubernetes.cri.container-name": "main",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "sandbox-1",
        "io.kubernetes.cri.sandbox-name": "jupyter-ada",
        "io.kubernetes.cri.sandbox-namespace": "jupyter",
        "io.kubernetes.cri.sandbox-uid": "uid-1",
    }
    found = told(SeccompState(ID, pid=78, container_pid=77, annotations=said))
    assert not found.is_sandbox
    assert found.sandbox_id == "sandbox-1"
    assert (found.container.id, found.container.name, found.container.pid) == (ID, "main", 77)
    pod = found.container.pod
    assert (pod.name, pod.namespace, pod.uid) == ("jupyter-ada", "jupyter", "uid-1")


def test_crio_and_its_sandbox() -> None:
    said = {
        "io.kubernetes.cri-o.ContainerType": "sandbox",
        "io.kubernetes.cri-o.SandboxID": "sandbox-1",
        "io.kubernetes.pod.name": "jupyter-ada",
        "io.kubernetes.pod.namespace": "jupyter",
        "io.kubernetes.pod.uid": "uid-1",
    }
    found = told(SeccompState(ID, annotations=said))
    assert found.is_sandbox
    assert found.container.pod.namespace == "jupyter"


def test_a_runtime_without_pods() -> None:
    found = told(SeccompState(ID, pid=77, annotations={"nodeshare/view": "false"}))
    assert (found.is_sandbox, found.sandbox_id) == (False, None)
    assert found.container.pod.name == ID[:12]
    assert found.container.pod.annotations == {"nodeshare/view": "false"}
    assert found.container.pid == 77  # its first process, as far as anybody knows
