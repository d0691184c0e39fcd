# SPDX-License-Identifier: Apache-2.0
"""The root file system of a container: the host's userland read-only, and everything else its own.

Works in a mount namespace that is ours alone. What comes from the host is looked up and cloned
while the host is in sight, and attached after the root has changed: a path of the container can
then only lead to a place in the container, whatever links lie on the way. Knows no pod.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agents import hostfs, mountinfo
from agents.errors import AgentError
from agents.mounts import INERT, LinuxMounts, MountAttribute, MountFlag, Propagation
from agents.standin import confinement
from agents.standin.launch import Busybox, Launch
from agents.standin.pods import DeviceNode, Volume, VolumePropagation

# Paths below, up to the classes, are those that a container sees.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
_OWN_DIRECTORIES = {"/etc": 0o755, "/root": 0o700, "/run": 0o755, "/tmp": 0o1777}  # noqa: S108
# As under runc: what tells too much about the host, and what would change it.
_MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_CGROUP = Path("/sys/fs/cgroup")

_QUIET = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
_BORROWED = MountAttribute.RDONLY | MountAttribute.NOSUID | MountAttribute.NODEV


@dataclass(frozen=True, slots=True)
class _Part:
    """A detached mount, and where the container is to see it."""

    mount: int
    target: Path


@dataclass(frozen=True, slots=True)
class _Bind:
    """A volume whose host path was resolved while the host was in sight."""

    volume: Volume
    source: Path
    directory: bool


class RootBuilder:
    """Builds one container's root; the steps are called in the order in which they stand here."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._mounts = LinuxMounts()
        self._parts: list[_Part] = []
        self._binds: list[_Bind] = []
        self._cgroups: list[_Part] = []
        self._links: dict[Path, Path] = {}
        self._old_root = -1

    def gather(self) -> None:
        """Take what comes from the host. Raises AgentError for a refused volume or device."""
        host = self._launch.host
        if self._launch.busybox is None:
            self._gather_userland()
        else:
            self._parts.append(
                self._clone(self._launch.busybox.binary, Path("/bin/busybox"), _BORROWED)
            )
        for name in _DEVICES:
            self._parts.append(self._clone(host.dev / name, Path("/dev", name)))
        for device in self._launch.devices:
            _require_device(device)
            self._parts.append(self._clone(device.host_path, Path(device.container_path)))
        for volume in sorted(self._launch.volumes, key=lambda volume: volume.container_path):
            self._gather_volume(host.proc, volume)
        for cgroup in self._launch.cgroups:
            target = _CGROUP / cgroup.shown_as
            self._cgroups.append(self._clone(cgroup.directory, target, INERT))

    def enter(self) -> None:
        """Change the root to an empty file system; the old one stays within reach."""
        # Nothing that we mount or unmount from here on may be seen by the host.
        self._mounts.set_propagation(Path("/"), Propagation.SLAVE, recursive=True)
        root = self._launch.root
        self._mounts.mount("nodeshare", root, "tmpfs", MountFlag.NODEV, "mode=755,size=256m")
        self._old_root = confinement.pivot_root(root)

    def furnish(self) -> None:
        """Fill the new root, and let go of the old one."""
        self._mount_kernel_filesystems()
        for name, mode in _OWN_DIRECTORIES.items():
            Path(name).mkdir()
            Path(name).chmod(mode)
        for link, target in self._links.items():
            link.symlink_to(target)
        for part in self._parts:
            self._attach(part)
        self._write_settings()
        if self._launch.busybox is not None:
            _install(self._launch.busybox)
        for bind in self._binds:
            self._bind(bind)
        os.fchdir(self._old_root)
        self._mounts.unmount(Path(), detach=True)
        os.close(self._old_root)
        os.chdir("/")

    def seal(self) -> None:
        """Show the cgroups, once we are in their namespace, and hide what is not for containers."""
        if any(cgroup.shown_as for cgroup in self._launch.cgroups):
            self._mounts.mount("cgroup", _CGROUP, "tmpfs", _QUIET, "mode=755,size=64k")
        for part in self._cgroups:
            self._attach(part)
        for path in _existing(_READ_ONLY):
            self._attach(self._clone(path, path, MountAttribute.RDONLY))
        for path in _existing(_MASKED):
            if path.is_dir():
                self._mounts.mount("tmpfs", path, "tmpfs", _QUIET | MountFlag.RDONLY)
            else:
                self._attach(self._clone(Path("/dev/null"), path, MountAttribute.RDONLY))

    def _gather_userland(self) -> None:
        for path in hostfs.USERLAND:
            if path.is_symlink():
                self._links[path] = path.readlink()
            elif path.is_dir():
                self._parts.append(self._clone(path, path, _BORROWED))
        for path in hostfs.USERLAND_SETTINGS:
            if path.exists():
                self._parts.append(self._clone(path, path, _BORROWED))

    def _gather_volume(self, proc: Path, volume: Volume) -> None:
        # A missing host path becomes an empty directory, as containerd has it.
        source = Path(os.path.realpath(volume.host_path))
        if not os.path.lexists(source):
            source.mkdir(mode=0o755, parents=True)
        _require_propagation(proc, source, volume)
        if volume.propagation is VolumePropagation.BIDIRECTIONAL:
            # Only now is a clone a peer of the host's mount; later it would be its slave.
            mount = self._mounts.clone(source, recursive=True)
            self._parts.append(_Part(mount, Path(volume.container_path)))
            if volume.read_only:
                self._mounts.set_attributes(mount, MountAttribute.RDONLY)
        else:
            self._binds.append(_Bind(volume, source, source.is_dir()))

    def _clone(
        self, source: Path, target: Path, attributes: MountAttribute = MountAttribute.NONE
    ) -> _Part:
        mount = self._mounts.clone(source, recursive=True)
        self._mounts.set_attributes(
            mount, attributes, propagation=Propagation.PRIVATE, recursive=True
        )
        return _Part(mount, target)

    def _mount_kernel_filesystems(self) -> None:
        proc, sys, dev = Path("/proc"), Path("/sys"), Path("/dev")
        for path in (proc, sys, dev):
            path.mkdir()
        self._mounts.mount("proc", proc, "proc", _QUIET)
        self._mounts.mount("sysfs", sys, "sysfs", _QUIET | MountFlag.RDONLY)
        flags = MountFlag.NOSUID | MountFlag.NOEXEC
        self._mounts.mount("tmpfs", dev, "tmpfs", flags, "mode=755,size=64k")
        for name in ("pts", "shm"):
            (dev / name).mkdir()
        options = "newinstance,ptmxmode=0666,mode=0620,gid=5"
        self._mounts.mount("devpts", dev / "pts", "devpts", flags, options)
        self._mounts.mount("shm", dev / "shm", "tmpfs", _QUIET, "mode=1777,size=64m")
        for name, target in _DEVICE_LINKS.items():
            (dev / name).symlink_to(target)

    def _attach(self, part: _Part) -> None:
        is_directory = stat.S_ISDIR(os.fstat(part.mount).st_mode)
        self._mounts.attach(part.mount, _make_target(part.target, directory=is_directory))
        os.close(part.mount)

    def _bind(self, bind: _Bind) -> None:
        """Bind from the old root, in one step of the kernel: no mount that the host makes meanwhile
        is missed. By now all mounts here are slaves, so the new one is too, until made private."""
        target = _make_target(Path(bind.volume.container_path), directory=bind.directory)
        source = Path(f"/proc/self/fd/{self._old_root}", bind.source.relative_to("/"))
        self._mounts.bind(source, target, recursive=True)
        if bind.volume.propagation is VolumePropagation.NONE:
            self._mounts.set_propagation(target, Propagation.PRIVATE, recursive=True)
        if bind.volume.read_only:
            mount = os.open(target, os.O_PATH)
            self._mounts.set_attributes(mount, MountAttribute.RDONLY)
            os.close(mount)

    def _write_settings(self) -> None:
        name = self._launch.hostname
        Path("/etc/hostname").write_text(f"{name}\n")
        Path("/etc/hosts").write_text(f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n")


def _existing(names: tuple[str, ...]) -> list[Path]:
    return [Path(name) for name in names if os.path.lexists(name)]


def _make_target(wanted: Path, *, directory: bool) -> Path:
    """Where a container path leads, in the container's own root, made if need be."""
    target = Path(os.path.realpath(wanted))
    if directory:
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    return target


def _install(busybox: Busybox) -> None:
    for applet in busybox.applets:
        link = Path("/bin", applet)
        if applet != "busybox" and not os.path.lexists(link):
            link.symlink_to("busybox")


def _require_device(device: DeviceNode) -> None:
    path = device.host_path
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise AgentError(f"lstat {path}: no such file or directory") from None
    if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        raise AgentError(f"{path}: not a device node")


def _require_propagation(proc: Path, source: Path, volume: Volume) -> None:
    """Refuse what the kernel would quietly not do, in the words of containerd."""
    if volume.propagation is VolumePropagation.NONE:
        return
    mount = mountinfo.covering(mountinfo.read(proc), source)
    if mount is None or mount.shared is not None:
        return
    if volume.propagation is VolumePropagation.BIDIRECTIONAL:
        wanted = "a shared mount"
    elif mount.master is None:
        wanted = "a shared or slave mount"
    else:
        return
    raise AgentError(
        f'path "{volume.host_path}" is mounted on "{mount.mount_point}" but it is not {wanted}'
    )
