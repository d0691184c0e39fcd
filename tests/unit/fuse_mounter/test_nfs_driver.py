# SPDX-License-Identifier: Apache-2.0
"""The driver `nfs`: options, what is looked for beforehand, and what is said when it fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agents import command, hostfs
from agents.command import Result
from agents.errors import ConfigError, Unavailable
from agents.hostfs import HostFs
from agents.mounts import LinuxMounts, Propagation
from agents.threads import Worker
from fuse_mounter.drivers.nfs import Nfs, NfsMount, all_options
from fuse_mounter.drivers.registry import driver_of
from tests.unit.fuse_mounter.test_drivers import mount

STAGING = Path("/run/nodeshare/mounts/staging/far@0123abcd.1")


def nfs(*options: str, source: str = "127.0.0.1:/export", **changed: Any) -> NfsMount:
    made = mount({"driver": "nfs", "source": source, "options": list(options)}, **changed)
    assert isinstance(made, NfsMount)
    return made


def test_it_waits_for_its_server_and_uses_nfs4_unless_told_otherwise() -> None:
    assert all_options(nfs()) == (
        *("vers=4", "hard", "timeo=600", "retrans=2", "noresvport", "nosharecache", "noatime"),
        *("retry=0", "rw"),
    )
    assert all_options(nfs("vers=4.2", "nconnect=4", "timeo=50", "resvport")) == (
        *("hard", "retrans=2", "nosharecache", "noatime"),
        *("vers=4.2", "nconnect=4", "timeo=50", "resvport", "retry=0", "rw"),
    )
    assert all_options(nfs("v4.1"))[0] == "hard"
    assert all_options(nfs("minorversion=1"))[0] == "vers=4"
    assert all_options(nfs("soft", "nfsvers=3", "relatime", read_only=True)) == (
        *("timeo=600", "retrans=2", "noresvport", "nosharecache"),
        *("soft", "nfsvers=3", "relatime", "retry=0", "ro"),
    )


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("nfs.example.org:/export/home", "nfs.example.org"),
        ("NFS:/", "nfs"),
        ("192.0.2.1:/with space", "192.0.2.1"),
        ("[fd00::1]:/export", "fd00::1"),
        ("[fe80::1%eth0]:/export", "fe80::1%eth0"),
    ],
)
def test_names_of_servers(source: str, host: str) -> None:
    made = nfs(source=source)
    assert made.host == host
    assert driver_of(made).server(made) == host


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"source": "nfs://server/export"}, "is not an export such as nfs.example.org:/export"),
        ({"source": "server:export"}, "is not an export such as"),
        ({"source": "fd00::1:/export"}, "is not an export such as"),
        ({"source": "one,two:/export"}, "is not an export such as"),
        ({"source": "-o:/x\n"}, "is not an export such as"),
        ({"options": ["vers=4.2,soft"]}, "is not one option"),
        ({"options": {"vers": 4}}, "options"),
        ({"options": ["ro"]}, "'ro': write read_only: true instead"),
        ({"options": ["bg"]}, "the agent tries again by itself"),
        ({"options": ["retry=2"]}, "the agent tries again by itself"),
        ({"options": ["sharecache"]}, "could not take the place of a broken one"),
        ({"options": ["soft"]}, "'soft' loses what programs write when the server pauses"),
        ({"options": ["softerr"]}, "or set read_only: true"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        mount({"driver": "nfs", "source": "server:/export", **changed})
    assert problem in str(refused.value)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostFs:
    """A node with mount.nfs, whose kernel has its client loaded."""
    (tmp_path / "mount.nfs").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hostfs, "MODULES", tmp_path / "modules")
    (tmp_path / "filesystems").write_text("nodev\tproc\nnodev\tnfs4\n")
    return HostFs(proc=tmp_path)


def problem(host: HostFs) -> str:
    return str(Nfs().preflight(nfs(), host) or "")


def test_a_node_that_can(host: HostFs) -> None:
    assert problem(host) == ""


def test_mount_nfs_is_missing(host: HostFs) -> None:
    (host.proc / "mount.nfs").unlink()
    assert problem(host) == "no program mount.nfs; install nfs-common"


def test_the_kernel_has_to_have_a_client_or_its_module(host: HostFs) -> None:
    (host.proc / "filesystems").write_text("nodev\tproc\n\text4\n")
    assert problem(host) == ""  # its modules cannot be seen from here
    modules = host.proc / "modules" / os.uname().release / "kernel/fs"
    modules.mkdir(parents=True)
    assert "has no NFS client, and no module for it" in problem(host)
    (modules / "nfs").mkdir()
    (modules / "nfs/nfs.ko.xz").touch()
    assert problem(host) == ""


def test_it_has_to_be_in_the_nodes_network(host: HostFs) -> None:
    for pid in (os.getpid(), 1):
        (host.proc / str(pid) / "ns").mkdir(parents=True)
        (host.proc / str(pid) / "ns/net").touch()
    assert problem(host) == (
        "this agent has a network of its own: its mounts would hang for ever once its pod is gone; "
        "run it with hostNetwork: true"
    )


class PrivateMounts(LinuxMounts):
    """Remembers what was made private."""

    def __init__(self) -> None:
        super().__init__()
        self.private: list[Path] = []

    def set_propagation(self, target: Path, kind: Propagation, *, recursive: bool = False) -> None:
        assert kind is Propagation.PRIVATE
        self.private.append(target)


class Helper:
    """mount.nfs: fails with one text after the other, then mounts."""

    def __init__(self, *texts: str, timed_out: bool = False) -> None:
        self.texts = list(texts)
        self.timed_out = timed_out
        self.options: list[list[str]] = []

    async def __call__(
        self, argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str]
    ) -> Result:
        assert env["LC_ALL"] == "C"
        assert timeout_s <= 20
        assert tuple(argv[:3]) == ("mount.nfs", "127.0.0.1:/export", str(STAGING))
        self.options.append(argv[4].split(","))
        if not self.texts and not self.timed_out:
            return Result(tuple(argv), 0, "", timed_out=False)
        text = self.texts.pop(0) if self.texts else ""
        code = None if self.timed_out else 32
        return Result(tuple(argv), code, text, timed_out=self.timed_out)


async def staged(
    monkeypatch: pytest.MonkeyPatch, helper: Helper, *options: str, **changed: Any
) -> PrivateMounts:
    monkeypatch.setattr(command, "run", helper)
    mounts = PrivateMounts()
    await Nfs().stage(nfs(*options, **changed), STAGING, mounts, Worker("the server"))
    return mounts


async def test_it_is_mounted_privately(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper()
    assert (await staged(monkeypatch, helper)).private == [STAGING]
    assert len(helper.options) == 1


async def test_a_server_that_takes_low_ports_only_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper("mount.nfs: Operation not permitted\n")
    await staged(monkeypatch, helper)
    first, second = helper.options
    assert "noresvport" in first
    assert "noresvport" not in second
    assert "resvport" in second


async def test_who_asks_for_high_ports_gets_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = "mount.nfs: access denied by server while mounting 127.0.0.1:/export"
    helper = Helper(denied)
    with pytest.raises(Unavailable, match="allow this node's address in the server's export"):
        await staged(monkeypatch, helper, "noresvport")
    assert len(helper.options) == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "mount.nfs: mounting 127.0.0.1:/export failed, reason given by server: "
            "No such file or directory",
            "cannot mount '127.0.0.1:/export': No such file or directory; see the path, and "
            "whether the export allows this node, else NFSv4 hides it",
        ),
        ("mount.nfs: No such device", "modprobe nfsv4"),
        ("mount.nfs: Connection refused", "start the server's NFS service, or name its port"),
        ("mount.nfs: Protocol not supported", "name a version that the server has"),
        ("mount.nfs: an incorrect mount option was specified", "see the names of options"),
        ("mount.nfs: rpc.statd is not running but is required for remote locking.", "nolock"),
        ("something\nquite new\n", "cannot mount '127.0.0.1:/export': quite new"),
        ("", "'mount.nfs' ended with code 32"),
    ],
)
async def test_what_is_said_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    with pytest.raises(Unavailable) as failed:
        await staged(monkeypatch, Helper(said))
    assert told in str(failed.value)


async def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"no answer within 20 s; see whether this node reaches"):
        await staged(monkeypatch, Helper(timed_out=True))


async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unavailable) as failed:
        await staged(monkeypatch, Helper(), source="nfs.example.org:/x")
    assert str(failed.value) == (
        "the server's name 'nfs.example.org' is not known here: Name or service not known; "
        "see the name in source, and this node's DNS"
    )
