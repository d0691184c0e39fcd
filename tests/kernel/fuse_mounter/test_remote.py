# SPDX-License-Identifier: Apache-2.0
"""Remote file systems of real servers, by the real clients, seen from pods that go on running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.mount_node import Node, eventually
from tests.fakes.servers import Server, SshServer, WebdavServer, XrootdServer

KINDS: dict[str, type[Server]] = {
    "sshfs": SshServer,
    "xrootd": XrootdServer,
    "rclone": WebdavServer,
}


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    # Not below tmp_path: some servers become another user, who may not enter there.
    with tempfile.TemporaryDirectory(prefix="nodeshare-") as name:
        Path(name).chmod(0o755)
        made = KINDS[request.param](Path(name) / "server")
        made.start()
        try:
            yield made
        finally:
            made.kill()


#: Readers that sleep in the kernel: they end when their mount is given up.
_hanging: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def readers() -> Iterator[None]:
    """Made first, so torn down last: when nothing is mounted any more."""
    yield
    while _hanging:
        _hanging.pop().wait(20)


def text(path: Path) -> str | None:
    """By a child, as it may hang. None: it cannot be read now."""
    child = subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        output, _ = child.communicate(timeout=2)
    except subprocess.TimeoutExpired:
        child.kill()
        assert child.stdout is not None
        child.stdout.close()
        _hanging.append(child)
        return None
    return output.decode() if child.returncode == 0 else None


def test_it_is_mounted_and_comes_back(node: Node, server: Server) -> None:
    node.configure({"name": "far", "path": "far", **server.mount})
    node.start()
    status = node.wait("far")
    who = node.pod().path("far", "who")
    assert who.read_text() == "the server\n"

    os.kill(status["client_pid"], signal.SIGKILL)
    node.recovered("far", 1)
    eventually(lambda: text(who) == "the server\n", "the pod sees it again")


def test_a_server_that_was_away_is_found_again(node: Node, server: Server) -> None:
    node.configure({"name": "far", "path": "far", **server.mount})
    node.start()
    node.wait("far")
    who = node.pod().path("far", "who")
    server.kill()
    assert text(node.pods[0].path("far", "other")) is None
    server.start()
    eventually(lambda: text(who) == "the server\n", "the pod reads from it again", 60)


# rclone mounts without having seen its server; then it is what answers with errors.
@pytest.mark.parametrize("server", ["sshfs", "xrootd"], indirect=True)
def test_nothing_is_written_to_the_node_in_its_place(node: Node, server: Server) -> None:
    server.kill()
    node.configure({"name": "far", "path": "far", **server.mount})
    node.start()
    node.wait("far", "failed")
    stray = node.pod().path("far", "stray")
    with pytest.raises(OSError, match="Read-only"):
        stray.touch()
    server.start()
    node.wait("far")
    eventually(lambda: text(node.pods[0].path("far", "who")) == "the server\n", "it is there")


CVMFS2 = """#!/bin/sh
# As cvmfs2 -f -o OPTIONS REPOSITORY MOUNTPOINT; the repository is a folder beside this program.
exec {python} -P -m fuse_mounter.passthrough {repository} "$5" --name nodeshare:far \\
  --device /dev/fuse --read-only
"""


def test_what_was_written_for_a_client_goes_with_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = node.source("repository", who="the repository")
    program = node.source("bin") / "cvmfs2"
    program.write_text(CVMFS2.format(python=sys.executable, repository=repository))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    proxy = {"CVMFS_HTTP_PROXY": "DIRECT"}
    node.configure(
        {"name": "far", "path": "far", "driver": "cvmfs", "source": "a.b", "parameters": proxy}
    )
    node.start()
    node.wait("far")
    assert node.pod().path("far", "who").read_text() == "the repository"
    (written,) = (node.places.own / "clients").iterdir()
    assert written.read_text() == "CVMFS_HTTP_PROXY='DIRECT'\n"
    assert written.stat().st_mode & 0o777 == 0o600
    node.configure()
    eventually(lambda: not written.exists(), "nothing of it stays")
