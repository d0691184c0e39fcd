# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with GPUs, as the kubelet sees it: the agent as a process, over the real pynvml
and the C library, beside the embedded kubelet.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.standin.pods import PodPhase
from gpu_plugin.simulated.description import SimulatedMachine, load_machine
from gpu_plugin.simulated.happenings import Made
from tests.fakes.gpu_node import SHARED, SMALL, Agent, Node, gpu_node

#: 320 units of 100 MiB on each of eight.
EIGHT = """
machine:
  name: eight
  driver_version: 580.95.05
  gpus:
    - {model: Tesla V100-SXM2-32GB, count: 8, memory: 32000MiB}
"""
QUICK = "  health: {{recover_after: 1}}"


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> SimulatedMachine:
    path = tmp_path_factory.mktemp("machine") / "eight.yaml"
    path.write_text(EIGHT)
    return load_machine(path)


@pytest.fixture
def node_of_eight(library: Path, eight: SimulatedMachine) -> Iterator[Node]:
    with gpu_node(eight, library) as node:
        yield node


def unhealthy(node: Node, resource: str) -> dict[str, int]:
    """Units by device that the kubelet has been told are unhealthy."""
    (agent,) = node.agents
    return {
        device["uuid"]: device["units"]
        for device in agent.status()["devices"]
        if device["health"] != "healthy" and resource in (device["resource"] or "")
    }


def heard(agent: Agent) -> bool:
    """Whether somebody listens for XIDs; before that one would be missed."""
    return agent.status().get("unmonitored") == {} and bool(agent.status()["devices"])


def test_xid_79_takes_all_320_units_of_one_gpu_and_xid_31_takes_none(node_of_eight: Node) -> None:
    node = node_of_eight
    agent = node.agent(chunk="100MiB")
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 2560 and heard(agent))
    sick, other = node.machine.gpus[3].uuid, node.machine.gpus[5].uuid
    held = node.admit("ada", shared=100)
    node.state.xid(other, 31)
    node.until(lambda: agent.metric("xid_events_total", device=other, xid="31") == 1)
    assert node.allocatable(SHARED) == 2560
    started = time.monotonic()
    node.state.xid(sick, 79)
    node.until(lambda: node.allocatable(SHARED) == 2240)
    assert time.monotonic() - started < 5, "it was not waited for the next look"
    assert node.kubelet.resources()[SHARED].capacity == 2560
    assert unhealthy(node, SHARED) == {sick: 320}
    assert agent.device(sick)["health"].startswith("XID 79 (the GPU has fallen off the bus)")
    assert agent.metric("xid_events_total", device=sick, xid="79", **{"class": "fatal"}) == 1
    assert agent.metric("device_healthy", device=sick) == 0
    assert agent.metric("health_monitored") == 8
    assert node.kubelet.pod("default/ada").phase is PodPhase.RUNNING is held.phase
    assert node.admit("grace", shared=200).phase is PodPhase.RUNNING


def test_one_of_eight_gpus_is_lost_also_for_an_agent_that_starts_later(node_of_eight: Node) -> None:
    node = node_of_eight
    agent = node.agent(chunk="100MiB", source=QUICK)
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 2560)
    lost = node.machine.gpus[0].uuid
    node.state.lose(lost)
    node.until(lambda: node.allocatable(SHARED) == 2240)
    node.until(lambda: agent.device(lost)["health"].startswith("lost: "))
    assert agent.metric("lost") == 1
    node.state.xid(node.machine.gpus[1].uuid, 94)
    node.until(lambda: node.allocatable(SHARED) == 1920)  # the others are listened to all the same
    node.until(lambda: node.allocatable(SHARED) == 2240)  # and recover
    assert [node.admit(f"pod-{n}", shared=320).phase for n in range(7)] == [PodPhase.RUNNING] * 7
    agent.end(signal.SIGKILL)
    agent.restart()
    node.until(lambda: node.allocatable(SHARED) == 2240)
    assert [gpu["index"] for gpu in agent.status()["lost"]] == [0]
    node.until(lambda: agent.status()["ready"])


def test_mig_is_cut_anew_and_switched_off_under_running_pods(node_with_mig: Node) -> None:
    node = node_with_mig
    agent = node.agent(source=QUICK)
    node.kubelet.start()
    node.until(lambda: (node.allocatable(SHARED), node.allocatable(SMALL)) == (62, 2))
    gpu = node.machine.gpus[2]
    node.admit("ada", small=1)
    held = node.runtime.containers()[0].start.env["NVIDIA_VISIBLE_DEVICES"]
    (instance,) = (each.gpu_instance for each in gpu.slices if each.uuid == held)

    # Made anew in the same place: neither the old nor the new one may be given out.
    node.state.make(Made(gpu.uuid, "MIG-anew", instance, 0, 9728 << 20, "1g.10gb"))
    node.state.remove(held)
    node.until(lambda: unhealthy(node, SMALL).keys() == {held, "MIG-anew"})
    assert node.kubelet.resources()[SMALL].allocatable == 1
    assert node.kubelet.resources()[SMALL].capacity == 3
    assert "still held by pods" in agent.device(held)["health"]
    assert "stands in the place" in agent.device("MIG-anew")["health"]
    assert node.kubelet.pod("default/ada").phase is PodPhase.RUNNING

    # So it is also for an agent that starts anew.
    agent.end(signal.SIGKILL)
    agent.restart()
    node.until(lambda: node.allocatable(SHARED) == 62)
    node.until(lambda: unhealthy(node, SMALL).keys() == {held, "MIG-anew"})

    # Switched off: the whole GPU stands where the pod still holds a slice.
    node.state.switch_mig(gpu.uuid, on=False)
    node.until(lambda: gpu.uuid in unhealthy(node, SHARED))
    assert node.allocatable(SHARED) == 62
    assert node.kubelet.pod("default/ada").phase is PodPhase.RUNNING

    node.kubelet.delete("default/ada")
    node.until(lambda: node.allocatable(SHARED) == 62 + 79)
    node.until(lambda: node.kubelet.resources()[SMALL].capacity == 0)  # a list of its own
    assert gpu.uuid in {device["uuid"] for device in agent.status()["devices"]}


def test_a_call_that_hangs_for_30_s_costs_nobody_else(node_of_eight: Node) -> None:
    node = node_of_eight
    agent = node.agent(chunk="100MiB")
    node.kubelet.start()
    node.until(lambda: node.allocatable(SHARED) == 2560 and heard(agent))
    node.state.hang(node.machine.gpus[0].uuid, 30_000)
    time.sleep(2.5)  # until a look is stuck in it
    started = time.monotonic()
    assert node.admit("ada", shared=50).phase is PodPhase.RUNNING
    assert agent.metric("lost") == 0, "a scrape is answered"
    node.state.xid(node.machine.gpus[1].uuid, 48)
    node.until(lambda: node.allocatable(SHARED) == 2240)
    assert time.monotonic() - started < 5
    assert agent.status()["ready"] is True
    agent.process.terminate()
    assert agent.process.wait(5) == 0


def test_a_node_without_a_gpu_is_ready_and_idle(node: Node) -> None:
    agent = node.agent(source="")
    node.kubelet.start()
    node.until(lambda: (agent.run_dir / "gpu.sock").exists())
    node.until(lambda: agent.status().get("idle") is True)
    assert agent.status()["ready"] is True
    assert node.kubelet.resources() == {}
    log = (node.directory / "agent.log").read_text()
    assert log.count("no NVIDIA GPU on this node") == 1
    assert "warning" not in log
