# SPDX-License-Identifier: Apache-2.0
"""Sources below an automounter (autofs): nobody waits for its daemon but the mount itself."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.mounts import LinuxMounts
from tests.fakes.mount_node import Node, scratch

#: `_IO(0x93, 0x62)` of linux/auto_fs.h: there is no daemon any more.
_AUTOFS_IOC_CATATONIC = 0x9362


class Automounter:
    """The kernel's half of an automounter; its daemon says nothing until it is closed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self._requests, told = os.pipe()
        try:
            options = f"fd={told},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
            LinuxMounts().mount("nobody", place, "autofs", data=options)
        finally:
            os.close(told)

    def end(self) -> None:
        """Those who wait for it get an error."""
        directory = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, _AUTOFS_IOC_CATATONIC)
        finally:
            os.close(directory)

    def close(self) -> None:
        self.end()
        LinuxMounts().unmount(self.place, detach=True)
        os.close(self._requests)


@pytest.fixture
def automounter(tmp_path: Path) -> Iterator[Automounter]:
    if "autofs" not in Path("/proc/filesystems").read_text().split():
        pytest.skip("this kernel has no autofs")
    one = Automounter(tmp_path / "auto")
    try:
        yield one
    finally:
        one.close()


def test_a_copy_of_its_directory_is_refused(node: Node, automounter: Automounter) -> None:
    source = node.source("data", who="us")
    bind = {"name": "home", "driver": "bind", "source": str(automounter.place), "path": "home"}
    node.configure(scratch(source), bind)
    node.start()
    node.wait("scratch")
    cause = node.wait("home", "failed")["cause"]
    assert "is the directory of an automounter" in cause
    assert "name a directory in it" in cause


def test_a_daemon_that_does_not_answer_keeps_nobody_else(
    node: Node, automounter: Automounter
) -> None:
    source = node.source("data", who="us")
    inside = automounter.place / "alice"
    bind = {"name": "home", "driver": "bind", "source": str(inside), "path": "home"}
    node.configure(bind, scratch(source))
    node.start()
    node.wait("scratch")
    assert node.mount("home")["state"] == "starting"
    assert node.pod().path("scratch", "who").read_text() == "us"
    automounter.end()
    assert str(inside) in node.wait("home", "failed")["cause"]
