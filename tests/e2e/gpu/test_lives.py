# SPDX-License-Identifier: Apache-2.0
"""Lives of a kubelet, a node, a container and a plugin, as far as the GPU agent has a part in them:
the agent is a process, the kubelet the embedded one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agents.standin.kubelet import Behaviour, EventKind
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec, RestartPolicy, RunningContainer
from tests.fakes.gpu_node import SHARED, SMALL, Node
from tests.fakes.plugin import FakePlugin, devices

ALL = 62
PEOPLE_LOOK = "/run/nodeshare/gpu"


def up(node: Node) -> None:
    node.until(lambda: node.allocatable(SHARED) == ALL)


def directories(node: Node) -> set[str]:
    return {path.name for path in (node.directory / "state/gpu/containers").iterdir()}


def mounts(container: RunningContainer) -> Mapping[str, Path]:
    """Those of the plugin."""
    return {
        volume.container_path: volume.host_path
        for volume in container.start.volumes
        if volume.container_path != "/dev/termination-log"  # the kubelet's own
    }


def container(name: str, units: int) -> ContainerSpec:
    return ContainerSpec(name, ["sleep", "1"], resources={SHARED: units})


def test_three_restarts_in_a_row_one_of_them_between_register_and_the_first_list(
    node: Node,
) -> None:
    agent = node.agent()
    node.kubelet.start()
    up(node)
    node.kubelet.restart(behaviour=Behaviour(dial_back_delay_s=5.0))
    # It has accepted the registration, and ends before it has asked for the list.
    node.until(lambda: len(list((node.directory / "kubelet/device-plugins").glob("node*"))) == 2)
    time.sleep(0.3)
    assert not node.kubelet.events.of(EventKind.REGISTERED, SHARED)[1:]
    node.kubelet.restart(behaviour=Behaviour())
    node.kubelet.restart()
    started = time.monotonic()
    up(node)
    assert time.monotonic() - started < 5
    pod = node.admit("ada", shared=8)
    assert pod.phase is PodPhase.RUNNING, (pod.message, node.kubelet.events.all())
    assert agent.metric("registrations_lost_total") == 0
    assert agent.status()["problems"] == []


def test_an_init_container_and_the_main_one_have_the_same_units_and_a_directory_each(
    node: Node,
) -> None:
    agent = node.agent()
    node.kubelet.start()
    up(node)
    spec = PodSpec("ada", [container("main", 8)], init_containers=[container("init", 8)])
    node.kubelet.admit(spec)
    (init,) = node.runtime.containers()
    assert init.start.spec.name == "init"
    node.runtime.exit(init.start.id, 0)
    node.until(lambda: len(node.runtime.containers()) == 2)
    (main,) = [one for one in node.runtime.containers() if one.start.spec.name == "main"]
    held = node.kubelet.pod("default/ada")
    assert held.container("init").devices == held.container("main").devices
    assert mounts(init)[PEOPLE_LOOK] != mounts(main)[PEOPLE_LOOK]
    assert directories(node) == {mounts(one)[PEOPLE_LOOK].name for one in (init, main)}
    assert agent.metric("allocations_total", resource=SHARED) == 2
    gpu = node.machine.gpus[0].uuid
    node.until(lambda: agent.device(gpu)["units_allocated"] == 8)


def test_a_container_is_started_again_also_while_the_agent_is_away(node: Node) -> None:
    """No PreStartContainer: a start does not depend on us, and the directory stays."""
    agent = node.agent()
    node.kubelet.start()
    up(node)
    node.kubelet.admit(PodSpec("ada", [container("main", 8)], restart_policy=RestartPolicy.ALWAYS))
    (first,) = node.runtime.containers()
    agent.end(signal.SIGKILL)
    node.until(lambda: node.allocatable(SHARED) == 0)
    node.kubelet.restart_container("default/ada", "main")
    (second,) = node.runtime.containers()
    assert second.start.id != first.start.id
    assert mounts(second) == mounts(first)
    assert (mounts(second)[PEOPLE_LOOK] / "share.json").exists()


@contextmanager
def rebooted(node: Node, *, plugins_first: bool) -> Iterator[None]:
    """Everything that ran is gone, and so is what lies in /run; disks are as they were."""
    (agent,) = node.agents
    agent.end(signal.SIGKILL)
    shutil.rmtree(agent.run_dir)
    if plugins_first:
        agent.restart()
    node.kubelet.reboot(behaviour=Behaviour(readmit_delay_s=4.0 if plugins_first else 0.0))
    yield
    if not plugins_first:
        agent.restart()


def test_a_rebooted_node_gives_a_pod_its_units_and_its_directory_back(node: Node) -> None:
    agent = node.agent()
    node.kubelet.start()
    up(node)
    node.kubelet.admit(PodSpec("ada", [container("main", 8)], restart_policy=RestartPolicy.ALWAYS))
    (before,) = node.runtime.containers()
    held = node.kubelet.pod("default/ada").container("main").devices
    # A disk that lost what was written last: the runtime will make an empty directory of it.
    given = mounts(before)[PEOPLE_LOOK]
    share = (given / "share.json").read_text()
    (node.directory / f"state/gpu/allocations/{given.name}.json").write_text("")
    with rebooted(node, plugins_first=True):
        node.until(lambda: len(node.runtime.containers()) == 1)
    (after,) = node.runtime.containers()
    assert node.kubelet.pod("default/ada").container("main").devices == held
    assert mounts(after) == mounts(before)
    assert agent.metric("allocations_total", resource=SHARED) == 0, "it was not asked again"
    assert (given / "share.json").read_text() == share
    record = node.directory / f"state/gpu/allocations/{given.name}.json"
    node.until(lambda: '"units"' in record.read_text())
    gpu = node.machine.gpus[0].uuid
    node.until(lambda: agent.device(gpu)["units_allocated"] == 8)


def test_pods_that_come_before_the_plugin_fail_and_their_successors_run(node: Node) -> None:
    """kubernetes/kubernetes#125579: nothing that a plugin does can help the first ones."""
    agent = node.agent()
    node.kubelet.start()
    up(node)
    node.admit("ada", shared=8)
    (first,) = directories(node)
    with rebooted(node, plugins_first=False):
        node.until(lambda: node.kubelet.pod("default/ada").phase is PodPhase.FAILED)
    failed = node.kubelet.pod("default/ada")
    assert failed.reason == "UnexpectedAdmissionError"
    assert "no healthy devices present" in failed.message
    up(node)
    node.kubelet.delete("default/ada")
    assert node.admit("ada", shared=31).phase is PodPhase.RUNNING
    assert directories(node) - {first}
    assert agent.status()["ready"] is True


