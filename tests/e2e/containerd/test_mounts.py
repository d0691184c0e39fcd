# SPDX-License-Identifier: Apache-2.0
"""Mounts in pods of a real containerd and runc: replaced under load, told by name, healed."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

import fuse_mounter
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec, Volume, VolumePropagation
from fuse_mounter import requests
from tests.fakes.containerd.node import Node

#: Reads in a loop until it is told to stop, and tells how often, and how often it failed.
_READ = (
    "n=0; e=0; while [ ! -e /data/shared/stop ] && [ $n -lt 1000000 ]; do"
    " read x < /data/shared/who || e=$((e+1)); n=$((n+1)); done; echo $n $e"
)


def documented(node: Node, name: str) -> None:
    """A pod with the volume of the documentation, but for where this node has its root."""
    page = Path(fuse_mounter.__file__).with_name("README.md").read_text()
    (block,) = re.findall(r"```yaml\n(apiVersion: v1\n.*?)```", page, re.DOTALL)
    (mount,) = yaml.safe_load(block)["spec"]["containers"][0]["volumeMounts"]
    propagation = VolumePropagation(mount["mountPropagation"])
    pod(node, name, node.directory / "mounts", propagation, at=mount["mountPath"])


def pod(
    node: Node, name: str, bound: Path, propagation: VolumePropagation, *, at: str = "/eos"
) -> None:
    """With what it bound, and where."""
    volume = Volume(bound, at, propagation=propagation)
    container = ContainerSpec("main", ["sleep", "1000000"], volumes=[volume])
    spec = PodSpec(name, [container], namespace="jupyterhub")
    node.kubelet.create(spec)
    node.until(lambda: node.kubelet.pod(spec.key).phase is PodPhase.RUNNING, f"{name} runs")


def told(node: Node, name: str) -> dict[str, Any]:
    """The volume of a pod in the status document; empty while nothing is known."""
    pods = {one["pod"]: one for one in node.status("mounts").get("pods", ())}
    return dict(pods.get(f"jupyterhub/{name}", {"volumes": [{}]})["volumes"][0])


def healed(node: Node, name: str, place: str) -> None:
    """Until this pod sees the mount again, and is known to follow."""
    command = f"cat {place} 2>&1 || true"
    node.until(lambda: node.shell(command, name, "main") == "the mount", f"{name} is healed")
    node.until(lambda: told(node, name)["recovers"], f"{name} follows")


def test_replaced_under_load_told_by_name_and_healed(node: Node) -> None:
    text = node.config.read_text()
    pods = "\n  pods: {heal: heal, look_every: 500ms}\nlxcfs_helper:\n"
    node.config.write_text(text.replace("\nlxcfs_helper:\n", pods))
    node.run("mounts")
    documented(node, "ada")
    root = node.directory / "mounts"
    pod(node, "itself", root / "shared", VolumePropagation.HOST_TO_CONTAINER)
    pod(node, "private", root, VolumePropagation.NONE)
    node.until(lambda: told(node, "itself"), "the pods are told")
    node.until(lambda: told(node, "ada"), "the notebook is told")
    node.until(lambda: told(node, "private"), "the private one is told")
    assert told(node, "ada")["recovers"] is True
    assert "itself, not its parent" in told(node, "itself")["text"]
    assert "without HostToContainer" in told(node, "private")["text"]

    first = node.status("mounts")["mounts"][0]["client_pid"]
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(node.shell, _READ, "ada", "main")
        for _ in range(2):
            done = requests.ask(
                node.directory / "run", requests.Request(requests.Verb.REPLACE, "shared")
            )
            assert done.done, done
        (node.directory / "data/stop").touch()
        count, errors = reading.result(60).split()[-2:]
    assert (int(count) >= 200, int(errors)) == (True, 0)

    words = "it still uses the client of 'shared' that was replaced"
    node.until(lambda: words in told(node, "itself")["text"], "it is told of the old client")
    assert node.shell("cat /eos/who", "itself", "main") == "the mount"
    for client in (first, node.status("mounts")["mounts"][0]["client_pid"]):
        os.kill(client, signal.SIGKILL)
    for name, place in (("itself", "/eos/who"), ("private", "/eos/shared/who")):
        healed(node, name, place)
    assert node.shell("cat /data/shared/who", "ada", "main") == "the mount"
