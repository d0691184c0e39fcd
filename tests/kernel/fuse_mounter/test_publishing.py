# SPDX-License-Identifier: Apache-2.0
"""What pods see: publication, read-only, anchors, changes, obstacles, other people's mounts."""

from __future__ import annotations

import errno
import signal
import time
from pathlib import Path

import pytest

from agents import holder_start, mountinfo
from agents.hostfs import PROC, HostFs
from agents.mounts import LinuxMounts, MountFeatures, Propagation
from fuse_mounter.observe import is_anchor
from fuse_mounter.publish import Piece, Publisher, Way
from tests.fakes.mount_node import Node, eventually, scratch

BIND = {"name": "data", "driver": "bind", "path": "lab/data"}


def test_a_mount_appears_in_a_pod_that_already_runs(node: Node) -> None:
    node.configure(scratch(node.source("src", who="one")))
    node.places.root.mkdir()
    LinuxMounts().bind(node.places.root, node.places.root)
    LinuxMounts().set_propagation(node.places.root, Propagation.SHARED)
    pod = node.pod()
    node.start()
    status = node.wait("scratch", published_by="first", layers=1)
    assert pod.path("scratch", "who").read_text() == "one"
    pod.path("scratch", "new").write_text("from a pod")
    assert (node.directory / "src" / "new").read_text() == "from a pod"
    assert isinstance(status["client_pid"], int)


def test_without_mounts_the_agent_is_ready_and_touches_nothing(node: Node) -> None:
    node.configure()
    node.start()
    eventually(lambda: node.document().get("ready"), "ready")
    assert node.table() == ()
    assert not node.places.root.exists()
    assert not holder_start.socket_path(node.places.run_dir).exists()
    node.configure(scratch(node.source("src", who="one")))
    node.wait("scratch")


def test_two_mounts_and_a_pod_that_starts_later(node: Node) -> None:
    data = node.source("data", what="data")
    node.configure(
        scratch(node.source("src", who="one")), {**BIND, "source": str(data), "read_only": True}
    )
    node.start()
    node.wait("scratch")
    node.wait("data")
    pod = node.pod()
    assert pod.path("scratch", "who").read_text() == "one"
    assert pod.path("lab/data", "what").read_text() == "data"
    with pytest.raises(OSError, match="Read-only"):
        pod.path("lab/data", "x").write_text("")


def test_a_read_only_mount_is_read_only_for_root_in_a_pod(node: Node) -> None:
    node.configure(scratch(node.source("src", who="one"), read_only=True))
    node.start()
    node.wait("scratch")
    pod = node.pod()
    assert pod.path("scratch", "who").read_text() == "one"
    with pytest.raises(OSError, match="Read-only"):
        pod.path("scratch", "x").write_text("")


def test_while_nothing_is_mounted_pods_see_a_read_only_place(node: Node) -> None:
    node.configure(scratch(node.directory / "missing"))
    node.start()
    status = node.wait("scratch", "failed")
    assert "missing" in status["cause"]
    assert "No such file" in status["cause"]
    place = node.pod().path("scratch")
    assert [path.name for path in place.iterdir()] == ["README"]
    assert "Nothing is mounted here yet" in (place / "README").read_text()
    with pytest.raises(OSError, match="Read-only") as raised:
        (place / "lost").write_text("")
    assert raised.value.errno == errno.EROFS
    node.source("missing", who="here now")
    node.wait("scratch")
    assert (place / "who").read_text() == "here now"


def test_whoever_unmounts_by_hand_does_not_have_the_last_word(node: Node) -> None:
    node.configure(scratch(node.source("src", who="one")))
    node.start()
    client = node.wait("scratch")["client_pid"]
    place = node.pod().path("scratch")
    assert node.agent is not None
    node.agent.send_signal(signal.SIGSTOP)  # else it may be at work between the two
    for _ in range(2):  # the mount, and its anchor
        LinuxMounts().unmount(node.places.root / "scratch", detach=True)
    node.agent.send_signal(signal.SIGCONT)
    status = node.recovered("scratch", 1, "unmounted")
    assert status["client_pid"] == client
    assert (place / "who").read_text() == "one"
    anchors = [entry.mount_point for entry in node.table() if is_anchor(entry)]
    assert str(node.places.root / "scratch") in anchors


def test_a_changed_configuration_replaces_the_client_and_open_files_go_on(
    node: Node, beneath: bool, replaced_layers: int
) -> None:
    source = node.source("src", who="one")
    node.configure(scratch(source))
    node.start()
    first = node.wait("scratch")["client_pid"]
    pod = node.pod()
    with pod.path("scratch", "who").open() as held:
        node.configure(scratch(node.source("other", who="two")))
        eventually(lambda: pod.path("scratch", "who").read_text() == "two", "the new source")
        assert held.read() == "one"
        way = "beneath" if beneath else "over"
        status = node.wait("scratch", published_by=way, layers=replaced_layers)
        assert status["client_pid"] != first
        assert first in node.clients()
    if beneath:
        eventually(lambda: first not in node.clients(), "the old client ends")
    assert node.mount("scratch")["recoveries"] == {}
    node.configure()
    eventually(lambda: not node.clients(), "all clients end")


def test_a_configuration_that_does_not_work_leaves_the_old_mount_alone(node: Node) -> None:
    node.configure(scratch(node.source("src", who="one")))
    node.start()
    pid = node.wait("scratch")["client_pid"]
    node.configure(scratch(node.directory / "nowhere"))
    eventually(lambda: "nowhere" in node.mount("scratch")["cause"], "the reason")
    assert node.mount("scratch")["state"] == "degraded"
    assert (node.places.root / "scratch" / "who").read_text() == "one"
    assert pid in node.clients()