def test_a_plugin_that_takes_the_name_is_named(node: Node) -> None:
    agent = node.agent()
    node.kubelet.start()
    up(node)
    other = FakePlugin(
        node.directory / "kubelet/device-plugins",
        SHARED,
        listed=devices(3),
        name="other.sock",
    ).start()
    try:
        other.register()
        node.until(lambda: agent.metric("registrations_lost_total", resource=SHARED) == 1)
        node.until(lambda: bool(agent.status()["problems"]))
        (problem,) = agent.status()["problems"]
        assert f"another plugin took the name {SHARED!r}" in problem
        assert "'other.sock' (of " in problem
        assert f"pid {os.getpid()})" in problem
        up(node)
    finally:
        other.stop()


def test_two_copies_in_an_update_that_overlaps(node: Node) -> None:
    old = node.agent()
    node.kubelet.start()
    up(node)
    node.admit("ada", shared=8)
    new = node.agent(copy="new")
    node.until(lambda: len(node.kubelet.events.of(EventKind.REPLACED, SHARED)) == 1)
    up(node)
    node.until(lambda: "another process serves" in str(old.status()["reason"]))
    assert node.admit("grace", shared=8).phase is PodPhase.RUNNING
    node.until(lambda: (old.metric("enforcing"), new.metric("enforcing")) == (1, 0))
    assert old.end(signal.SIGTERM) == 0
    time.sleep(0.5)
    # The end of the old one is not even noticed.
    assert node.allocatable(SHARED) == ALL
    assert len(node.kubelet.events.of(EventKind.REGISTERED, SHARED)) == 2
    assert node.admit("emmy", small=1).phase is PodPhase.RUNNING
    node.until(lambda: new.status()["ready"] is True)
    node.until(lambda: new.metric("enforcing") == 1)
    assert new.metric("registrations_lost_total") == 0
    assert len(directories(node)) == 3


