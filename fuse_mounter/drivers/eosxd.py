# SPDX-License-Identifier: Apache-2.0
"""`eosxd`: an EOS instance by its FUSE client, with the identity of whoever asks.

The client reads `<directory>/fuse.<instance>.conf`, picked by `-ofsname=<instance>`. It is started
on a private place: on the one that pods see it would unmount a dead predecessor itself, and lose
them. What it is told is in `eosxd_config`, what it tells in `eosxd_statistics`.
"""

from __future__ import annotations

import time
from pathlib import Path

from agents import hostfs
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from fuse_mounter.drivers import eosxd_statistics, needs
from fuse_mounter.drivers.base import ClientDriver, Launch, Sign, host_of, private_name
from fuse_mounter.drivers.eosxd_config import (
    DEFAULT_DESCRIPTORS,
    DEFAULT_FLUSH_S,
    EosxdMount,
    configuration,
    own_directories,
    server_of,
    statistics_file,
)
from fuse_mounter.drivers.reach import Reach

_PACKAGE = "eos-fusex of CERN (it is not in Debian)"
#: Beside what it may take to send what it still holds.
_END_S = 10.0
#: After a connection is back, its client mends what was open for about so long.
_RECOVERY_S = 15.0


class Eosxd(ClientDriver[EosxdMount]):
    """The driver."""

    caches = hostfs.EOS_CACHES

    def __init__(self) -> None:
        self._reach = Reach()

    def preflight(self, mount: EosxdMount, host: HostFs) -> AgentError | None:
        key = mount.credentials.encryption_key
        return (
            needs.fuse(host)
            or needs.program("eosxd3", "eosxd", package=_PACKAGE)
            or _helper()
            or _keytab(mount)
            or (needs.secret(key, "credentials.encryption_key") if key else None)
            or _descriptors(mount, host)
            or _namespaces(mount, host)
            or _locks(host)
            or self._unreachable(mount)
        )

    def _unreachable(self, mount: EosxdMount) -> AgentError | None:
        """Its second port (1100) is for what the server tells unasked: without it the statistics
        show no heartbeat."""
        host, port = server_of(mount)
        problem = self._reach.problem(host, port)
        if problem is None:
            return None
        return Unavailable(
            f"{host} port {port} cannot be reached: {problem}",
            remedy="look at options.mgm, the name service and firewalls (ports 1094 and 1100); it "
            "is tried again all the time",
        )

    def server(self, mount: EosxdMount) -> str | None:
        return host_of(mount.options.mgm)

    def recovery_window_s(self, mount: EosxdMount) -> float:
        # Its connection may be tried for so long, and its own recovery of open files follows.
        return mount.client_seconds("xrdcl", "ConnectionWindow", 120.0) + _RECOVERY_S

    def launch(self, mount: EosxdMount, staging: Path, host: HostFs) -> Launch:
        key = mount.credentials.encryption_key
        text = configuration(mount, staging, key.read_text().strip() if key else None)
        program, instance = needs.which("eosxd3", "eosxd"), private_name(staging)
        return Launch(
            (program, f"-ofsname={instance}", "-f", str(staging)),
            # One log for all clients of this mount: by itself it would begin one for each.
            {"EOS_FUSE_LOGFILE": str(hostfs.EOS_LOGS / f"nodeshare.{mount.name}.log")},
            {_configuration_file(staging): text},
            (*own_directories(staging), hostfs.EOS_LOGS),
            end_limit_s=_END_S
            + mount.client_seconds("options", "flush-wait-umount", DEFAULT_FLUSH_S),
        )

    def written(self, staging: Path) -> tuple[Path, ...]:
        statistics = statistics_file(staging)
        return _configuration_file(staging), statistics, _json(statistics)

    def sign(
        self, mount: EosxdMount, device: tuple[int, int], staging: Path, host: HostFs
    ) -> Sign | None:
        file = _json(statistics_file(staging))
        age = max(0.0, time.time() - file.stat().st_mtime)
        return eosxd_statistics.sign(file.read_text(errors="replace"), age)


def _configuration_file(staging: Path) -> Path:
    return hostfs.EOS_CONFIGURATION / f"fuse.{private_name(staging)}.conf"


def _json(statistics: Path) -> Path:
    return statistics.with_name(f"{statistics.name}.json")


def _helper() -> AgentError | None:
    """Each of its builds insists on its own, even as root."""
    if needs.which("eosxd3", "eosxd") == "eosxd3":
        return needs.helper(hostfs.FUSE3_HELPER, package="fuse3")
    return needs.helper(hostfs.FUSE2_HELPER, package="fuse3, or fuse of libfuse 2")


def _keytab(mount: EosxdMount) -> AgentError | None:
    """One that is named and missing makes every login fail later. A default one that is missing
    turns off `sss` and `oauth2`, with a mere warning.
    """
    if mount.credentials.sss_keytab is not None:
        return needs.secret(mount.credentials.sss_keytab, "credentials.sss_keytab")
    wanted = [name for name in ("sss", "oauth2") if mount.uses(name)]
    if not wanted:
        return None
    if hostfs.EOS_KEYTAB.exists():
        return needs.secret(hostfs.EOS_KEYTAB, "the default keytab")
    return Unavailable(
        f"{str(hostfs.EOS_KEYTAB)!r} is missing: eosxd would turn off {' and '.join(wanted)}, and "
        "everybody would be nobody",
        remedy="name a keytab in credentials.sss_keytab, or set sss and oauth2 to 0 in "
        "options.client.auth",
    )


def _descriptors(mount: EosxdMount, host: HostFs) -> AgentError | None:
    """As root it raises its own limit, as far as the kernel lets anybody go."""
    wanted = mount.client_key("options", "fd-limit", DEFAULT_DESCRIPTORS)
    try:
        most = int((host.proc / "sys/fs/nr_open").read_text())
    except (OSError, ValueError):
        return None
    if wanted <= most:
        return None
    return Unavailable(
        f"eosxd wants {wanted} file descriptors, and fs.nr_open allows {most}",
        remedy=f"sysctl -w fs.nr_open={wanted}, or a smaller options.client.options.fd-limit",
    )


def _namespaces(mount: EosxdMount, host: HostFs) -> AgentError | None:
    """The client looks into the calling process: it has to see all of the node's processes. And a
    shared key is good for the address that it was first used from: the node's.
    """
    if not needs.of_the_node("pid", host):
        return Unavailable(
            "this agent has a pid namespace of its own: eosxd would not see who asks, nor his "
            "token",
            remedy="run it, and its holder, with hostPID: true",
        )
    if (mount.uses("sss") or mount.uses("oauth2")) and not needs.of_the_node("net", host):
        return Unavailable(
            "this agent has a network of its own: EOS would refuse its key for an address that "
            "is not the node's",
            remedy="run it, and its holder, with hostNetwork: true",
        )
    return None


def _locks(host: HostFs) -> AgentError | None:
    """Two pods that overlap in an update know of each other's clients by locks in here."""
    theirs = host.proc / "1/root"
    try:
        if theirs.samefile("/") or (theirs / str(hostfs.EOS_LOCKS)[1:]).samefile(hostfs.EOS_LOCKS):
            return None
    except FileNotFoundError:
        pass
    except OSError:
        return None
    return Unavailable(
        f"{str(hostfs.EOS_LOCKS)!r} is not the node's: another eosxd would not see our locks",
        remedy=f"give the agent, and its holder, the node's {str(hostfs.EOS_LOCKS)!r} (hostPath, "
        "type DirectoryOrCreate)",
    )