def test_a_mount_that_is_no_longer_configured_goes(node: Node) -> None:
    one, other = node.source("src", who="one"), node.source("data", what="data")
    node.configure(scratch(one), {**BIND, "source": str(other)})
    node.start()
    node.wait("scratch")
    node.wait("data")
    node.configure(scratch(one))
    eventually(lambda: not (node.places.root / "lab").exists(), "the folder is gone")
    assert (node.places.root / "scratch" / "who").read_text() == "one"
    node.configure({**BIND, "source": str(other)})
    node.wait("data")
    eventually(lambda: not (node.places.root / "scratch").exists(), "scratch is gone")
    eventually(lambda: not node.clients(), "its client is gone")


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_an_obstacle_fails_its_own_mount_only(node: Node, kind: str) -> None:
    obstacle = node.places.root / "scratch"
    node.places.root.mkdir()
    if kind == "symlink":
        obstacle.symlink_to(node.directory)
    else:
        obstacle.write_text("")
    data = node.source("data", what="data")
    node.configure(scratch(node.source("src")), {**BIND, "source": str(data)})
    node.start()
    node.wait("data")
    status = node.wait("scratch", "failed")
    assert str(obstacle) in status["cause"]
    assert "remove it" in status["cause"]
    assert "scratch" in node.document()["reason"]
    assert not [e for e in node.table() if e.mount_point == str(node.directory)]
    obstacle.unlink()
    node.wait("scratch")
    assert node.document()["ready"]


def test_a_source_that_would_contain_itself_is_refused(node: Node) -> None:
    node.configure(scratch(node.places.run_dir))
    node.start()
    assert "overlap" in node.wait("scratch", "failed")["cause"]
    assert not node.clients()


def test_a_root_behind_a_symlink_works(node: Node) -> None:
    real = node.source("real")
    (node.directory / "link").symlink_to(real)
    node.configure(
        scratch(node.source("src", who="one")), root=str(node.directory / "link" / "root")
    )
    node.start()
    node.wait("scratch")
    assert (real / "root" / "scratch" / "who").read_text() == "one"
    steps = len(node.log().splitlines())
    time.sleep(1.5)
    assert len(node.log().splitlines()) == steps, "it settles"


def test_without_the_device_only_fuse_mounts_fail(node: Node) -> None:
    data = node.source("data", what="data")
    devices = node.directory / "dev"
    devices.mkdir()
    node.configure(
        scratch(node.source("src")),
        {**BIND, "source": str(data)},
        node={"host": {"dev": str(devices)}},
    )
    node.start()
    node.wait("data")
    status = node.wait("scratch", "failed")
    assert "modprobe fuse" in status["cause"]
    assert node.document()["ready"] is False


def test_a_mount_of_somebody_else_on_top_stays_and_is_told(node: Node) -> None:
    node.configure(scratch(node.source("src", who="one")))
    node.start()
    node.wait("scratch")
    place = node.places.root / "scratch"
    LinuxMounts().mount("theirs", place, "tmpfs", data="size=4k")
    status = node.wait("scratch", "degraded")
    assert "tmpfs 'theirs'" in status["cause"]
    assert mountinfo.at(node.table(), place)[-1].source == "theirs"
    LinuxMounts().unmount(place)
    node.wait("scratch")


class WithoutBeneath(LinuxMounts):
    """A kernel before 6.5."""

    def features(self) -> MountFeatures:
        return MountFeatures(open_tree=True, mount_setattr=True, beneath=False)

    def attach(self, mount: int, target: Path, *, beneath: bool = False) -> None:
        if beneath:
            raise OSError(errno.EINVAL, "no such flag")
        super().attach(mount, target)


def test_the_ladder_of_older_kernels(node: Node) -> None:
    """A top is covered, until too many lie on each other; then it is detached first."""
    publisher = Publisher(node.places, WithoutBeneath(), HostFs())
    publisher.prepare()
    publisher.ground.prepare_root()
    publisher.place_anchor("x")
    publisher.put_anchor_away()
    pod = node.pod()
    target = publisher.target("x")

    def stack() -> tuple[mountinfo.MountEntry, ...]:
        return mountinfo.at(mountinfo.read(PROC), target)

    def stage(number: int) -> str:
        name = f"x@ab.{number}"
        source = node.source(f"source{number}", who=str(number))
        LinuxMounts().bind(source, publisher.make_staging(name))
        return name

    def publish(number: int, *, alive: bool) -> tuple[Way, int]:
        top = stack()[-1] if number else None
        way = publisher.publish(Piece(stage(number)), "x", top, alive=alive)
        assert pod.path("x", "who").read_text() == str(number)
        return way, len(stack())

    assert publish(0, alive=False) == (Way.FIRST, 2)
    # What lies on the anchor is covered, dead or alive: it is better than to see the anchor.
    assert publish(1, alive=False) == (Way.OVER, 3)
    assert publish(2, alive=False) == (Way.DETACH, 3)
    assert publish(3, alive=True) == (Way.OVER, 4)
    assert publish(4, alive=True) == (Way.OVER, 5)
    assert publish(5, alive=True) == (Way.DETACH, 5)
    assert publish(6, alive=False) == (Way.DETACH, 5)
