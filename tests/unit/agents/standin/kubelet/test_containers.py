# SPDX-License-Identifier: Apache-2.0
"""Containers of admitted pods: PreStartContainer, restarts, ends."""

from __future__ import annotations

import threading

import pytest

from agents.errors import AgentError
from agents.standin.kubelet import ContainerStateName, EventKind
from agents.standin.pods import PodPhase, RestartPolicy
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import Failure, FakePlugin, devices

PRE_START = {"pre_start_required": True}


def fails(*_: object) -> None:
    raise Failure("the slice is still being made")


def ready(plugin: FakePlugin) -> None:
    plugin.pre_start = lambda ids: None


def test_pre_start_comes_before_the_start(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    seen: list[int] = []
    plugin.pre_start = lambda ids: seen.append(len(bench.runtime.containers()))
    status = kubelet.admit(pod(count=2))
    assert seen == [0]
    assert plugin.pre_started == [list(status.containers[0].devices[RESOURCE])]


def test_a_failed_pre_start_is_tried_again_with_the_devices_held(bench: Bench) -> None:
    kubelet = bench.start(retry_s=0.05)
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    plugin.pre_start = fails
    status = kubelet.admit(pod(count=3))
    container = status.containers[0]
    assert status.phase is PodPhase.PENDING
    assert (container.state, container.reason, container.message) == (
        ContainerStateName.WAITING,
        "CreateContainerConfigError",
        "device plugin PreStartContainer rpc failed with err: "
        "rpc error: code = Internal desc = the slice is still being made",
    )
    assert kubelet.resources()[RESOURCE].allocated == 3
    bench.until(lambda: len(plugin.pre_started) >= 3)
    ready(plugin)
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.RUNNING)
    assert len(plugin.allocated) == 1
    assert kubelet.pod("default/a").containers[0].devices == container.devices


def test_a_failed_pre_start_is_not_tried_again_before_its_time(bench: Bench) -> None:
    kubelet = bench.start(retry_s=60.0)
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    plugin.pre_start = fails
    kubelet.admit(pod())
    ready(plugin)
    assert not kubelet.wait_for(lambda: len(plugin.pre_started) > 1, 0.15)


def test_a_pre_start_that_hangs_ends_at_its_limit_and_blocks_no_other_pod(bench: Bench) -> None:
    kubelet = bench.start(pre_start_timeout_s=0.3)
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    plugin.pre_start = lambda ids: plugin.released.wait(10)
    slow = threading.Thread(target=kubelet.admit, args=[pod("a")])
    slow.start()
    bench.until(lambda: len(plugin.pre_started) == 1)
    assert kubelet.admit(pod("b", resources={})).phase is PodPhase.RUNNING
    slow.join(5)
    container = kubelet.pod("default/a").containers[0]
    assert container.reason == "CreateContainerConfigError"
    assert "code = DeadlineExceeded" in container.message


def test_a_container_restart_asks_pre_start_again_but_not_allocate(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    before = kubelet.admit(pod(count=2)).containers[0]
    environment = bench.runtime.containers()[0].start.env
    after = kubelet.restart_container("default/a", "main").containers[0]
    assert (len(plugin.allocated), len(plugin.pre_started)) == (1, 2)
    assert after.id != before.id
    assert after.devices == before.devices
    assert after.restarts == 1
    (running,) = bench.runtime.containers()
    assert running.start.env == environment


def test_the_end_of_a_restarted_container_is_not_the_end_of_its_pod(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(4))
    kubelet.admit(pod(count=2))
    stop = bench.runtime.stop

    def slow_stop(container_id: str, *, grace_s: float = 0.0) -> None:
        stop(container_id, grace_s=grace_s)
        # Long enough for housekeeping to see the ended container several times.
        kubelet.wait_for(lambda: False, 0.1)

    bench.runtime.stop = slow_stop  # type: ignore[method-assign]
    assert kubelet.restart_container("default/a", "main").phase is PodPhase.RUNNING
    assert kubelet.resources()[RESOURCE].allocated == 2


def test_a_restart_that_the_runtime_refuses_is_tried_again(bench: Bench) -> None:
    kubelet = bench.start(retry_s=0.05)
    kubelet.admit(pod(resources={}))
    bench.runtime.refuse = "no space left on device"
    container = kubelet.restart_container("default/a", "main").containers[0]
    assert (container.reason, container.message) == (
        "CreateContainerError",
        "no space left on device",
    )
    bench.until(lambda: len(bench.runtime.calls) > 5)
    bench.runtime.refuse = None
    bench.until(lambda: kubelet.pod("default/a").containers[0].restarts == 1)
    assert bench.runtime.calls.count(("remove", "main")) == 1


def test_what_cannot_be_restarted(bench: Bench) -> None:
    kubelet = bench.start()
    kubelet.admit(pod(resources={}))
    with pytest.raises(AgentError, match="pod 'default/a' has no container 'other'"):
        kubelet.restart_container("default/a", "other")
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 0)
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.SUCCEEDED)
    with pytest.raises(AgentError, match="has ended"):
        kubelet.restart_container("default/a", "main")


