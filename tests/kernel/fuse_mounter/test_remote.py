# SPDX-License-Identifier: Apache-2.0
"""Remote file systems of real servers, by the real clients, seen from pods that go on running."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_mounter.drivers.registry import DRIVERS
from tests.fakes.mount_node import Node, eventually
from tests.fakes.servers import S3Server, Server, SshServer, WebdavServer, XrootdServer

KINDS: dict[str, type[Server]] = {
    "sshfs": SshServer,
    "xrootd": XrootdServer,
    "rclone": WebdavServer,
    "s3fs": S3Server,
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


@pytest.mark.parametrize("server", ["sshfs", "xrootd"], indirect=True)
def test_a_server_that_hangs_is_given_up_and_taken_again(node: Node, server: Server) -> None:
    node.configure({"name": "far", "path": "far", **server.mount})
    node.start()
    first = node.wait("far")
    who = node.pod().path("far", "who")
    server.signal(signal.SIGSTOP)
    assert text(node.pods[0].path("far", "other")) is None
    eventually(lambda: "hung" in node.mount("far")["transitions"], "it is noticed", 30)
    eventually(lambda: node.mount("far")["client_pid"] != first["client_pid"], "it is given up")
    assert node.mount("far")["state"] != "published"
    server.signal(signal.SIGCONT)
    node.wait("far")
    eventually(lambda: text(who) == "the server\n", "the pod reads from it again")


@pytest.mark.parametrize("server", ["xrootd"], indirect=True)
def test_xrootd_knows_who_asks_by_the_key_of_anybody(node: Node, server: XrootdServer) -> None:
    def entry(name: str, keytab: Path) -> dict[str, object]:
        credentials = {"credentials": {"sss_keytab": str(keytab)}}
        return {"name": name, "path": name, **server.mount, **credentials}

    node.configure(entry("far", server.keytab_of_anybody), entry("public", server.keytab))
    node.start()
    node.wait("far")
    node.wait("public")

    def may_write(user: str, name: str) -> bool:
        place = node.places.root / name / server.OWNER
        # It enters the directory before it becomes that user.
        done = subprocess.run(
            ["sh", "-c", f"echo by {user} > from-{user}"],
            cwd=place,
            user=user,
            group="nogroup",
            extra_groups=[],
            stderr=subprocess.PIPE,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0 or b"ermission denied" in done.stderr, done.stderr
        return done.returncode == 0

    assert may_write(server.OWNER, "far")
    assert (server.data / server.OWNER / f"from-{server.OWNER}").read_text()
    assert not may_write("mail", "far")
    assert not may_write(server.OWNER, "public"), "with that key everybody is nobody"
    assert (node.places.root / "public/who").read_text() == "the server\n"


def test_any_client_by_its_own_command(node: Node) -> None:
    source = node.source("src", who="bindfs")
    words = ["bindfs", "-f", str(source), "{mountpoint}", "-o", "allow_other"]
    entry = {"name": "any", "path": "any", "driver": "command", "command": words}
    node.configure({**entry, "read_only": True, "needs": [str(node.directory / "missing")]})
    node.start()
    assert "is not a file that can be read" in node.wait("any", "failed")["cause"]
    node.configure({**entry, "read_only": True})
    node.wait("any")
    pod = node.pod()
    assert pod.path("any", "who").read_text() == "bindfs"
    with pytest.raises(OSError, match="Read-only"):
        pod.path("any", "stray").touch()
    os.kill(node.mount("any")["client_pid"], signal.SIGKILL)
    node.recovered("any", 1)
    with pytest.raises(OSError, match="Read-only"):
        pod.path("any", "stray").touch()


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
def test_what_a_killed_rclone_has_not_sent_the_next_one_sends(node: Node, server: Server) -> None:
    entry = {"name": "far", "path": "far", **server.mount}
    entry["options"] = {**entry["options"], "vfs-write-back": "4s"}
    node.configure(entry)
    node.start()
    pid = node.wait("far")["client_pid"]
    node.pod().path("far", "late").write_text("not yet sent\n")
    cache = DRIVERS["rclone"].caches
    assert cache is not None

    def noted() -> bool:
        # Three times: when it is opened, written and closed. What it is just writing would be lost.
        notes = list(cache.glob("far-*/vfsMeta/there/late"))
        settled = notes and time.time() - notes[0].stat().st_mtime > 0.3
        return bool(settled and '"Size": 13' in notes[0].read_text())

    eventually(noted, "rclone has made a note of it")
    assert not (server.data / "late").exists()
    os.kill(pid, signal.SIGKILL)
    node.recovered("far", 1)
    eventually(lambda: text(server.data / "late") == "not yet sent\n", "it is sent")
    assert [place.name for place in cache.glob("far-*")] == [
        DRIVERS["rclone"].cache_name(node.places.staging / "far@ab.1")
    ]
    node.configure()
    eventually(lambda: not list(cache.glob("far-*")), "it goes with its mount")
