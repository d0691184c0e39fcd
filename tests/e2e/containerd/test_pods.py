# SPDX-License-Identifier: Apache-2.0
"""Real pods of containerd and runc: what a notebook sees, and what it does not notice."""

from __future__ import annotations

import os
import signal

import pytest

from tests.fakes.containerd.node import GPU, Node


def memory(node: Node, **where: str) -> int:
    """MiB in all; not as busybox' `free` tells them, which asks the kernel and no file."""
    return int(node.shell("awk '/^MemTotal/ {print $2}' /proc/meminfo", **where)) >> 10


def processors(node: Node, **where: str) -> tuple[int, str]:
    count = node.shell("grep -c ^processor /proc/cpuinfo", **where)
    return int(count), node.shell("cat /sys/devices/system/cpu/online", **where)


def test_a_notebook_sees_its_share_of_everything(node: Node) -> None:
    node.run("gpu", "mounts", "view")
    node.until(lambda: node.kubelet.resources()[GPU].allocatable == 62, "units are offered")
    node.notebook(gpu=8)
    node.until(lambda: memory(node) == 512, "its own memory")
    assert processors(node) == (2, "0-1")
    assert node.shell("cat /data/shared/who") == "the mount"
    assert "8 units" in node.shell("cat /run/nodeshare/gpu/status")
    assert node.shell("echo $NODESHARE_GPU_UNITS") == "8"
    refused = "touch /run/nodeshare/gpu/x 2>&1 || umount /proc/meminfo 2>&1 || echo refused"
    assert node.shell(refused).endswith("refused")


def test_limits_that_change_in_place_are_seen(node: Node) -> None:
    node.run("view")
    node.notebook(cpu_millis=500)
    node.until(lambda: memory(node) == 512, "its own memory")
    node.until(lambda: processors(node) == (1, "0"), "its own CPUs")
    node.runtime.resize("jupyterhub/ada", "notebook", cpu_millis=1500, memory_bytes=1 << 30)
    node.until(lambda: memory(node) == 1024, "the new memory")
    node.until(lambda: processors(node) == (2, "0-1"), "the new CPUs")


@pytest.mark.parametrize("node", [True], indirect=True, ids=["one pid namespace"])
def test_containers_of_one_pod_see_each_its_own(node: Node) -> None:
    node.run("view")
    node.notebook(sidecar_bytes=128 << 20)
    node.until(lambda: memory(node) == 512, "its own memory")
    node.until(lambda: memory(node, container="sidecar") == 128, "the sidecar's memory")
    assert (processors(node)[0], processors(node, container="sidecar")[0]) == (2, 1)
    assert "sleep" in node.shell("cat /proc/*/cmdline", container="sidecar").replace("\0", " ")


def test_the_mount_comes_back_in_a_running_pod(node: Node) -> None:
    node.run("mounts")
    node.notebook()
    assert node.shell("cat /data/shared/who") == "the mount"
    client = node.status("mounts")["mounts"][0]["client_pid"]
    node.kill("mounts")
    os.kill(client, signal.SIGKILL)
    node.run("mounts")
    node.until(lambda: "the mount" in node.shell("cat /data/shared/who || true"), "it is back")


def test_agents_and_runtime_may_come_and_go(node: Node) -> None:
    node.run("view")
    node.notebook()
    node.until(lambda: memory(node) == 512, "its own memory")
    node.kill("view")
    assert memory(node) == 512
    node.run("view")
    node.containerd.kill()
    node.containerd.start()
    node.notebook("grace", memory_bytes=256 << 20)
    node.until(lambda: memory(node, pod="grace") == 256, "the views of a new pod")
    assert memory(node) == 512
    files = node.directory / "run/views" / node.runtime.id("jupyterhub/ada", "notebook")
    assert files.exists()
    node.kubelet.delete("jupyterhub/ada")
    node.until(lambda: not files.exists(), "nothing stays of a pod that is gone")
