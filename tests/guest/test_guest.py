# SPDX-License-Identifier: Apache-2.0
"""The guest is what its tests take it for."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.guest.guest import Guest
from tests.guest.machine import GuestError


def test_it_has_every_controller_of_cgroup_v2_and_no_hierarchy_of_v1(guest: Guest) -> None:
    said = guest.run("cat /sys/fs/cgroup/cgroup.subtree_control").stdout.split()
    assert {"cpuset", "cpu", "io", "memory", "pids"} <= set(said)
    kinds = {line.split()[2] for line in guest.run("cat /proc/mounts").stdout.splitlines()}
    assert "cgroup2" in kinds
    assert "cgroup" not in kinds


def test_the_files_are_this_machines_and_cannot_be_written(guest: Guest) -> None:
    assert guest.run(["cat", __file__]).stdout.startswith("# SPDX")
    again = guest.run("mount -o remount,rw / && touch /etc/written-by-guest", check=False)
    assert again.returncode != 0
    assert "Read-only file system" in again.stderr
    guest.run("mount -o remount,ro /")
    guest.run("touch /tmp/one /run/one && rm /tmp/one /run/one")


def test_outputs_and_the_exit_code_arrive(guest: Guest) -> None:
    done = guest.run("echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    with pytest.raises(GuestError, match=r"(?s)^3: .*out\nerr"):
        guest.run("echo out; echo err >&2; exit 3")
    assert guest.run(["/nonexistent"], check=False).returncode == 127
    assert len(guest.run("head -c 1000000 /dev/zero | tr '\\0' x").stdout) == 1_000_000


def test_what_does_not_end_in_time_is_ended(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"(?s)not in 1 s.*\nbegun\n"):
        guest.run("echo begun; setsid sleep 1000 & trap '' TERM INT; sleep 1000", timeout_s=1)
    assert "sleep" not in guest.run("cat /proc/[0-9]*/comm").stdout.split()


def test_a_test_that_fails_in_the_guest_is_told(guest: Guest) -> None:
    script = "def test_good(): pass\ndef test_bad(): assert 1 == 2\n"
    guest.run(f"mkdir -p /tmp/t; printf '{script}' >/tmp/t/test_it.py".replace("\n", "\\n"))
    outcomes = {one.name.split("::")[1]: one for one in guest.pytest("/tmp/t/test_it.py")}
    assert (outcomes["test_good"].outcome, outcomes["test_bad"].outcome) == ("passed", "failed")
    assert "assert 1 == 2" in outcomes["test_bad"].text


def test_it_can_mount_nfs_and_reaches_this_machines_loopback(guest: Guest) -> None:
    guest.modprobe("nfsv4")
    assert "nfs4" in guest.run("cat /proc/filesystems").stdout.split()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        accepted: list[bytes] = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                accepted.append(connection.recv(100))

        thread = threading.Thread(target=serve)
        thread.start()
        guest.run(f"echo hello >/dev/tcp/10.0.2.2/{server.getsockname()[1]}")
        thread.join(timeout=10)
    assert accepted == [b"hello\n"]
