# SPDX-License-Identifier: Apache-2.0
"""Init containers, whose devices are used again, and a node that starts anew."""

from __future__ import annotations

from agents.podresources import KubeletPodResources
from agents.standin.kubelet import Behaviour, ContainerStateName
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec, RestartPolicy
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import devices

#: Plugins come first.
LATER = Behaviour(tick_s=0.01, readmit_delay_s=0.5)


def asking(name: str, count: int) -> ContainerSpec:
    return ContainerSpec(name, ["sleep"], resources={RESOURCE: count})


def with_init(init: int, main: int, restart: RestartPolicy = RestartPolicy.NEVER) -> PodSpec:
    return PodSpec(
        "a", [asking("main", main)], init_containers=[asking("init", init)], restart_policy=restart
    )


def names(bench: Bench) -> list[str]:
    return [name for call, name in bench.runtime.calls if call == "start"]


def test_init_containers_run_first_and_their_devices_are_used_again(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(4))
    kubelet.admit(with_init(2, 3))
    assert names(bench) == ["init"]
    first, second = (set(ids) for ids in plugin.allocated)
    assert (len(first), len(second)) == (2, 3)
    assert first < second
    assert kubelet.resources()[RESOURCE].allocated == 3
    assert kubelet.pod("default/a").phase is PodPhase.PENDING
    (init,) = bench.runtime.containers()
    bench.runtime.exit(init.start.id, 0)
    bench.until(lambda: names(bench) == ["init", "main"])
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.RUNNING)


def test_an_init_container_that_fails_is_tried_again_or_fails_the_pod(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(4))
    kubelet.admit(with_init(1, 1, RestartPolicy.ALWAYS))
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 1)
    bench.until(lambda: names(bench) == ["init", "init"])
    kubelet.delete("default/a")
    kubelet.admit(with_init(1, 1))
    bench.runtime.exit(bench.runtime.containers()[0].start.id, 1)
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.FAILED)
    assert kubelet.pod("default/a").reason == "Init:Error"
    assert kubelet.resources()[RESOURCE].allocated == 0


def test_podresources_names_no_init_container(bench: Bench) -> None:
    kubelet = bench.start()
    bench.plugin(listed=devices(4))
    kubelet.admit(with_init(2, 2))
    assert set(kubelet.pod("default/a").container("init").devices) == {RESOURCE}
    socket = bench.directory / "pod-resources/kubelet.sock"
    podresources = KubeletPodResources(socket)
    (listed,) = podresources.list()
    podresources.close()
    assert set(listed.containers) == {"main"}


def test_a_rebooted_node_admits_its_pods_again_with_what_they_had(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(4))
    kubelet.admit(pod("a", 2, restart=RestartPolicy.ALWAYS))
    held = kubelet.pod("default/a").container("main").devices
    plugin.stop()
    kubelet.reboot(behaviour=LATER)
    assert bench.runtime.containers() == ()
    again = bench.plugin(listed=devices(4), name="again.sock")
    bench.until(lambda: len(bench.runtime.containers()) == 1)
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.RUNNING)
    assert kubelet.pod("default/a").container("main").devices == held
    assert again.allocated == []


def test_pods_that_come_before_their_plugin_fail_for_good(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(4))
    kubelet.admit(pod("a", 2, restart=RestartPolicy.ALWAYS))
    plugin.stop()
    kubelet.reboot()
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.FAILED)
    failed = kubelet.pod("default/a")
    assert failed.reason == "UnexpectedAdmissionError"
    assert "no healthy devices present" in failed.message
    assert failed.container("main").state is ContainerStateName.WAITING


def test_a_pod_whose_device_did_not_come_back_well_fails(bench: Bench) -> None:
    kubelet = bench.start()
    plugin = bench.plugin(listed=devices(2))
    kubelet.admit(pod("a", 2))
    plugin.stop()
    kubelet.reboot(behaviour=LATER)
    bench.plugin(listed=[*devices(1), *devices(2, "Unhealthy")[1:]], name="again.sock")
    bench.until(lambda: kubelet.pod("default/a").phase is PodPhase.FAILED)
    assert "previously allocated devices are no longer healthy" in (
        kubelet.pod("default/a").message
    )
