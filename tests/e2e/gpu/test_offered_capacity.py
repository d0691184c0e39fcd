# SPDX-License-Identifier: Apache-2.0
"""How much the scheduler is told of: fragmented devices, very many units, size classes."""

from __future__ import annotations

import signal
from pathlib import Path

import yaml

from agents.standin.kubelet import Behaviour, PodStatus
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec
from tests.fakes.gpu_node import SHARED, Agent, Node

SOURCE = """
  simulate: {0}/machine.yaml
  simulated_state: {0}/gpu-state
"""
EIGHT, TWENTY = "nodeshare/gpu-8g", "nodeshare/gpu-20g"
BLOCKS = "[{{name: nodeshare/gpu, blocks: {{8g: 8GiB, 20g: 20GiB}}}}]"


def start(node: Node, resources: str, *, count: int = 2, memory: str = "32GiB") -> Agent:
    """An agent on a machine with equal GPUs, and a kubelet."""
    gpu = {"model": "Test GPU", "count": count, "memory": memory}
    machine = {"name": "made-up", "driver_version": "580.95.05", "gpus": [gpu]}
    Path(node.directory, "machine.yaml").write_text(yaml.safe_dump({"machine": machine}))
    node.kubelet.start()
    return node.agent(source=SOURCE, resources=resources)


def create(node: Node, name: str, resource: str, size: int = 1) -> PodStatus:
    """A pod that goes through the scheduler's look at the node object."""
    container = ContainerSpec("main", ["sleep", "1"], resources={resource: size})
    return node.kubelet.create(PodSpec(name, [container]))


def shown(node: Node, resource: str) -> str:
    """What the node object says."""
    return node.kubelet.node().allocatable.get(resource, "0")


def test_two_gpus_with_150_of_320_units_free_each(node: Node) -> None:
    agent = start(node, "[{{name: nodeshare/gpu-memory, chunk: 100MiB}}]", memory="32000MiB")
    node.until(lambda: node.allocatable(SHARED) == 640)
    for number in range(2):
        assert node.admit(f"first-{number}", shared=170).phase is PodPhase.RUNNING
    rejected = node.admit("too-large", shared=200)
    assert rejected.reason == "UnexpectedAdmissionError"
    assert "asked 200 of nodeshare/gpu-memory, largest free block 150 on GPU-" in rejected.message
    assert "(300 free on 2 devices, and a request may not span devices)" in rejected.message
    node.until(lambda: agent.status()["resources"][0]["largest_free_block"] == 150)
    assert agent.metric("largest_free_block_units", resource=SHARED) == 150
    assert node.admit("fits", shared=150).phase is PodPhase.RUNNING
    node.until(lambda: agent.status()["resources"][0]["largest_free_block"] == 150)
    assert node.admit("fits-too", shared=150).phase is PodPhase.RUNNING
    node.until(lambda: agent.status()["resources"][0]["largest_free_block"] == 0)


def test_honest_capacity_keeps_the_pod_waiting_instead(node: Node) -> None:
    agent = start(
        node,
        "[{{name: nodeshare/gpu-memory, chunk: 100MiB, honest_capacity: {{sizes: [200]}}}}]",
        memory="32000MiB",
    )
    # Of 320 units of a device one pod of 200 can use 200.
    node.until(lambda: shown(node, SHARED) == "400")
    assert create(node, "a", SHARED, 170).phase is PodPhase.RUNNING
    # 150 are left on its device: of no use. Its 170 are in use, and not taken off.
    node.until(lambda: shown(node, SHARED) == "370")
    waiting = create(node, "b", SHARED, 201)
    assert (waiting.phase, waiting.reason) == (PodPhase.PENDING, "Unschedulable")
    assert create(node, "c", SHARED, 200).phase is PodPhase.RUNNING
    # b was told no before, and now there is no room for anybody: as many are shown, all in use.
    node.until(lambda: agent.metric("largest_free_block_units", resource=SHARED) == 0)
    assert agent.metric("units_withheld", resource=SHARED) == 270
    assert shown(node, SHARED) == "370"
    assert create(node, "d", SHARED, 200).phase is PodPhase.PENDING
    node.kubelet.delete("default/a")
    node.until(lambda: node.kubelet.pod("default/d").phase is PodPhase.RUNNING)


