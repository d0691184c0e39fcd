# SPDX-License-Identifier: Apache-2.0
"""Profiles that the agent installs, as runc takes them: what they refuse, who is answered, and that
nothing of them stays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_container import RuncContainer
from tests.fakes.runc_node import RuncNode

pytestmark = [
    pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no memory and cpu controllers here"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU cannot be limited to one"),
]

#: An operator's: everything but making directories, which fails as if on a full disk.
OWN = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["sysinfo"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    ],
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RuncNode]:
    own = tmp_path / "own.json"
    own.write_text(json.dumps(OWN))
    section = f"{{affinity: {{enabled: true, profiles: {{own: {{team: {own}}}}}}}}}"
    made = RuncNode(tmp_path, section)
    try:
        yield made
    finally:
        made.close()


def test_each_profile_refuses_what_it_did_and_is_answered(node: RuncNode) -> None:
    directory = node.kubelet_dir / "seccomp/nodeshare"
    node.start()
    eventually((directory / "team.json").exists, "the profiles installed", 60)
    eventually(node.seccomp_socket.exists, "the holder listens", 60)

    def make(name: str) -> RuncContainer:
        profile = json.loads((directory / f"{name}.json").read_text())
        return node.make(name, seccomp=profile)

    ask = "exec 2>&1; nproc; unshare -U true && echo made; mkdir /tmp/one && echo done; "
    ask += "busybox uptime"
    said = {name: make(name).run("sh", "-c", ask) for name in ("runtime-default", "unconfined")}
    said["team"] = make("team").run("sh", "-c", ask)
    assert {text.split()[0] for text in said.values()} == {"1"}
    assert "unshare failed: Operation not permitted" in said["runtime-default"]
    assert "made" in said["unconfined"]
    assert "done" in said["unconfined"]
    assert "No space left on device" in said["team"]
    assert "load average" in said["runtime-default"]

    node.kill()
    text = node.eject()
    assert "seccomp profiles taken away" in text
    assert "nodeshare/team.json" in text
    assert not (node.kubelet_dir / "seccomp").exists()
