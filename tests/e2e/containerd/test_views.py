# SPDX-License-Identifier: Apache-2.0
"""Views in pods of a real containerd and runc: every file, whom they are shown to, and that one
agent's end is nothing to another; and the root for pods that were made for lxcfs.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts, Propagation
from agents.standin.pods import (
    ContainerSpec,
    PodPhase,
    PodSpec,
    RestartPolicy,
    Volume,
    VolumePropagation,
)
from tests.fakes.containerd.node import NODESHARE, Node
from tests.fakes.real_container import V2

MEMORY = 300 << 20
OPT_IN, OPT_OUT = {"nodeshare/view": "true"}, {"nodeshare/view": "false"}
#: The machine's own programs, in a container that has only busybox.
USERLAND = [
    Volume(Path("/usr", name), f"/{place}", read_only=True)
    for name, place in (("", "usr"), ("lib", "lib"), ("lib64", "lib64"))
]
#: What admission webhooks for lxcfs mount; runc lets no more of /proc be mounted over.
LXCFS = ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime")

#: A trigger on the pressure of CPUs: 10 ms within 2 s, while two processes want half a CPU.
TRIGGER = """
import os, select
file = os.open("/proc/pressure/cpu", os.O_RDWR | os.O_NONBLOCK)
try:
    os.write(file, b"some 10000 2000000\\0")
except PermissionError:
    raise SystemExit("refused")
children = []
for _ in range(2):
    child = os.fork()
    while child == 0:
        pass
    children.append(child)
poll = select.poll()
poll.register(file, select.POLLPRI)
print("fired" if poll.poll(10000) == [(file, select.POLLPRI)] else "silent")
for child in children:
    os.kill(child, 9)
"""


def create(
    node: Node,
    name: str = "jupyterhub/ada",
    *,
    volumes: Sequence[Volume] = (),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """A pod of half a CPU; returns its name."""
    namespace, _, pod = name.partition("/")
    container = ContainerSpec(
        "notebook", ["sleep", "1000000"], volumes=volumes, cpu_millis=500, memory_bytes=MEMORY
    )
    node.kubelet.create(
        PodSpec(
            pod,
            [container],
            namespace=namespace,
            labels=labels or {},
            annotations=annotations or {},
            restart_policy=RestartPolicy.ALWAYS,
        )
    )
    node.until(lambda: node.kubelet.pod(name).phase is PodPhase.RUNNING, f"{name} runs")
    return name


def said(node: Node, name: str, command: str) -> str:
    return node.runtime.run(name, "notebook", command).strip()


def own(node: Node, name: str) -> bool:
    """Whether it sees its own memory and CPU, and all of it."""
    command = "awk '/^MemTotal/ {print $2}' /proc/meminfo; cat /sys/devices/system/cpu/possible"
    return said(node, name, command).split() == [str(MEMORY >> 10), "0"] and bool(ours(node, name))


def ours(node: Node, name: str) -> tuple[str, ...]:
    """Where something of an agent is mounted, or a cgroup's own file."""
    table = node.runtime.run(name, "notebook", "cat /proc/self/mountinfo")
    return tuple(
        f"{entry.mount_point} {entry.root}"
        for entry in mountinfo.parse(table)
        if "nodeshare" in entry.source or entry.mount_point.startswith("/proc/pressure/")
    )


def test_every_file_and_the_programs_that_read_them(node: Node) -> None:
    node.run("view")
    pod = create(node, volumes=USERLAND)
    node.until(lambda: len(ours(node, pod)) >= 11, "every view is there")
    ask = partial(said, node, pod)
    assert ask("/usr/bin/lscpu --parse=CPU,CORE,SOCKET,NODE | grep -v '#'") == "0,0,0,0"
    assert ask("/usr/bin/getconf _NPROCESSORS_CONF; /usr/bin/getconf _NPROCESSORS_ONLN") == "1\n1"
    assert ask("/usr/bin/python3 -c 'import os; print(os.cpu_count())'") == "1"
    assert ask("ls -d /sys/devices/system/cpu/cpu[0-9]* /sys/devices/system/node/node*") == (
        "/sys/devices/system/cpu/cpu0\n/sys/devices/system/node/node0"
    )
    assert ask("/usr/bin/free -b | awk '/^Mem/ {print $2}'") == str(MEMORY)
    assert ask("grep -c '^cpu' /proc/stat; cat /proc/loadavg").split()[0] == "2"
    assert ask("cat /proc/loadavg").endswith(" 0")  # no process id of the host
    assert ask("wc -l </proc/swaps") == "1"
    assert not set(ask("cat /proc/diskstats").split()) & {"loop0", "ram0"}
    answer = ask(f"/usr/bin/python3 -c '{TRIGGER}' || true")
    # By cgroup2's option nsdelegate, to whoever has this cgroup as the root of his namespace.
    assert answer == "fired" or (V2 and answer == "refused")


