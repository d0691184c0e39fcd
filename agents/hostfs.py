# SPDX-License-Identifier: Apache-2.0
"""Every path of the host, in one place: as prefixes, so that a recorded tree or another root works.

No other module may write a host path literal. Knows no file's content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")
DEV = Path("/dev")
CGROUP = Path("/sys/fs/cgroup")
STATE_DIR = Path("/var/lib/nodeshare")
RUN_DIR = Path("/run/nodeshare")
KUBELET_DIR = Path("/var/lib/kubelet")
CRI_SOCKET = Path("/run/containerd/containerd.sock")
#: Everything that the demonstration of `nodeshare up` makes is below this directory.
DEMONSTRATION_DIR = Path("/run/nodeshare/demo")
#: The userland that stand-in containers borrow, read-only: directories (or links, on a merged-usr
#: host), and what in /etc a program needs to start and to name its user.
USERLAND = tuple(Path(p) for p in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"))
USERLAND_SETTINGS = tuple(
    Path("/etc", name)
    for name in ("alternatives", "group", "ld.so.cache", "nsswitch.conf", "passwd", "ssl/certs")
)

#: Where EOS' client looks for its configuration, its keys, and the helper that it insists on; where
#: it has its locks, and where our clients of it have their caches and logs.
EOS_CONFIGURATION = Path("/etc/eos")
EOS_KEYTAB = Path("/etc/eos/fuse.sss.keytab")
EOS_LOCKS = Path("/run/eos")
EOS_CACHES = Path("/var/cache/eos/fusex/nodeshare")
EOS_LOGS = Path("/var/log/eos/fusex")
#: Where clients keep what they have read, and what they have not yet written to their server.
CACHES = Path("/var/cache/nodeshare")
FUSE3_HELPER, FUSE2_HELPER = Path("/bin/fusermount3"), Path("/bin/fusermount")

#: What a kernel says of itself, for a support bundle.
KERNEL_FACTS = tuple(
    Path(p)
    for p in (
        "/proc/version",
        "/proc/cmdline",
        "/proc/filesystems",
        "/proc/modules",
        "/proc/cgroups",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/pressure/memory",
        "/proc/pressure/io",
        "/proc/driver/nvidia/version",
        "/proc/sys/kernel/seccomp/actions_avail",
        "/proc/sys/kernel/pid_max",
        "/proc/sys/fs/inotify/max_user_instances",
        "/proc/sys/fs/inotify/max_user_watches",
        "/proc/sys/fs/file-nr",
        "/sys/kernel/security/lsm",
        "/sys/fs/selinux/enforce",
        "/sys/fs/cgroup/cgroup.controllers",
    )
)
OS_RELEASE = Path("/etc/os-release")

#: The kernel's modules, by release.
MODULES = Path("/lib/modules")

#: A longer path cannot be a socket: sun_path of unix(7) holds 108 bytes with its final zero.
SOCKET_PATH_BYTES = 107

# Inside a container (not host paths, but part of the same contract with users).
CONTAINER_GPU_DIR = "/run/nodeshare/gpu"
CONTAINER_ALLOCATIONS_DIR = "/run/nodeshare/allocations"
#: NVIDIA's container toolkit takes the names of mounts below it for a list of devices.
CONTAINER_DEVICE_LIST_DIR = "/var/run/nvidia-container-devices"


def seccomp_socket(run_dir: Path) -> Path:
    """The `listenerPath` of seccomp profiles: where OCI runtimes connect with the descriptors by
    which calls of containers are answered. It is the holder's (`agents.holder_runtimes`).
    """
    return run_dir / "seccomp.sock"


@dataclass(frozen=True, slots=True)
class HostFs:
    """Prefixes under which the host's kernel file systems are found (a DaemonSet mounts them
    elsewhere).
    """

    proc: Path = PROC
    sys: Path = SYS
    dev: Path = DEV
    cgroup: Path = CGROUP

    def of_pid(self, pid: int, *parts: str) -> Path:
        """`/proc/<pid>/…` of the host."""
        return self.proc.joinpath(str(pid), *parts)

    def located(self, path: Path) -> Path:
        """Where a path below /proc or /sys is found here."""
        if path.is_relative_to(PROC):
            return self.proc / path.relative_to(PROC)
        return self.sys / path.relative_to(SYS)

    @property
    def fuse_device(self) -> Path:
        return self.dev / "fuse"

    @property
    def fuse_connections(self) -> Path:
        """fusectl: one directory per FUSE connection, named by the minor of its st_dev."""
        return self.sys / "fs/fuse/connections"

    @property
    def fuse_request_timeout(self) -> Path:
        """Seconds after which the kernel gives up a FUSE request, and its connection; 0: never."""
        return self.proc / "sys/fs/fuse/default_request_timeout"

    @property
    def cpu_devices(self) -> Path:
        return self.sys / "devices/system/cpu"

    def gpu_capabilities(self, minor: int) -> Path:
        """Where NVIDIA's driver says which device nodes open a slice of `/dev/nvidia<minor>`."""
        return self.proc / f"driver/nvidia/capabilities/gpu{minor}"

    @property
    def pci_devices(self) -> Path:
        """One directory per PCI device, named as in `0000:3b:00.0`."""
        return self.sys / "bus/pci/devices"
