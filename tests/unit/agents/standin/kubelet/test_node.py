# SPDX-License-Identifier: Apache-2.0
"""The node object, which lags, and pods that wait until they fit."""

from __future__ import annotations

import pytest

from agents.standin.kubelet import NodeStatus
from agents.standin.pods import PodPhase
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import UNHEALTHY, devices


def test_quantities_are_canonical(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2000))
    assert kubelet.node() == NodeStatus({RESOURCE: "2k"}, {RESOURCE: "2k"})
    bench.send(plugin, [*devices(1999), devices(2000, UNHEALTHY)[-1]])
    assert kubelet.node() == NodeStatus({RESOURCE: "2k"}, {RESOURCE: "1999"})


def test_the_node_object_lags_and_pods_bound_meanwhile_are_rejected(bench: Bench) -> None:
    kubelet = bench.start(node_status_period_s=0.3)
    plugin = bench.plugin(listed=devices(2))
    bench.until(lambda: kubelet.node().allocatable.get(RESOURCE) == "2")
    bench.send(plugin, devices(2, UNHEALTHY))
    assert kubelet.resources()[RESOURCE].allocatable == 0
    # The scheduler still believes the old number.
    status = kubelet.create(pod())
    assert status.reason == "UnexpectedAdmissionError"
    assert "no healthy devices present" in status.message
    bench.until(lambda: kubelet.node().allocatable[RESOURCE] == "0")


def test_a_pod_that_does_not_fit_waits_and_starts_by_itself(bench: Bench) -> None:
    kubelet = bench.start()
    status = kubelet.create(pod(count=2))
    assert (status.phase, status.reason, status.message) == (
        PodPhase.PENDING,
        "Unschedulable",
        f"0/1 nodes are available: 1 Insufficient {RESOURCE}.",
    )
    bench.plugin(listed=devices(2))
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.RUNNING)
    assert kubelet.pod("default/a").reason == ""


@pytest.mark.parametrize("how", ["delete", "exit"])
def test_a_waiting_pod_follows_one_that_ends(bench: Bench, how: str) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(4))
    assert kubelet.create(pod("a", 3)).phase is PodPhase.RUNNING
    assert kubelet.create(pod("b", 2)).reason == "Unschedulable"
    assert kubelet.create(pod("c", 1)).phase is PodPhase.RUNNING
    if how == "delete":
        kubelet.delete("default/a")
    else:
        bench.runtime.exit(bench.runtime.containers()[0].start.id, 0)
    bench.until(lambda: kubelet.pod("default/b").phase is PodPhase.RUNNING)


def test_a_waiting_pod_can_be_deleted(bench: Bench) -> None:
    kubelet = bench.start()
    kubelet.create(pod())
    kubelet.delete("default/a")
    bench.plugin(listed=devices(1))
    assert not kubelet.wait_for(lambda: bool(bench.runtime.containers()), 0.1)


def test_a_waiting_pod_outlives_a_restart_of_the_kubelet(bench: Bench) -> None:
    kubelet = bench.start()
    kubelet.create(pod())
    kubelet.restart()
    bench.plugin(listed=devices(1))
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.RUNNING)
