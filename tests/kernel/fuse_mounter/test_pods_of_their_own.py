# SPDX-License-Identifier: Apache-2.0
"""Agent and holder in containers of their own, as their DaemonSets have it: two mount namespaces
that share what the host lends to both, and a user's pod that sees neither.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts, Propagation
from tests.fakes.lent_paths import in_container
from tests.fakes.mount_node import LIMIT_S, Node, bindfs, eventually

APART = {"holder": {"start": False, "end_limit": "5s"}}


@dataclass
class ContainedNode(Node):
    """Its run directory and root lie on one shared mount of the host."""

    holder: subprocess.Popen[bytes] | None = None
    propagation: str = "rshared"
    roots: list[Path] = field(default_factory=list)

    def prepare(self) -> None:
        LinuxMounts().bind(self.directory, self.directory)
        LinuxMounts().set_propagation(self.directory, Propagation.PRIVATE)
        LinuxMounts().set_propagation(self.directory, Propagation.SHARED)
        self.places.root.mkdir()
        self.places.run_dir.mkdir()

    def new_root(self) -> Path:
        self.roots.append(Path(tempfile.mkdtemp(prefix="nodeshare-container-")))
        return self.roots[-1]

    def wrap(self, argv: list[str]) -> list[str]:
        return in_container(
            argv,
            self.new_root(),
            lent=[self.places.run_dir, self.places.root],
            bound=[self.config_file, self.directory / "src"],
            propagation=self.propagation,
        )

    def start_holder(self) -> None:
        self.holder = self.run("holder", self.directory / "holder.log")

    def end(self) -> None:
        try:
            if self.holder is not None:
                self.holder.kill()
                self.holder.wait(LIMIT_S)
            super().end()
        finally:
            for path in self.roots:
                shutil.rmtree(path)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[ContainedNode]:
    tmp_path.chmod(0o755)
    node = ContainedNode(tmp_path)
    node.source("src", who="one")
    node.configure(bindfs(tmp_path / "src"), node=APART)
    node.prepare()
    try:
        yield node
    finally:
        node.end()


def namespace(pid: int) -> str:
    return str((PROC / str(pid) / "ns/mnt").readlink())


def test_a_client_in_the_holders_container_serves_pods_and_outlives_the_agents(
    apart: ContainedNode, beneath: bool
) -> None:
    apart.start()
    eventually(lambda: "nodeshare run holder" in str(apart.document().get("reason")), "it waits")
    apart.start_holder()
    first = apart.wait("scratch", published_by="first")
    assert apart.agent is not None
    assert apart.holder is not None
    places = {namespace(pid) for pid in (os.getpid(), apart.agent.pid, first["client_pid"])}
    assert len(places) == 3
    assert namespace(first["client_pid"]) == namespace(apart.holder.pid)
    pod = apart.pod()
    assert pod.path("scratch", "who").read_text() == "one"
    apart.stop(signal.SIGKILL)
    assert pod.path("scratch", "who").read_text() == "one"
    apart.start()
    assert apart.wait("scratch", published_by="adopted")["client_pid"] == first["client_pid"]
    os.kill(first["client_pid"], signal.SIGKILL)
    way = "beneath" if beneath else "over"
    eventually(lambda: apart.mount("scratch").get("recoveries"), "it came back")
    second = apart.wait("scratch")
    assert (second["published_by"], second["layers"]) == (way, 1 if beneath else 2)
    assert pod.path("scratch", "who").read_text() == "one"
    assert len(staged(apart)) == 1, "the dead client's mount is gone from the host too"


def staged(node: Node) -> tuple[mountinfo.MountEntry, ...]:
    return tuple(
        entry
        for entry in mountinfo.below(mountinfo.read(PROC), node.places.staging)
        if entry.fstype.startswith("fuse")
    )


def test_somebody_who_mounts_over_it_does_not_reach_the_staging_place(
    apart: ContainedNode,
) -> None:
    apart.start_holder()
    apart.start()
    apart.wait("scratch")
    place = apart.places.root / "scratch"
    LinuxMounts().mount("theirs", place, "tmpfs", data="size=4k")
    assert "theirs" in apart.wait("scratch", "degraded")["cause"]
    assert [entry.source for entry in staged(apart)] == [str(apart.directory / "src")]
    LinuxMounts().unmount(place)
    apart.wait("scratch")


def test_a_new_holder_pod_brings_everything_back(apart: ContainedNode) -> None:
    """The end of a pod is that of its clients: they are asked first, to write what they have."""
    apart.start_holder()
    apart.start()
    client = apart.wait("scratch")["client_pid"]
    pod = apart.pod()
    assert apart.holder is not None
    apart.holder.send_signal(signal.SIGTERM)
    assert apart.holder.wait(LIMIT_S) == 0
    assert client not in apart.clients()
    apart.start_holder()
    eventually(
        lambda: apart.mount("scratch").get("client_pid") not in (client, None), "a new client"
    )
    apart.wait("scratch")
    assert pod.path("scratch", "who").read_text() == "one"


def test_without_propagation_it_is_refused_with_the_remedy(apart: ContainedNode) -> None:
    apart.propagation = "rslave"
    apart.start_holder()
    apart.start()

    def refused() -> str | None:
        reason = str(apart.document().get("reason"))
        return reason if "mountPropagation: Bidirectional" in reason else None

    assert "node.run_dir" in eventually(refused, "the reason")
    assert not apart.clients()


def test_the_two_have_to_agree_on_who_starts_the_holder(apart: ContainedNode) -> None:
    apart.configure(bindfs(apart.directory / "src"))
    apart.start_holder()
    assert apart.holder is not None
    assert apart.holder.wait(LIMIT_S) == 2
    assert "node.holder.start" in (apart.directory / "holder.log").read_text()


def test_a_release_is_taken_off_the_node_by_one_more_container(apart: ContainedNode) -> None:
    """The clean-up of the chart: `nodeshare uninstall`, tried until no agent runs and nobody uses
    anything. It has run directory, state directory and root as its volumes.
    """
    (apart.directory / "state").mkdir(exist_ok=True)
    kubelet = {"kubelet_dir": str(apart.directory / "kubelet"), "cri_socket": "/nowhere"}
    apart.configure(bindfs(apart.directory / "src"), node={**APART, **kubelet})
    apart.start_holder()
    apart.start()
    apart.wait("scratch")
    user = subprocess.Popen(
        in_container(
            ["sh", "-c", "echo ready; exec sleep 600"],
            apart.new_root(),
            lent=[apart.places.root],
            propagation="rslave",
        ),
        stdout=subprocess.PIPE,
    )
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == b"ready\n"
        assert "run: fuse_mounter" in uninstall(apart)
        apart.stop()
        assert apart.holder is not None
        apart.holder.send_signal(signal.SIGTERM)
        assert apart.holder.wait(LIMIT_S) == 0
        assert "1 containers use something" in uninstall(apart)
    finally:
        user.kill()
        user.communicate(timeout=LIMIT_S)
    assert uninstall(apart) == ""
    own = [one.mount_point for one in mountinfo.below(mountinfo.read(PROC), apart.directory)]
    assert own == [str(apart.directory)], "what the test itself has bound"
    assert [*apart.places.root.iterdir(), *apart.places.run_dir.iterdir()] == []


def uninstall(node: ContainedNode) -> str:
    """In a container, with the volumes of the clean-up; why it was refused, or nothing."""
    argv = [str(Path(sys.executable).with_name("nodeshare")), "uninstall"]
    command = in_container(
        [*argv, "--config", str(node.config_file)],
        node.new_root(),
        lent=[node.places.run_dir, node.places.root, node.directory / "state"],
        bound=[node.config_file],
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
