# SPDX-License-Identifier: Apache-2.0
"""The driver `nfs` for real: the agent and the kernel's own client in the guest, a server in user
space on this side of its network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from agents import mountinfo
from tests.fakes.nfs_server import DENIED, GUEST_ADDRESS, NfsServer
from tests.guest.guest import Guest
from tests.guest.mounting import MountNode, Pod


@pytest.fixture(scope="module")
def server() -> Iterator[NfsServer]:
    with tempfile.TemporaryDirectory(prefix="nodeshare-nfs-", dir="/var/tmp") as name:
        one = NfsServer(Path(name) / "server")
        one.start()
        try:
            yield one
        finally:
            one.kill()


@pytest.fixture(scope="module")
def node(guest: Guest, server: NfsServer) -> Iterator[MountNode]:
    guest.modprobe("fuse", "nfsv4")
    one = MountNode(guest, PurePosixPath("/tmp/nfs"))
    try:
        configure(one, server)
        one.start()
        one.wait("home", "published")
        yield one
    finally:
        one.end()
    assert "/tmp/nfs" not in guest.run("cat /proc/self/mountinfo /proc/[0-9]*/cmdline").stdout


@pytest.fixture(scope="module")
def pod(node: MountNode) -> Pod:
    return Pod(node.guest, node.root)


def configure(node: MountNode, server: NfsServer, *options: str) -> None:
    entry = server.mount
    node.configure(
        {**entry, "name": "home", "path": "home", "options": [*entry["options"], *options]},
        {**entry, "name": "denied", "path": "denied", "source": f"{GUEST_ADDRESS}:{DENIED}"},
    )


def mounted(node: MountNode) -> list[str]:
    """Device and options of what is published, bottom first."""
    table = mountinfo.parse(node.guest.run("cat /proc/self/mountinfo").stdout)
    stack = mountinfo.at(table, node.root / "home")
    return [f"{one.device} {sorted(one.super_options)}" for one in stack if one.fstype == "nfs4"]


def test_pods_read_and_write_it(node: MountNode, pod: Pod, server: NfsServer) -> None:
    assert "the server" in pod.run("cat $root/home/who").stdout
    pod.run("echo from the pod >$root/home/new")
    assert (server.data / "new").read_text() == "from the pod\n"
    *_, options = mounted(node)  # older kernels keep some that were covered
    assert all(word in options for word in ("'hard'", "'noresvport'", "'vers=4.2'"))


def test_operations_are_counted(node: MountNode, pod: Pod) -> None:
    pod.run("ls -l $root/home; echo 1 >$root/home/counted")

    def counted() -> list[str]:
        lines = node.get("metrics", "/metrics").splitlines()
        ours = [line for line in lines if line.startswith("nodeshare_mount_nfs_")]
        written = 'operations_total{mount="home",operation="WRITE"}'
        return ours if any(written in line for line in ours) else []

    lines = node.until(counted, "the write is counted")
    assert any('nfs_bytes_total{direction="written"' in line for line in lines)
    assert not any('operation="LAYOUTGET"' in line for line in lines)  # never used


def test_an_export_that_is_denied_says_what_to_do(node: MountNode) -> None:
    cause = node.wait("denied", "failed")["cause"]
    assert "cannot mount '10.0.2.2:/denied'" in cause
    assert "whether the export allows this node" in cause


def test_a_server_that_is_stopped_is_waited_for(
    node: MountNode, pod: Pod, server: NfsServer
) -> None:
    node.wait("home", "published")
    before, output = mounted(node), node.directory / "waiter"
    server.stop()
    try:
        pod.aside("echo waited >$root/home/waited; cat $root/home/waited", output)
        assert node.wait("home", "hung")["cause"]
        assert 'nodeshare_mount_up{mount="home"} 0.0' in node.get("metrics", "/metrics")
        assert node.get("metrics", "/healthz") == "ok\n"
        assert node.guest.run(["cat", str(output)]).stdout == ""
        assert mounted(node) == before
    finally:
        server.go_on()
    node.wait("home", "published")
    text = node.until(lambda: node.guest.run(["cat", str(output)]).stdout, "the waiter goes on")
    assert text == "waited\n"
    assert mounted(node) == before


def test_a_server_that_was_restarted_is_found_again(
    node: MountNode, pod: Pod, server: NfsServer
) -> None:
    node.wait("home", "published")
    before = mounted(node)
    server.kill()
    server.start()
    pod.run("cat $root/home/who; echo 1 >$root/home/after")
    assert (server.data / "after").exists()
    assert mounted(node) == before


def test_a_stale_handle_is_replaced(node: MountNode, pod: Pod, server: NfsServer) -> None:
    node.wait("home", "published")
    server.make_anew()
    node.until(lambda: "anew" in pod.run("cat $root/home/who", check=False).stdout, "it is new")
    node.wait("home", "published")
    assert len(mounted(node)) <= 2


def test_changed_options_are_taken_up_without_a_gap(
    node: MountNode, pod: Pod, server: NfsServer
) -> None:
    node.wait("home", "published")
    output = node.directory / "reader"
    try:
        pod.aside(
            "echo begun; until [ -e $root/../enough ]; do cat $root/home/who >/dev/null"
            " || echo failed; done; echo ended",
            output,
        )
        configure(node, server, "actimeo=7")
        node.until(lambda: "'acregmax=7'" in mounted(node)[-1], "the new options")
        node.wait("home", "published")
    finally:
        pod.run("touch $root/../enough")
        read = node.until(
            lambda: "ended" in (text := node.guest.run(["cat", str(output)]).stdout) and text,
            "the reader ends",
        )
        configure(node, server)
        node.until(lambda: "'acregmax=7'" not in mounted(node)[-1], "the old options")
    assert read == "begun\nended\n"


def test_what_is_unmounted_by_hand_comes_back(node: MountNode, pod: Pod) -> None:
    node.wait("home", "published")
    before = mounted(node)[-1]
    node.guest.run(["umount", "--lazy", str(node.root / "home")])
    node.until(lambda: mounted(node)[-1:] == [before], "it is on top again")
    assert "the server" in pod.run("cat $root/home/who").stdout
    node.wait("home", "published")


def test_an_agent_finds_its_mount_also_while_the_server_is_silent(
    node: MountNode, pod: Pod, server: NfsServer
) -> None:
    node.wait("home", "published")
    before = mounted(node)
    node.kill()
    assert "the server" in pod.run("cat $root/home/who").stdout
    server.stop()
    try:
        node.start()
        node.wait("home", "hung")
    finally:
        server.go_on()
    node.wait("home", "published", published_by="adopted")
    assert mounted(node) == before
