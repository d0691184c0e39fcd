# SPDX-License-Identifier: Apache-2.0
"""A node whose agents run from the image, with what their manifests give them (deploy/kustomize).

Paths of the node are below the directory of the test, outside and inside: else as in a cluster.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.containerd.node import Node
from tests.fakes.image import SOURCE, Image, built
from tests.fakes.pod_agent import Manifest, PodAgent

_MANIFESTS = SOURCE / "deploy/kustomize/base"
#: Where this node has what pods ask for by `hostPath`; the longest that fits counts.
_PLACES = {
    "/run/containerd": "ctd",
    "/run/nodeshare": "run",
    "/var/cache/nodeshare": "cache",
    "/var/lib/kubelet": "kubelet",
    "/var/lib/nodeshare": "state",
    "/var/lib/nodeshare/mounts": "mounts",
}


def manifest(noun: str) -> Manifest:
    """The DaemonSet of an agent, or of the holder."""
    documents = yaml.safe_load_all((_MANIFESTS / f"{noun}.yaml").read_text())
    (found,) = [one for one in documents if one["kind"] == "DaemonSet"]
    return dict(found)


def image_of(manifest: Manifest) -> Image:
    """What its pod runs, built here: `name:version` or `name:version-target`."""
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    _, _, target = container["image"].rpartition(":")[2].partition("-")
    return built(target or "nodeshare")


class ImageNode(Node):
    """`run("holder", "mounts", ...)`: the holder has to be among those that need it. `pods`: all
    containers of agents that were ever made here."""

    def __init__(self, directory: Path, cgroup: str) -> None:
        super().__init__(directory, cgroup)
        self.pods: list[PodAgent] = []

    def start(self) -> None:
        for place in ("run", "mounts", "kubelet/pod-resources"):
            (self.directory / place).mkdir(parents=True, exist_ok=True)
        # As systemd's hosts have it: Bidirectional wants a shared mount.
        self._mount("--bind", self.directory, self.directory)
        self._mount("--make-shared", self.directory)
        super().start()

    def run(self, *nouns: str) -> None:
        for noun in nouns:
            self.agents[noun] = pod = self.pod(noun, self.manifest(noun))
            pod.start()
        for noun in nouns:
            if noun == "holder":
                self.until((self.directory / "run/holder.sock").exists, "the holder listens")
            else:
                self.until(partial(self._ready, noun), f"{noun} is ready")

    def manifest(self, noun: str) -> Manifest:
        """With what the chart adds for this node's configuration: the folder that is served."""
        found = manifest(noun)
        if noun in ("holder", "mounts"):
            spec = found["spec"]["template"]["spec"]
            data = str(self.directory / "data")
            spec["volumes"].append({"name": "data", "hostPath": {"path": data}})
            (container,) = spec["containers"]
            container["volumeMounts"].append({"name": "data", "mountPath": data})
        return found

    def pod(self, noun: str, asked: Manifest) -> PodAgent:
        """The container of such a pod, not started yet."""
        made = PodAgent(
            asked,
            image_of(asked),
            self.directory / "pods" / f"{noun}-{len(self.pods)}",
            host=self.host,
            config=self._configuration(),
            log=self.directory / f"{noun}.log",
        )
        self.pods.append(made)
        return made

    def host(self, path: str) -> Path:
        """Where this node has a path that a manifest names."""
        for known in sorted(_PLACES, key=len, reverse=True):
            if path == known or path.startswith(f"{known}/"):
                return self.directory / _PLACES[known] / path[len(known) :].lstrip("/")
        return Path(path)

    def _configuration(self) -> str:
        config: dict[str, Any] = yaml.safe_load(self.config.read_text())
        config["node"] |= {"host": {"dev": "/host/dev"}, "holder": {"start": False}}
        return yaml.safe_dump(config)

    def close(self) -> None:
        try:
            super().close()
        finally:
            for pod in self.pods:
                pod.remove()
            away = ["umount", "--recursive", "--lazy", str(self.directory)]
            subprocess.run(away, check=False, timeout=10, capture_output=True)

    def _mount(self, *argv: object) -> None:
        subprocess.run(["mount", *map(str, argv)], check=True, timeout=10)

    def _take_away(self) -> None:
        """Nothing does: clients end with the holder's pod, and mounts with the directory."""
