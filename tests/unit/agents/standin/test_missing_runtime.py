# SPDX-License-Identifier: Apache-2.0
"""Where no container can run, a pod is admitted, waits, and says why."""

from __future__ import annotations

from pathlib import Path

from agents.errors import AgentError
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.missing_runtime import MissingRuntime
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec


def test_a_pod_waits_with_reason_and_remedy(tmp_path: Path) -> None:
    runtime = MissingRuntime(AgentError("no cgroups", remedy="mount cgroup2"))
    kubelet = EmbeddedKubelet(tmp_path / "k", runtime)
    kubelet.start()
    try:
        status = kubelet.admit(PodSpec("a", [ContainerSpec("c", ["true"])]))
    finally:
        kubelet.stop()
    assert status.phase is PodPhase.PENDING
    assert status.containers[0].reason == "CreateContainerError"
    assert status.containers[0].message == "unavailable on this machine: no cgroups; mount cgroup2"