def test_a_refusal_just_after_a_change_is_counted(node: Node) -> None:
    agent = start(node, "[{{name: nodeshare/gpu-memory}}]")
    node.until(lambda: node.allocatable(SHARED) == 64)
    assert node.admit("too-large", shared=40).phase is PodPhase.FAILED
    assert agent.metric("late_rejections_total", resource=SHARED) == 1


def test_80000_units_are_refused_and_60000_are_served(node: Node) -> None:
    agent = start(
        node,
        """
    - {{name: nodeshare/fine, select: {{indices: [0, 1, 2, 3]}}, chunk: 4MiB}}
    - name: nodeshare/gpu-memory
      select: {{indices: [4, 5, 6, 7]}}
      chunk: 5MiB
      reserved: 5000MiB
""",
        count=8,
        memory="80000MiB",
    )
    node.until(lambda: node.allocatable(SHARED) == 60_000)
    assert shown(node, SHARED) == "60k"
    assert "nodeshare/fine" not in node.kubelet.resources()
    first, second, *_ = agent.status()["problems"]
    assert first.startswith(
        "nodeshare/fine is not offered: 80000 units take 4915560 bytes in one message, and the "
        "kubelet takes 4194304 (61.4 bytes a unit when unhealthy); chunk: 5MiB is the smallest"
    )
    assert second.startswith("nodeshare/gpu-memory: one container can hold 15000 units, and more")
    assert "chunk: 150MiB gives at most 500" in second
    for size in (1, 600, 15_000):
        assert node.admit(f"pod-{size}", shared=size).phase is PodPhase.RUNNING
    assert agent.metric("large_allocations_total", resource=SHARED) == 2
    assert agent.metric("list_message_bytes", resource=SHARED) == 3_675_560
    for container in node.runtime.containers():
        assert all(len(value) < 200 for value in container.start.env.values())


def test_size_classes_share_one_memory_exactly(node: Node) -> None:
    agent = start(node, BLOCKS)
    node.until(lambda: (shown(node, EIGHT), shown(node, TWENTY)) == ("8", "2"))
    assert create(node, "a", TWENTY).phase is PodPhase.RUNNING
    node.until(lambda: (shown(node, EIGHT), shown(node, TWENTY)) == ("5", "2"))
    assert create(node, "b", EIGHT).phase is PodPhase.RUNNING
    # b went beside a: the other device is still whole.
    node.until(lambda: (shown(node, EIGHT), shown(node, TWENTY)) == ("5", "2"))
    assert create(node, "c", TWENTY).phase is PodPhase.RUNNING
    node.until(lambda: (shown(node, EIGHT), shown(node, TWENTY)) == ("2", "2"))
    assert create(node, "d", TWENTY).phase is PodPhase.PENDING
    two = node.kubelet.admit(
        PodSpec("two", [ContainerSpec("main", ["sleep"], resources={EIGHT: 2})])
    )
    assert two.phase is PodPhase.FAILED
    # A restart finds all of it again, also while podresources is silent.
    agent.end(signal.SIGKILL)
    agent.restart()
    node.until(lambda: (shown(node, EIGHT), shown(node, TWENTY)) == ("2", "2"))
    assert create(node, "e", EIGHT).phase is PodPhase.RUNNING
    node.until(lambda: shown(node, EIGHT) == "2")
    node.kubelet.delete("default/a")
    node.until(lambda: node.kubelet.pod("default/d").phase is PodPhase.RUNNING)


def test_two_classes_never_get_the_same_memory_before_the_list_is_sent_again(node: Node) -> None:
    """The kubelet is told of another class's blocks within a second; its pods do not wait."""
    node.kubelet.behaviour = Behaviour(ask_preferred=False)
    start(node, BLOCKS, count=1)
    node.until(lambda: (shown(node, EIGHT), shown(node, TWENTY)) == ("4", "1"))
    asked = [EIGHT, EIGHT, TWENTY, EIGHT, EIGHT]
    # Bound to the node as a scheduler would that has not heard of the others.
    pods = [
        node.kubelet.admit(
            PodSpec(f"pod-{number}", [ContainerSpec("main", ["sleep"], resources={name: 1})])
        )
        for number, name in enumerate(asked)
    ]
    phases = [pod.phase is PodPhase.RUNNING for pod in pods]
    assert phases == [True, True, False, True, True]
    assert "asked 1 of nodeshare/gpu-20g, 16GiB are left on GPU-" in pods[2].message or (
        "no healthy devices present" in pods[2].message
    ), pods[2].message
