# SPDX-License-Identifier: Apache-2.0
"""What the root and the run directory stand on when that is not as it should be: repaired where it
is ours to repair, refused with the remedy where not, and never the end of what is mounted.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import PROC, HostFs
from agents.mounts import LinuxMounts, MountFlag, Propagation
from fuse_mounter.ground import Ground
from fuse_mounter.places import Places
from tests.fakes.mount_node import Node, bindfs, eventually


def tmpfs(place: Path, size: str = "1m") -> None:
    place.mkdir(exist_ok=True)
    LinuxMounts().mount("test", place, "tmpfs", data=f"size={size}")


def read_only(place: Path) -> None:
    LinuxMounts().mount("test", place, "tmpfs", MountFlag.REMOUNT | MountFlag.RDONLY)


def test_a_mount_is_noticed_without_reading_the_table(tmp_path: Path) -> None:
    watched = mountinfo.Watched(PROC)

    def there() -> bool:
        return bool(mountinfo.at(watched.mounted(), tmp_path / "one"))

    before = watched.mounted()
    assert before == mountinfo.read(PROC)
    tmpfs(tmp_path / "one")
    try:
        assert there()
        assert there()
    finally:
        LinuxMounts().unmount(tmp_path / "one")
    assert not there()


def test_below_a_private_parent_the_root_becomes_shared(node: Node) -> None:
    LinuxMounts().bind(node.directory, node.directory)
    LinuxMounts().set_propagation(node.directory, Propagation.PRIVATE)
    node.configure(bindfs(node.source("src", who="one")))
    node.start()
    node.wait("scratch")
    assert node.pod().path("scratch", "who").read_text() == "one"


def test_a_root_that_somebody_made_private_is_shared_again(node: Node) -> None:
    node.configure(bindfs(node.source("src", who="one")))
    node.start()
    client = node.wait("scratch")["client_pid"]
    LinuxMounts().set_propagation(node.places.root, Propagation.PRIVATE)

    def shared() -> bool:
        table = mountinfo.at(mountinfo.read(PROC), node.places.root)
        return table[-1].shared is not None

    eventually(shared, "it is shared")
    assert node.wait("scratch")["client_pid"] == client


def on_read_only_disk(places: Places) -> None:
    tmpfs(places.root.parent / "disk")
    read_only(places.root.parent / "disk")


def behind_a_file(places: Places) -> None:
    (places.root.parent / "disk").write_text("")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            on_read_only_disk, ("Read-only file system", "can be written"), id="read-only"
        ),
        pytest.param(behind_a_file, ("Not a directory", "name a place"), id="a file"),
    ],
)
def test_a_root_that_cannot_be_made_is_refused_with_the_remedy(
    node: Node, spoil: Callable[[Places], None], words: tuple[str, ...]
) -> None:
    spoil(node.places)
    root = node.directory / "disk" / "root"
    ground = Ground(Places(root, node.places.run_dir), LinuxMounts(), HostFs())
    with pytest.raises(AgentError) as raised:
        ground.prepare(None)
    for word in (*words, "fuse_mounter.root", str(root)):
        assert word in str(raised.value)


def test_an_agent_whose_root_cannot_be_made_says_so_and_finds_it_mended(node: Node) -> None:
    disk = node.directory / "disk"
    tmpfs(disk)
    read_only(disk)
    node.configure(bindfs(node.source("src", who="one")), root=str(disk / "root"))
    node.start()
    eventually(lambda: "Read-only" in str(node.document().get("reason")), "the reason")
    LinuxMounts().mount("test", disk, "tmpfs", MountFlag.REMOUNT)
    node.wait("scratch")
    assert (disk / "root" / "scratch" / "who").read_text() == "one"


def test_a_full_disk_below_the_run_directory_stops_no_recovery(node: Node) -> None:
    tmpfs(node.places.run_dir)
    node.configure(bindfs(node.source("src", who="one")))
    node.start()
    client = node.wait("scratch")["client_pid"]
    pod = node.pod()
    with pytest.raises(OSError, match="No space") as raised:
        (node.places.run_dir / "fill").write_bytes(bytes(2 << 20))
    assert raised.value.errno == errno.ENOSPC
    os.kill(client, signal.SIGKILL)
    assert node.recovered("scratch", 1)["client_pid"] != client
    assert pod.path("scratch", "who").read_text() == "one"
    # Nor an agent that starts now.
    node.stop(signal.SIGKILL)
    node.start()
    node.wait("scratch", published_by="adopted")
