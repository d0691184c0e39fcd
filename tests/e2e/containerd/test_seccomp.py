# SPDX-License-Identifier: Apache-2.0
"""Our seccomp profiles through containerd: what it allows by default is what ours allows, and it
hands a container with one of ours over to us."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lxcfs_helper.affinity.default_profile import ALLOWED, NEW_NAMESPACES, PERSONALITIES
from lxcfs_helper.affinity.profiles import ARCHITECTURES, runtime_default
from tests.fakes.containerd.daemon import IMAGE, Containerd, programs
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_node import RuncNode

#: Allowed until other runtimes refused them for good, and what later kernels brought.
REFUSED_SINCE = {"io_uring_enter", "io_uring_register", "io_uring_setup"}
ALLOWED_SINCE = {"cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_wake"}
ALLOWED_SINCE |= {"getxattrat", "listxattrat", "map_shadow_stack", "mseal", "removexattrat"}
ALLOWED_SINCE |= {"setxattrat"}
#: Where ours asks for more than the name.
CONDITIONAL = {"clone", "clone3", "personality", "socket"}


class Client:
    """containerd's own command, with containers below one cgroup."""

    def __init__(self, containerd: Containerd, cgroup: str) -> None:
        self._containerd, self.cgroup = containerd, cgroup
        self._made: list[str] = []

    def run(self, *options: str) -> str:
        """Start a container that does nothing; its id."""
        container_id = secrets.token_hex(32)
        self._made.append(container_id)
        cgroup = ["--cgroup", f"/{self.cgroup}/{container_id}", "--snapshotter", "native"]
        sleep = [IMAGE, container_id, "/bin/sleep", "600"]
        self._ctr("run", "--detach", *cgroup, *options, *sleep)
        return container_id

    def execute(self, container_id: str, *argv: str) -> str:
        """A command in it; what it prints."""
        name = secrets.token_hex(4)
        return self._ctr("task", "exec", "--exec-id", name, container_id, *argv)

    def bundle(self, container_id: str) -> dict[str, Any]:
        """What runc was given."""
        (found,) = self._containerd.directory.rglob(f"{container_id}/config.json")
        document: dict[str, Any] = json.loads(found.read_text())
        return document

    def pid(self, container_id: str) -> int:
        rows = [line.split() for line in self._ctr("task", "ls").splitlines()]
        return next(int(row[1]) for row in rows if row[0] == container_id)

    def close(self) -> None:
        """What runc keeps of a container is not below our directory."""
        for container_id in self._made:
            self._ctr("task", "delete", "--force", container_id)

    def _ctr(self, *words: str) -> str:
        where = ["--address", str(self._containerd.socket), "--namespace", "k8s.io"]
        return _run([str(programs() / "ctr"), *where, *words])


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": f"{programs()}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def client() -> Iterator[Client]:
    # Short: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="ns-c"))
    cgroup = f"nodeshare-test-{secrets.token_hex(4)}"
    made = Containerd(directory, cgroup)
    try:
        made.start()
        client = Client(made, cgroup)
        yield client
        client.close()
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RuncNode]:
    made = RuncNode(tmp_path, "{poll: 100ms, affinity: {enabled: true}}")
    try:
        yield made
    finally:
        made.close()


def test_ours_allows_by_default_what_containerd_does(client: Client) -> None:
    container_id, machine = client.run("--seccomp"), os.uname().machine
    theirs = client.bundle(container_id)["linux"]["seccomp"]
    ours = runtime_default(machine)
    assert ours["defaultAction"] == theirs["defaultAction"]
    assert set(ARCHITECTURES[machine]) == set(theirs["architectures"])

    def always(profile: dict[str, Any]) -> set[str]:
        return {
            name
            for rule in profile["syscalls"]
            if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
            for name in rule["names"]
        }

    assert always(ours) - always(theirs) <= ALLOWED_SINCE | CONDITIONAL
    if " 1.6." in _run([str(programs() / "containerd"), "--version"]):  # later ones may allow more
        assert always(theirs) - always(ours) - CONDITIONAL <= REFUSED_SINCE
    assert sum(len(text.split()) for text in ALLOWED.values()) > 300
    conditions = {
        (name, one["value"])
        for rule in theirs["syscalls"]
        for one in rule.get("args") or ()
        for name in rule["names"]
    }
    assert {value for name, value in conditions if name == "personality"} == set(PERSONALITIES)
    assert ("clone", NEW_NAMESPACES) in conditions


@pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no memory and cpu controllers here")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU cannot be limited to one")
def test_a_container_is_answered_also_when_its_profile_was_replaced(
    node: RuncNode, client: Client
) -> None:
    # In this order: a holder that still answers somebody's calls is not ended.
    profile = node.kubelet_dir / "seccomp/nodeshare/runtime-default.json"
    node.start()
    eventually(profile.exists, "the profile installed", 60)
    eventually(node.seccomp_socket.exists, "the holder listens", 60)
    limits = ["--cpu-quota", "100000", "--cpu-period", "100000"]
    container_id = client.run(*limits, "--seccomp", "--seccomp-profile", str(profile))
    listed = SimpleNamespace(
        id=container_id,
        name="one",
        command=("/bin/sleep", "600"),
        pid=client.pid(container_id),
        parent=client.cgroup,
        remove=lambda: None,
    )
    node.runtime.made.append(listed)  # type: ignore[arg-type]  # what a runtime tells of it
    assert client.execute(container_id, "/bin/busybox", "nproc") == "1\n"
    profile.unlink()
    assert client.execute(container_id, "/bin/busybox", "nproc") == "1\n", "kept by the runtime"
