# SPDX-License-Identifier: Apache-2.0
"""Pods of a real containerd and runc that opt in by their seccomp profile: what their first program
sees, what an exec does, and who is left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from agents.standin.pods import ContainerSpec, PodPhase, PodSpec, RestartPolicy
from tests.fakes.containerd.node import Node

HOST = len(os.sched_getaffinity(0))
MEMORY = 300 << 20
#: What is asked before anything else.
FIRST = "(awk '/^MemTotal/ {print $2}' /proc/meminfo; nproc) >/dev/shm/first; exec sleep 1000000"

pytestmark = pytest.mark.skipif(HOST < 2, reason="one CPU cannot be limited to one")


def create(node: Node, pod: str, annotations: Mapping[str, str]) -> str:
    """Half a CPU; returns its name."""
    container = ContainerSpec("notebook", ["sh", "-c", FIRST], cpu_millis=500, memory_bytes=MEMORY)
    spec = PodSpec(
        pod,
        [container],
        namespace="jupyterhub",
        annotations=annotations,
        restart_policy=RestartPolicy.ALWAYS,
    )
    node.kubelet.create(spec)
    node.until(lambda: node.kubelet.pod(spec.key).phase is PodPhase.RUNNING, f"{pod} runs")
    node.until(lambda: len(said(node, spec.key, "cat /dev/shm/first").split()) == 2, "it asked")
    return spec.key


def said(node: Node, name: str, command: str) -> str:
    return node.runtime.run(name, "notebook", command).strip()


def test_pods_with_our_profile_see_their_own_from_the_first_instruction(node: Node) -> None:
    text = node.config.read_text()
    enabled = "lxcfs_helper:\n  affinity: {enabled: true, hold: 5s}\n"
    node.config.write_text(text.replace("lxcfs_helper:\n", enabled))
    node.run("view")
    profile = node.directory / "kubelet/seccomp/nodeshare/runtime-default.json"
    node.until(profile.exists, "the profile is installed")
    node.until((node.directory / "run/seccomp.sock").exists, "the holder listens")
    node.runtime.profile = profile
    one = create(node, "ada", {})
    assert said(node, one, "cat /dev/shm/first").split() == [str(MEMORY >> 10), "1"]
    assert said(node, one, "nproc; free -b | awk '/^Mem/ {print $2}'") == f"1\n{MEMORY}"
    other = create(node, "out", {"nodeshare/view": "false"})
    total, count = said(node, other, "cat /dev/shm/first").split()
    assert (int(total) > MEMORY >> 10, count) == (True, str(HOST))
    assert said(node, other, "nproc") == str(HOST)
    row = next(row for row in node.status("view")["containers"] if row["pod"] == "ada")
    assert (row["namespace"], row["container"]) == ("jupyterhub", "notebook")
    node.runtime.resize(one, "notebook", cpu_millis=1500, memory_bytes=MEMORY)
    assert said(node, one, "nproc") == str(min(2, HOST))
