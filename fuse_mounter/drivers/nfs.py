# SPDX-License-Identifier: Apache-2.0
"""`nfs`: an export by the kernel's own client. No process serves it.

`hard`: a program waits for a server that is away, as for a slow disk, and loses nothing. `soft`
makes of every pause an error in the middle of somebody's file, and does not even end the waiting
while a server still acknowledges packets.

mount.nfs makes the mount, not we by mount(2): it negotiates the version with the server, finds our
own address for it, and for NFSv3 asks the server's mountd and starts what keeps locks.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from agents import command, hostfs
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.mounts import Mounts, Propagation
from agents.threads import Worker
from fuse_mounter.drivers import needs
from fuse_mounter.drivers.base import KernelDriver, MountBase, Sign
from fuse_mounter.drivers.nfs_sign import Observer

#: `vers=4`: the best of NFSv4 that the server knows, and never NFSv3 by accident. `noresvport`: a
#: connection that was lost is made anew without waiting for its old port. `nosharecache`: two
#: mounts of one export are two file systems, so that one can replace the other when it is broken.
_DEFAULTS = ("vers=4", "hard", "timeo=600", "retrans=2", "noresvport", "nosharecache", "noatime")
_INSTEAD = {
    "soft": "hard",
    "softerr": "hard",
    "resvport": "noresvport",
    "atime": "noatime",
    "relatime": "noatime",
    "nfsvers": "vers",
    **dict.fromkeys(("v2", "v3", "v4", "v4.0", "v4.1", "v4.2"), "vers"),
}
_REFUSED = {
    "ro": "write read_only: true instead",
    "rw": "write read_only: false instead, or nothing",
    "bg": "the agent tries again by itself; leave it out",
    "retry": "the agent tries again by itself; leave it out",
    "sharecache": "a new mount could not take the place of a broken one; leave it out",
}
#: `mount.nfs` tries for minutes by itself; we do that, and tell how it goes.
_ONCE = "retry=0"
_LIMIT_S = 20.0
_RESOLVE_S = 10.0
_EXPORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|\w[\w.-]*):(?P<path>/(?!/).*)")

#: What mount.nfs says (its stropts.c and error.c), and what to do then.
_REMEDIES = (
    ("no such device", "load the kernel's client: modprobe nfsv4 (its modules have to be there)"),
    (
        "no such file",
        "see the path, and whether the export allows this node, else NFSv4 hides it",
    ),
    ("denied", "allow this node's address in the server's export"),
    ("not permitted", "allow this node's address in the server's export"),
    ("refused", "start the server's NFS service, or name its port (port=2049)"),
    ("timed out", "see whether this node reaches the server's port (2049, TCP)"),
    ("no answer", "see whether this node reaches the server's port (2049, TCP)"),
    ("unreachable", "see whether this node reaches the server's port (2049, TCP)"),
    ("no route", "see whether this node reaches the server's port (2049, TCP)"),
    ("not supported", "name a version that the server has, such as vers=4.1 or vers=3"),
    ("incorrect mount option", "see the names of options in nfs(5)"),
    ("invalid argument", "see the names and values of options in nfs(5)"),
    ("rpc.statd", "use vers=4.2, or nolock (then locks hold on this node only)"),
    ("stale", "the export was made anew on the server: export it again"),
)
#: What it says before it comes to the point.
_REPEATED = re.compile(r"^mount\.nfs: (mounting .* failed, reason given by server: )?")
#: Then the server may accept ports below 1024 only, as Linux' own does unless told otherwise.
_DENIED = ("denied", "not permitted")


def _export(source: str) -> str:
    if not source.isprintable() or not _EXPORT.fullmatch(source):
        raise ValueError(
            f"{source!r} is not an export such as nfs.example.org:/export/home or [fd00::1]:/home"
        )
    return source


def _words(options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        if not option or "," in option or not option.isprintable():
            raise ValueError(f"{option!r} is not one option; write a list of them")
        if reason := _REFUSED.get(_key(option)):
            raise ValueError(f"{option!r}: {reason}")
    return options


def _key(option: str) -> str:
    return option.partition("=")[0].strip()


class NfsMount(MountBase):
    """`source`: `host:/export`. `options` as of nfs(5), such as `vers=4.2`, `nconnect=4`,
    `sec=krb5`; what they do not say is said by the defaults.
    """

    driver: Literal["nfs"]
    source: Annotated[str, AfterValidator(_export)]
    options: Annotated[tuple[str, ...], AfterValidator(_words)] = ()

    @model_validator(mode="after")
    def _nothing_gets_lost(self) -> NfsMount:
        soft = {_key(option) for option in self.options} & {"soft", "softerr"}
        if soft and not self.read_only:
            raise ValueError(
                f"{soft.pop()!r} loses what programs write when the server pauses, and does not "
                "even end their waiting while it acknowledges packets; leave it out, or set "
                "read_only: true"
            )
        return self

    @property
    def host(self) -> str:
        match = _EXPORT.fullmatch(self.source)
        assert match is not None
        return match["host"].strip("[]").lower()


def all_options(mount: NfsMount) -> tuple[str, ...]:
    """The defaults as far as nothing contradicts them, then what was asked for."""
    asked = {_key(option) for option in mount.options}
    asked |= {_INSTEAD[name] for name in asked & _INSTEAD.keys()}
    defaults = (one for one in _DEFAULTS if _key(one) not in asked)
    return (*defaults, *mount.options, _ONCE, "ro" if mount.read_only else "rw")


def helper(mount: NfsMount, staging: Path, options: tuple[str, ...]) -> tuple[str, ...]:
    """What makes the mount."""
    return ("mount.nfs", mount.source, str(staging), "-o", ",".join(options))


class Nfs(KernelDriver[NfsMount]):
    """The driver."""

    def __init__(self) -> None:
        self._observer = Observer()

    def preflight(self, mount: NfsMount, host: HostFs) -> AgentError | None:
        return needs.program("mount.nfs", package="nfs-common") or _client(host) or _network(host)

    def server(self, mount: NfsMount) -> str | None:
        return mount.host

    async def stage(self, mount: NfsMount, staging: Path, mounts: Mounts, worker: Worker) -> None:
        await worker.call(lambda: _find(mount.host), timeout_s=_RESOLVE_S)
        problem = ""
        for options in _attempts(mount):
            problem = await _mount(helper(mount, staging, options))
            if not any(word in problem.lower() for word in _DENIED):
                break
        if problem:
            raise Unavailable(
                f"cannot mount {mount.source!r}: {problem}", remedy=_remedy(problem.lower())
            )
        mounts.set_propagation(staging, Propagation.PRIVATE)

    def sign(
        self, mount: NfsMount, device: tuple[int, int], staging: Path, host: HostFs
    ) -> Sign | None:
        return self._observer.sign(staging, host)


def _attempts(mount: NfsMount) -> Iterator[tuple[str, ...]]:
    """The second is for a server that denies the first."""
    options = all_options(mount)
    yield options
    if "noresvport" in options and "noresvport" not in mount.options:
        yield tuple("resvport" if option == "noresvport" else option for option in options)


async def _mount(argv: tuple[str, ...]) -> str:
    """What went wrong; empty: nothing."""
    plain = {**command.own_environment(), "LC_ALL": "C"}  # we look into what it says
    result = await command.run(argv, timeout_s=_LIMIT_S, env=plain)
    if result.ok:
        return ""
    if result.timed_out:
        return f"no answer within {_LIMIT_S:g} s"
    said = [line for line in result.output.splitlines() if line.strip()]
    return _REPEATED.sub("", said[-1]) if said else result.describe()


def _remedy(problem: str) -> str | None:
    return next((remedy for said, remedy in _REMEDIES if said in problem), None)


def _find(name: str) -> None:
    """Raises Unavailable when nobody knows this host. mount.nfs would say nothing of use."""
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(
            f"the server's name {name!r} is not known here: {error.strerror}",
            remedy="see the name in source, and this node's DNS",
        ) from error


def _client(host: HostFs) -> AgentError | None:
    """Mounting loads the kernel's client, if the node has it; its modules may not be seen here."""
    try:
        known = (host.proc / "filesystems").read_text().split()
    except OSError:
        return None
    release = os.uname().release
    modules = hostfs.MODULES / release / "kernel/fs"
    if "nfs4" in known or "nfs" in known or not modules.is_dir():
        return None
    if any(modules.glob("nfs/nfs.ko*")):
        return None
    return Unavailable(
        f"this node's kernel {release} has no NFS client, and no module for it",
        remedy="install the modules that belong to the kernel",
    )


def _network(host: HostFs) -> AgentError | None:
    """The mount belongs to the network of whoever made it, and hangs when that is gone."""
    if needs.of_the_node("net", host):
        return None
    return Unavailable(
        "this agent has a network of its own: its mounts would hang for ever once its pod is gone",
        remedy="run it with hostNetwork: true",
    )
