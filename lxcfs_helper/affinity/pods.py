# SPDX-License-Identifier: Apache-2.0
"""Which pod and container a runtime's message is about, by the annotations that it puts into the
state of each container. Pure.

containerd's names were seen; those of CRI-O, and the kubelet's labels that it keeps, are stated
from its documentation and untried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.containers import Container, Pod
from agents.seccomp_connection import SeccompState

_CONTAINERD, _CRIO, _KUBELET = "io.kubernetes.cri.", "io.kubernetes.cri-o.", "io.kubernetes."
_KIND = (f"{_CONTAINERD}container-type", f"{_CRIO}ContainerType")
_SANDBOX = (f"{_CONTAINERD}sandbox-id", f"{_CRIO}SandboxID")
_NAMESPACE = (f"{_CONTAINERD}sandbox-namespace", f"{_KUBELET}pod.namespace")
_POD = (f"{_CONTAINERD}sandbox-name", f"{_KUBELET}pod.name")
_UID = (f"{_CONTAINERD}sandbox-uid", f"{_KUBELET}pod.uid")
_CONTAINER = (f"{_CONTAINERD}container-name", f"{_KUBELET}container.name")
#: Of an id that stands for a name.
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Told:
    """`container` has a pod without labels, whose annotations are those of the state.
    `is_sandbox`: it is the pod's own process, which runs no program. `sandbox_id` None: the runtime
    does not tell."""

    container: Container
    is_sandbox: bool
    sandbox_id: str | None


def told(state: SeccompState) -> Told:
    """What the runtime tells; the id stands for a name that it does not (runc without a pod)."""

    def of(names: tuple[str, ...]) -> str:
        return next((said[name] for name in names if name in said), "")

    said: Mapping[str, str] = state.annotations
    pod = Pod(of(_POD) or state.container_id[:_SHORT], of(_NAMESPACE), of(_UID), {}, said)
    first = state.container_pid or state.pid
    container = Container(state.container_id, of(_CONTAINER), pod, first)
    return Told(container, of(_KIND) == "sandbox", of(_SANDBOX) or None)
