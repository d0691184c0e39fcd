# SPDX-License-Identifier: Apache-2.0
"""GPUs of a driver (the C library, by the real pynvml) in containers of a real containerd and runc:
what the kubelet was told to hand over is there, and the container is known by it from outside.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo, processes
from agents.container_cgroups import ContainerCgroup
from agents.cri import CriContainers
from agents.hostfs import PROC, HostFs
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec, RestartPolicy
from gpu_plugin.cleanup import Cleaner
from gpu_plugin.identity import Allocations
from gpu_plugin.process_origins import ProcessOrigins
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.state import SimulatedState
from tests.fakes.containerd.node import GPU, Node
from tests.fakes.nvml.shared_object import build

SLICE = "nodeshare/mig-own"
MACHINE = load_machine("demo")
FIRST = MACHINE.gpus[0].uuid
#: In the place of GPUs: nodes that no container may open unless it was given them (those of FUSE
#: and of loop devices).
A_GPU, ANOTHER = os.makedev(10, 229), os.makedev(10, 237)
NODES = {
    "nvidia0": A_GPU,
    "nvidia1": ANOTHER,
    "nvidia2": ANOTHER,
    "nvidiactl": os.makedev(1, 3),
    "nvidia-uvm": os.makedev(1, 5),
}
POD = "jupyterhub/ada"
PLACE = "/run/nodeshare/gpu"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def notebook(node: Node, *, init: bool = False, **resources: int) -> None:
    """A pod of one container, and of one before it that asks for the same."""
    wanted = {{"memory": GPU, "slices": SLICE}[key]: count for key, count in resources.items()}
    before = ContainerSpec("init", ["true"], resources=wanted)
    spec = PodSpec(
        "ada",
        [ContainerSpec("notebook", ["sleep", "1000000"], resources=wanted)],
        namespace="jupyterhub",
        restart_policy=RestartPolicy.ALWAYS,
        init_containers=[before] if init else [],
    )
    node.kubelet.create(spec)
    node.until(lambda: running(node), "the notebook runs")


def running(node: Node) -> bool:
    pod = node.kubelet.pod(POD)
    assert pod.phase is not PodPhase.FAILED, pod.message
    return any(
        one.start.spec.name == "notebook" and one.exit_code is None
        for one in node.runtime.containers()
    )


def opens(node: Node, name: str, number: int) -> str:
    """What comes of opening a device node, which is made first where there is none."""
    make = f"mknod /dev/{name} c {os.major(number)} {os.minor(number)}"
    return node.shell(
        f"[ -c /dev/{name} ] || {make}; (exec 3</dev/{name} && echo opened) 2>&1 || :"
    )


def allocated(node: Node) -> list[int]:
    """Units of the two whole GPUs that pods hold, as the agent knows it."""
    return [device["units_allocated"] for device in node.status("gpu")["devices"][:2]]


def offered(node: Node, resource: str) -> int:
    known = node.kubelet.resources().get(resource)
    return known.allocatable if known else 0


def identity(node: Node) -> Path:
    """The directory of the running notebook, found from outside: by the mount of its first
    process, whose root and inode are the directory's.
    """
    listing = CriContainers(node.containerd.socket)
    try:
        (pid,) = [one.pid for one in listing.list() if one.name == "notebook"]
    finally:
        listing.close()
    assert pid is not None
    mounts = mountinfo.at(mountinfo.read(PROC, pid), PLACE)
    assert len(mounts) == 1
    assert mounts[0].read_only
    directory = node.directory / "state/gpu/containers" / Path(mounts[0].root).name
    inside = HostFs().of_pid(pid, "root", PLACE.lstrip("/")).stat()
    there = directory.stat()
    assert (inside.st_dev, inside.st_ino) == (there.st_dev, there.st_ino)
    assert node.runtime.id(POD, "notebook") in HostFs().of_pid(pid, "cgroup").read_text()
    return directory


def test_a_container_has_its_gpu_and_no_other(node: Node, library: Path) -> None:
    (node.directory / "lab").mkdir()
    (node.directory / "lab/tool").write_text("a tool\n")
    lab = f"{{host_path: {node.directory}/lab, container_path: /opt/lab}}"
    node.driver(library, MACHINE, NODES, f"{{mounts: [{lab}]}}")
    node.run("gpu")
    node.until(lambda: offered(node, GPU) == 62, "units are offered")
    notebook(node, memory=8)
    assert node.shell("ls /dev | grep nvidia") == "nvidia-uvm\nnvidia0\nnvidiactl"
    assert opens(node, "nvidia0", A_GPU) == "opened"
    assert "not permitted" in opens(node, "another", ANOTHER)
    assert node.shell("echo $NVIDIA_VISIBLE_DEVICES") == FIRST
    assert node.shell("echo $NODESHARE_GPU_UNITS $NODESHARE_GPU_MEMORY_BYTES") == f"8 {8 << 30}"
    assert node.shell("echo $XLA_PYTHON_CLIENT_PREALLOCATE") == "false"
    assert node.shell(f"cat {PLACE}/status").startswith(f"{GPU}: 8 units, 8GiB of GPU memory")
    assert node.shell("cat /opt/lab/tool") == "a tool"
    for place in (PLACE, "/run/nodeshare/allocations/nodeshare_gpu-memory", "/opt/lab"):
        refused = f"touch {place}/x 2>&1 || umount {place} 2>&1 || echo refused"
        assert node.shell(refused).endswith("refused"), place
    sees_what_it_uses(node)


def test_a_container_is_known_by_its_directory_as_long_as_it_lives(
    node: Node, library: Path
) -> None:
    node.driver(library, MACHINE, NODES, "{}")
    node.run("gpu")
    node.until(lambda: offered(node, GPU) == 62, "units are offered")
    notebook(node, init=True, memory=8)
    given = identity(node)
    pod = node.kubelet.pod(POD)
    assert pod.container("init").devices == pod.container("notebook").devices
    allocations = Allocations(node.directory / "state/gpu")
    of_init, of_notebook = allocations.recorded()
    assert of_notebook.name == given.name
    assert of_init.ids == of_notebook.ids == frozenset(pod.container("notebook").devices[GPU])

    # Started again, and without the agent: as it was.
    first, environment = node.runtime.id(POD, "notebook"), node.shell("env | sort")
    node.kill("gpu")
    node.kubelet.restart_container(POD, "notebook")
    node.until(lambda: running(node), "the notebook runs again")
    assert node.runtime.id(POD, "notebook") != first
    assert node.shell("env | sort") == environment
    assert opens(node, "nvidia0", A_GPU) == "opened"
    assert identity(node) == given
    node.run("gpu")
    node.until(lambda: allocated(node) == [8, 0], "the new agent knows whose units they are")

    # Whatever podresources tells, a directory stays while a container carries it.
    cleaner = Cleaner(allocations, PROC, grace_s=1.0)
    cleaner.sweep({}, 0.0)
    assert cleaner.sweep({}, 1.0).removed == (of_init.name,)
    node.kubelet.delete(POD)
    node.until(lambda: allocated(node) == [0, 0], "the units are free")
    cleaner.sweep({}, 2.0)
    assert cleaner.sweep({}, 3.0).removed == (given.name,)
    assert not allocations.names()


def test_two_resources_are_listed_as_mounts(node: Node, library: Path) -> None:
    node.driver(library, MACHINE, NODES, "{device_list: mounts}")
    node.run("gpu")
    node.until(lambda: (offered(node, GPU), offered(node, SLICE)) == (62, 2), "all is offered")
    notebook(node, memory=4, slices=1)
    ((id_,),) = [node.kubelet.pod(POD).container("notebook").devices[SLICE]]
    slice_, _, _ = id_.partition("::")
    listed = "/var/run/nvidia-container-devices"
    assert node.shell("echo $NVIDIA_VISIBLE_DEVICES") == listed
    assert set(node.shell(f"ls {listed}").split()) == {FIRST, slice_}
    assert node.shell(f"stat -c %t:%T {listed}/*").split() == ["1:3", "1:3"]
    assert node.shell("ls /dev | grep 'nvidia[0-9]'") == "nvidia0\nnvidia2"
    assert node.shell("ls /run/nodeshare/allocations").split() == [
        "nodeshare_gpu-memory",
        "nodeshare_mig-own",
    ]
    assert node.shell("echo $NODESHARE_RESOURCE_MIG_OWN_DEVICES") == slice_
    first_come = node.shell(f"cat {PLACE}/share.json")
    assert first_come in {
        node.shell(f"cat /run/nodeshare/allocations/{name}/share.json")
        for name in ("nodeshare_gpu-memory", "nodeshare_mig-own")
    }


def test_what_a_pods_processes_hold_is_told_by_its_names(node: Node, library: Path) -> None:
    """Those that runc started inside later, too."""
    node.driver(library, MACHINE, NODES, "{}")
    node.run("gpu")
    node.until(lambda: offered(node, GPU) == 62, "units are offered")
    notebook(node, memory=8)
    node.shell("sleep 1000000 >/dev/null 2>&1 &")
    id_ = node.runtime.id(POD, "notebook")
    origins = map(ProcessOrigins(HostFs()).look, processes.pids(PROC))
    inside = [
        one.key.pid
        for one in origins
        if one and isinstance(one.place, ContainerCgroup) and one.place.container_id == id_
    ]
    assert len(inside) == 2
    state = SimulatedState(node.directory / "gpu-state")
    for pid in inside:
        state.hold(FIRST, pid, 3 << 30)

    def rows() -> list[dict[str, Any]]:
        return [one for one in node.status("gpu").get("containers", ()) if one["used"]]

    node.until(lambda: [one["pod"] for one in rows()] == ["ada"], "it is known by name")
    (row,) = rows()
    assert (row["namespace"], row["container"], row["id"]) == ("jupyterhub", "notebook", id_)
    assert (row["used"], row["processes"], row["request"]) == (6 << 30, 2, 8 << 30)
    assert row["pod_uid"] == node.kubelet.pod(POD).uid


def sees_what_it_uses(node: Node) -> None:
    """As the driver tells it of the container's process, which is 1 inside."""
    node.until(partial(_shows, node, "GPU 0: within your share"), "its share is shown")
    (pid,) = {one.pid for one in node.runtime.containers() if one.start.spec.name == "notebook"}
    state = SimulatedState(node.directory / "gpu-state")
    for size in (3, 5):
        state.hold(FIRST, pid, size << 30)
        node.until(
            partial(_shows, node, f"  1    sleep    GPU 0   {size}.0 GiB"), "what it uses is shown"
        )
    (row,) = node.status("gpu")["containers"]
    assert (row["namespace"], row["pod"], row["container"]) == ("jupyterhub", "ada", "notebook")
    assert (row["used"], row["request"], row["processes"]) == (5 << 30, 8 << 30, 1)


def _shows(node: Node, line: str) -> bool:
    """The container's own program."""
    return line in node.shell(f"{PLACE}/nodeshare-gpu 2>/dev/null || true").splitlines()
