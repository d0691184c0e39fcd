# SPDX-License-Identifier: Apache-2.0
"""A bucket of a real S3 server by two real clients, and what becomes of their credentials."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.hostfs import PROC
from tests.fakes.mount_node import Node, eventually
from tests.fakes.servers import S3Server

WRONG = ("AKIAUNKNOWNUNKNOWNXX", "a-secret-of-nobody")


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    """One for all of them: it holds nothing but what a test looks at."""
    with tempfile.TemporaryDirectory(prefix="nodeshare-") as name:
        made = S3Server(Path(name) / "server")
        made.start()
        try:
            yield made
        finally:
            made.kill()


@pytest.fixture
def server(running: S3Server) -> S3Server:
    """With the right keys, whatever a test before this one left."""
    running.write_keys(running.keys)
    return running


def s3fs(server: S3Server, **changed: Any) -> dict[str, Any]:
    return {"name": "one", "path": "one", **server.by_s3fs, **changed}


def rclone(server: S3Server, **changed: Any) -> dict[str, Any]:
    return {"name": "other", "path": "other", **server.by_rclone, **changed}


def content(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def test_what_one_client_writes_another_one_reads(node: Node, server: S3Server) -> None:
    node.configure(s3fs(server), rclone(server))
    node.start()
    pids = [node.wait(name)["client_pid"] for name in ("one", "other")]
    pod = node.pod()
    one, other = (pod.path(name, "written") for name in ("one", "other"))
    one.write_text("by s3fs\n" * 10_000)
    eventually(lambda: content(other) == "by s3fs\n" * 10_000, "rclone reads it")
    (pod.path("other") / "below").mkdir()
    (pod.path("other") / "below/back").write_text("by rclone\n")
    eventually(lambda: content(pod.path("one", "below", "back")) == "by rclone\n", "s3fs reads it")
    one.unlink()
    eventually(lambda: not other.exists(), "it is gone for both")
    secret = server.keys[1].encode()
    for pid in pids:
        for file in ("cmdline", "environ"):
            assert secret not in (PROC / str(pid) / file).read_bytes()
    assert server.keys[1] not in node.log() + str(node.document())


def test_s3fs_says_that_its_keys_are_wrong_and_takes_new_ones(node: Node, server: S3Server) -> None:
    server.write_keys(WRONG)
    node.configure(s3fs(server))
    node.start()
    node.wait("one", "failed")
    # One that is killed (its connection is dead) before it has written has no last words.
    eventually(lambda: "invalid credentials" in node.mount("one")["cause"], "it says so")
    assert WRONG[1] not in node.log() + str(node.document())
    server.write_keys(server.keys)
    first = node.wait("one")
    assert node.pod().path("one", "who").read_text() == "the server\n"
    server.write_keys(server.keys)
    eventually(lambda: node.mount("one").get("client_pid") != first["client_pid"], "another one")
    assert node.wait("one")["recoveries"] == {}, "replaced, not recovered"


def test_rclone_mounts_with_wrong_keys_and_tells_of_them(node: Node, server: S3Server) -> None:
    server.write_keys(WRONG)
    node.configure(rclone(server))
    node.start()
    node.wait("other")
    who = node.pod().path("other", "who")
    assert content(who) is None
    status = node.wait("other", "degraded")
    assert "InvalidAccessKeyId" in status["cause"]
    server.write_keys(server.keys)
    eventually(lambda: content(who) == "the server\n", "it reads with new ones")
    node.wait("other")