def test_a_container_that_the_runtime_refuses_is_tried_again(bench: Bench) -> None:
    kubelet = bench.start(retry_s=0.05)
    bench.runtime.refuse = "lstat /dev/nvidia9: no such file or directory"
    container = kubelet.admit(pod(resources={})).containers[0]
    assert (container.reason, container.message) == (
        "CreateContainerError",
        "lstat /dev/nvidia9: no such file or directory",
    )
    bench.runtime.refuse = None
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.RUNNING)


@pytest.mark.parametrize(
    ("code", "phase", "reason"),
    [(0, PodPhase.SUCCEEDED, "Completed"), (137, PodPhase.FAILED, "Error")],
)
def test_the_devices_of_an_ended_pod_are_free_at_once(
    bench: Bench, code: int, phase: PodPhase, reason: str
) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(4))
    kubelet.admit(pod("a", 4))
    bench.runtime.exit(bench.runtime.containers()[0].start.id, code)
    bench.until(lambda: kubelet.pod("default/a").phase is phase)
    container = kubelet.pod("default/a").containers[0]
    assert (container.reason, container.exit_code, container.pid) == (reason, code, None)
    assert kubelet.admit(pod("b", 4)).phase is PodPhase.RUNNING


@pytest.mark.parametrize("policy", [RestartPolicy.ALWAYS, RestartPolicy.ON_FAILURE])
def test_a_killed_container_comes_back_with_its_devices(
    bench: Bench, policy: RestartPolicy
) -> None:
    kubelet = bench.start(restart_pause_s=0.02)
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    first = kubelet.admit(pod(count=2, restart=policy)).containers[0]
    for number in (1, 2, 3):
        bench.runtime.exit(bench.runtime.containers()[0].start.id, 137)
        bench.until(lambda n=number: kubelet.pod("default/a").containers[0].restarts == n)  # type: ignore[misc] # the loop's number now
    container = kubelet.pod("default/a").containers[0]
    assert container.state is ContainerStateName.RUNNING
    assert container.devices == first.devices
    assert (len(plugin.allocated), len(plugin.pre_started)) == (1, 4)
    assert len(bench.runtime.containers()) == 1


def test_a_container_that_keeps_ending_waits_longer_each_time(bench: Bench) -> None:
    kubelet = bench.start(restart_pause_s=60.0)
    kubelet.admit(pod(resources={}, restart=RestartPolicy.ALWAYS))
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 1)
    bench.until(lambda: kubelet.pod("default/a").containers[0].restarts == 1)
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 1)
    bench.until(lambda: kubelet.pod("default/a").containers[0].reason == "CrashLoopBackOff")
    container = kubelet.pod("default/a").containers[0]
    assert (container.exit_code, container.restarts) == (1, 1)
    assert container.message == "back-off 60s restarting failed container=main"


def test_on_failure_a_good_end_is_the_end(bench: Bench) -> None:
    kubelet = bench.start()
    kubelet.admit(pod(resources={}, restart=RestartPolicy.ON_FAILURE))
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 0)
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.SUCCEEDED)


def test_a_deleted_pod_holds_its_devices_until_it_has_ended(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(4))
    kubelet.admit(pod("a", 4))
    held: list[int] = []
    stop = bench.runtime.stop

    def slow_stop(container_id: str, *, grace_s: float = 0.0) -> None:
        held.append(kubelet.resources()[RESOURCE].allocated)
        stop(container_id, grace_s=grace_s)

    bench.runtime.stop = slow_stop  # type: ignore[method-assign]
    kubelet.delete("default/a", grace_s=5.0)
    assert held == [4]
    assert kubelet.pods() == ()
    assert bench.runtime.containers() == ()
    assert kubelet.admit(pod("b", 4)).phase is PodPhase.RUNNING


def test_a_pod_deleted_while_it_waits_is_not_started_any_more(bench: Bench) -> None:
    kubelet = bench.start(retry_s=0.02)
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    plugin.pre_start = fails
    kubelet.admit(pod())
    kubelet.delete("default/a")
    asked = len(plugin.pre_started)
    ready(plugin)
    assert not kubelet.wait_for(lambda: len(plugin.pre_started) > asked, 0.1)
    assert bench.runtime.containers() == ()
    assert kubelet.resources()[RESOURCE].allocated == 0


def test_failed_calls_are_in_the_events(bench: Bench) -> None:
    kubelet = bench.start(retry_s=60.0)
    plugin = bench.plugin(listed=devices(4), options=PRE_START)
    plugin.pre_start = fails
    kubelet.admit(pod())
    (event,) = kubelet.events.of(EventKind.CALL_FAILED, RESOURCE)
    assert "the slice is still being made" in event.text


def test_admitted_pods_have_a_sandbox_also_while_they_wait(bench: Bench) -> None:
    kubelet = bench.start(retry_s=60.0)
    plugin = bench.plugin(listed=devices(1), options=PRE_START)
    plugin.pre_start = fails
    waiting = kubelet.admit(pod("waits"))
    kubelet.admit(pod("rejected"))
    kubelet.create(pod("unscheduled"))
    ended = kubelet.admit(pod("ended", resources={}))
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 0)
    bench.until(lambda: kubelet.pod("default/ended").phase is PodPhase.SUCCEEDED)
    assert [(one.pod_uid, one.ready) for one in kubelet.sandboxes()] == [
        (waiting.uid, True),
        (ended.uid, False),
    ]