def test_a_pod_decides_for_itself(node: Node) -> None:
    node.run("view")
    out = [
        create(node, "jupyterhub/out", annotations=OPT_OUT),
        create(node, "jupyterhub/labelled", labels=OPT_OUT),
        create(node, "default/other"),
        create(node, "kube-system/proxy", annotations=OPT_IN),
    ]
    pods = [create(node, "default/in", annotations=OPT_IN), create(node, "jupyterhub/ada")]
    for pod in pods:
        node.until(partial(own, node, pod), f"{pod} sees its own")
    assert [ours(node, pod) for pod in out] == [()] * len(out)


def test_nothing_is_lost_and_nothing_of_others_is_taken_away(node: Node) -> None:
    """Of two agents on one node, with run directories of their own."""
    node.run("view")
    with another_agent(node, "default") as config:
        theirs = create(node, "default/other")
        names = [f"jupyterhub/{name}" for name in ("ada", "grace", "emmy")]
        for name in names:
            create(node, name)
            if name == names[1]:
                node.kill("view")  # in the midst of its work
        node.run("view")
        for name in (*names, theirs):
            node.until(partial(own, node, name), f"{name} sees its own")
        node.kubelet.restart_container(names[0], "notebook")
        node.until(partial(own, node, names[0]), "also after a restart")
        assert "runs, and would put everything back" in eject(node.config, exit_code=1)
        before = ours(node, theirs)
        node.kill("view")
        assert "mounts taken out" in eject(node.config)
        assert [ours(node, name) for name in names] == [()] * 3
        assert not mountinfo.below(mountinfo.read(PROC), node.directory / "run")
        assert ours(node, theirs) == before
        assert own(node, theirs)
    assert "mounts taken out" in eject(config)
    assert ours(node, theirs) == ()


def test_pods_that_were_made_for_lxcfs(node: Node, shared: Path) -> None:
    root, memory = shared / "lxcfs", "/proc/meminfo"
    node.config.write_text(f"{node.config.read_text()}  compat_root: {root}\n")
    node.run("view")
    node.until(lambda: compat(node)["state"] == "served", "the root is there")
    volumes = [
        *(Volume(root / "proc" / name, f"/proc/{name}", read_only=True) for name in LXCFS),
        Volume(root / "sys/devices/system/cpu", "/sys/devices/system/cpu", read_only=True),
        Volume(shared, "/shared", propagation=VolumePropagation.HOST_TO_CONTAINER),
    ]
    pod = create(node, "default/hooked", volumes=volumes)
    assert own(node, pod)
    os.kill(compat(node)["pid"], signal.SIGKILL)
    again = f"awk '/^MemTotal/ {{print $2}}' /shared/lxcfs{memory} || true"
    node.until(lambda: said(node, pod, again).endswith(str(MEMORY >> 10)), "it is mounted again")
    assert "not connected" in said(node, pod, f"cat {memory} 2>&1 || true")
    node.kill("view")
    assert "root taken away" in eject(node.config)
    left = [one.mount_point for one in mountinfo.below(mountinfo.read(PROC), shared)]
    assert left == [str(shared)]


@pytest.fixture
def shared(node: Node) -> Iterator[Path]:
    """A directory that pods follow, as a DaemonSet has it by `Bidirectional`."""
    mounts, directory = LinuxMounts(), node.directory / "shared"
    directory.mkdir()
    mounts.bind(directory, directory)
    try:
        mounts.set_propagation(directory, Propagation.SHARED)
        yield directory
    finally:
        mounts.unmount(directory, detach=True)


def compat(node: Node) -> dict[str, Any]:
    return dict(node.status("view").get("compat_root", {"state": "unknown"}))


@contextmanager
def another_agent(node: Node, namespace: str) -> Iterator[Path]:
    """It shows views to one namespace alone, and is killed at the end; yields its configuration."""
    config = node.directory / "another.yaml"
    text = node.config.read_text().replace("jupyter*", namespace)
    config.write_text(text.replace(f"{node.directory}/run", f"{node.directory}/other"))
    with (node.directory / "another.log").open("wb") as log:
        command = [*NODESHARE, "run", "view", "--config", str(config)]
        with subprocess.Popen(command, stdout=log, stderr=log) as agent:
            try:
                yield config
            finally:
                agent.kill()


def eject(config: Path, *, exit_code: int = 0) -> str:
    command = [*NODESHARE, "view", "eject", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == exit_code, done.stderr
    return done.stdout + done.stderr