def test_a_new_copy_that_fails_leaves_the_name_to_the_old_one(node: Node) -> None:
    old = node.agent()
    node.kubelet.start()
    up(node)
    new = node.agent(copy="new")
    node.until(lambda: len(node.kubelet.events.of(EventKind.REPLACED, SHARED)) == 1)
    new.end(signal.SIGKILL)
    node.until(lambda: len(node.kubelet.events.of(EventKind.REGISTERED, SHARED)) == 3)
    up(node)
    node.until(lambda: old.status()["ready"] is True)


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_and_a_read_only_disk_are_told_to_whoever_looks_at_the_pod(node: Node) -> None:
    disk = node.directory / "state/gpu"
    with small_disk(disk):
        agent = node.agent()
        node.kubelet.start()
        up(node)
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(1024)):
                    pass
            except OSError:
                pass
        full = node.admit("ada", shared=8)
        assert full.phase is PodPhase.FAILED
        assert "No space left on device; look whether node.state_dir" in full.message
        (disk / "ballast").unlink()
        assert directories(node) == set()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        refused = node.admit("grace", shared=8)
        assert "Read-only file system; look whether node.state_dir" in refused.message
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert node.admit("emmy", shared=8).phase is PodPhase.RUNNING
        assert agent.metric("admission_rejections_total", reason="state") == 2
        node.close()


def test_a_container_gets_the_device_nodes_that_are_there(node_with_mig: Node) -> None:
    """Over the real pynvml and the C library; `/dev` is a directory of the test."""
    node = node_with_mig
    dev = node.directory / "dev"
    dev.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm-tools"):
        (dev / name).touch()
    agent = node.agent(container="{aliases: [metagpu], device_list: cdi}")
    node.kubelet.start()
    up(node)
    (problem,) = agent.status()["problems"]
    assert f"device nodes are missing in '{dev}': nvidia-uvm; " in problem
    node.admit("ada", shared=8)
    (ada,) = node.runtime.containers()
    assert [device.container_path for device in ada.start.devices] == [
        "/dev/nvidia0",
        "/dev/nvidiactl",
        "/dev/nvidia-uvm-tools",
    ]
    assert ada.start.env["METAGPU_MAX_MEM"] == "8192"
    assert ada.start.env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert ada.start.env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2363"
    # The embedded runtime knows no CDI, as containerd 1.6; a real one is handed this name.
    (event,) = node.kubelet.events.of(EventKind.ANSWER_IGNORED, SHARED)
    assert "CDI" in event.text


def test_two_resources_in_one_container_add_up_where_the_runtime_reads_mounts(node: Node) -> None:
    node.agent(container="{device_list: mounts}")
    node.kubelet.start()
    node.until(lambda: (node.allocatable(SHARED), node.allocatable(SMALL)) == (ALL, 2))
    node.admit("ada", shared=8, small=1)
    (both,) = node.runtime.containers()
    listed = "/var/run/nvidia-container-devices"
    assert both.start.env["NVIDIA_VISIBLE_DEVICES"] == listed
    gpu = node.machine.gpus[0].uuid
    (small,) = {
        id_.partition("::")[0]
        for id_ in node.kubelet.pod("default/ada").container("main").devices[SMALL]
    }
    assert {path for path in mounts(both) if path.startswith(listed)} == {
        f"{listed}/{gpu}",
        f"{listed}/{small}",
    }
    assert both.start.env["NODESHARE_RESOURCE_GPU_MEMORY_DEVICES"] == gpu
    assert both.start.env["NODESHARE_RESOURCE_MIG_1G_10GB_DEVICES"] == small
