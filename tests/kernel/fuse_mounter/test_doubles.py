# SPDX-License-Identifier: Apache-2.0
"""Drivers whose clients cannot be had from Debian or PyPI, with doubles of these clients: programs
with the same command line and configuration, over a real FUSE mount.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.hostfs import PROC
from tests.fakes import cvmfs2, mount_s3
from tests.fakes.mount_node import Node, eventually


@pytest.fixture
def programs(node: Node, monkeypatch: pytest.MonkeyPatch) -> Node:
    """The doubles, under the names of those they stand for."""
    folder = node.source("bin")
    for name, double in (("cvmfs2", cvmfs2), ("mount-s3", mount_s3)):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {double.__file__} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return node


def test_cvmfs_reads_the_nodes_configuration_and_then_ours(programs: Node) -> None:
    node = programs
    node.source("repositories")
    (node.directory / "repositories/atlas.cern.ch").mkdir()
    (node.directory / "repositories/atlas.cern.ch/who").write_text("the repository")
    base = node.directory / "default.conf"
    base.write_text(f"# of the node\nCVMFS_SERVER_URL=file://{node.directory}/none/@fqrn@\n")
    url = f"file://{node.directory}/repositories/@fqrn@"
    parameters = {"CVMFS_SERVER_URL": url}
    entry: dict[str, Any]
    entry = {"name": "far", "path": "cvmfs/atlas", "driver": "cvmfs", "source": "atlas.cern.ch"}
    entry |= {"base": str(base), "parameters": parameters}
    node.configure(entry)
    node.start()
    assert "CVMFS_HTTP_PROXY required" in node.wait("far", "failed")["cause"]

    parameters["CVMFS_HTTP_PROXY"] = "DIRECT"
    node.configure(entry)
    first = node.wait("far")
    pod = node.pod()
    assert pod.path("cvmfs/atlas", "who").read_text() == "the repository"
    with pytest.raises(OSError, match="Read-only"):
        pod.path("cvmfs/atlas", "stray").touch()
    (written,) = node.places.clients.iterdir()
    assert f"CVMFS_SERVER_URL='{url}'\n" in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o400

    os.kill(first["client_pid"], 9)
    node.recovered("far", 1)
    assert pod.path("cvmfs/atlas", "who").read_text() == "the repository"
    node.configure()
    eventually(lambda: not list(node.places.clients.iterdir()), "nothing of it stays")


def s3_entry(node: Node, keys: Path, **options: Any) -> dict[str, Any]:
    return {
        "name": "far",
        "path": "far",
        "driver": "mount-s3",
        "source": "bucket",
        "credentials": {"shared_file": str(keys), "profile": "lab"},
        "options": {"endpoint-url": f"file://{node.directory}/buckets", **options},
    }


def test_mount_s3_takes_its_keys_from_a_profile_in_a_file(programs: Node) -> None:
    node = programs
    node.source("buckets")
    (node.directory / "buckets/bucket").mkdir()
    (node.directory / "buckets/bucket/who").write_text("the bucket")
    keys = node.directory / "credentials"
    keys.write_text("[default]\naws_access_key_id = a\n")
    keys.chmod(0o400)
    node.configure(s3_entry(node, keys))
    node.start()
    assert "No signing credentials" in node.wait("far", "failed")["cause"]

    keys.chmod(0o600)
    keys.write_text("[lab]\naws_access_key_id = a\naws_secret_access_key = the-secret\n")
    keys.chmod(0o400)
    first = node.wait("far")
    pod = node.pod()
    assert pod.path("far", "who").read_text() == "the bucket"
    pod.path("far", "new").write_text("written")
    for file in ("cmdline", "environ"):
        assert b"the-secret" not in (PROC / str(first["client_pid"]) / file).read_bytes()

    node.configure({**s3_entry(node, keys), "read_only": True})
    eventually(lambda: node.mount("far").get("client_pid") != first["client_pid"], "replaced")
    node.wait("far")
    with pytest.raises(OSError, match="Read-only"):
        pod.path("far", "stray").touch()

    node.configure(s3_entry(node, keys, **{"no-such-option": True}))
    eventually(lambda: "unexpected argument" in node.mount("far")["cause"], "it is told")
    assert pod.path("far", "who").read_text() == "the bucket", "what serves goes on"
