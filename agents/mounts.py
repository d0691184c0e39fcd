# SPDX-License-Identifier: Apache-2.0
"""Mount system calls, in one file, and which of them this kernel has (found by trying).

Knows descriptors and paths, nothing of what is mounted. Every call raises OSError with the kernel's
errno. `setns` is not here: it needs a single-threaded process (`agents.namespaces`).

Kernel floors: open_tree, move_mount 5.2; mount_setattr 5.12; MOVE_MOUNT_BENEATH 6.5. The numbers
428, 429 and 442 are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
_MOVE_MOUNT_BENEATH = 0x200
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8


class MountFlag(enum.IntFlag):
    """Flags of mount(2)."""

    NONE = 0
    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    NOATIME = 1024
    BIND = 4096
    REC = 16384


class Propagation(enum.IntEnum):
    """Propagation types; the values are those of mount(2) and mount_setattr(2)."""

    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20


class MountAttribute(enum.IntFlag):
    """Attributes of mount_setattr(2)."""

    NONE = 0
    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8


#: A view or status file in a container: nothing can be written, executed or escalated through it.
INERT = MountAttribute.RDONLY | MountAttribute.NOSUID | MountAttribute.NODEV | MountAttribute.NOEXEC


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


@dataclass(frozen=True, slots=True)
class MountFeatures:
    """What this kernel (and our privileges) allow."""

    open_tree: bool
    mount_setattr: bool
    beneath: bool


class Mounts(Protocol):
    """The mount table, as a seam. Paths are absolute; descriptors are closed by whoever opened
    them.
    """

    def features(self) -> MountFeatures: ...

    def mount(
        self,
        source: str,
        target: Path,
        fstype: str,
        flags: MountFlag = MountFlag.NONE,
        data: str = "",
    ) -> None:
        """mount(2)."""

    def bind(self, source: Path, target: Path, *, recursive: bool = False) -> None:
        """Make `source` visible at `target` too."""

    def unmount(self, target: Path, *, detach: bool = False, force: bool = False) -> None:
        """Take away the topmost mount at `target`; `detach` is lazy: at once for new openers."""

    def set_propagation(
        self, target: Path, kind: Propagation, *, recursive: bool = False
    ) -> None: ...

    def clone(self, path: Path, *, recursive: bool = False) -> int:
        """A detached copy of the mount at (or of the file or directory) `path`, as a descriptor."""

    def clone_of(self, place: int, *, recursive: bool = False) -> int:
        """The same of an open file or directory; what is mounted on top of it is left out."""

    def set_attributes(
        self,
        mount: int,
        attributes: MountAttribute,
        *,
        propagation: Propagation | None = None,
        recursive: bool = False,
    ) -> None:
        """Add attributes to a detached mount; `propagation` None leaves it as it is."""

    def attach(self, mount: int, target: Path, *, beneath: bool = False) -> None:
        """Attach a detached mount at `target`: on top, or under the present top (kernel 6.5)."""

    def attach_to(self, mount: int, place: int) -> None:
        """Attach a detached mount on top of an open file or directory (and of what covers it)."""


def set_label(path: Path, label: str | None) -> None:
    """Put this SELinux context on a file or directory; None leaves it as it is. What is made in a
    directory takes its type from there. Raises OSError where the file system keeps no labels.
    """
    if label is not None:
        os.setxattr(path, "security.selinux", label.encode() + b"\0", follow_symlinks=False)


class LinuxMounts:
    """The kernel's. `label`: the SELinux context of each tmpfs that is mounted, so that confined
    containers may read what is written there; None: what the policy of the node gives.
    """

    def __init__(self, label: str | None = None) -> None:
        self._label = label
        self._libc = ctypes.CDLL(None, use_errno=True)

    def features(self) -> MountFeatures:
        return MountFeatures(
            open_tree=self._has(_SYS_OPEN_TREE, -1, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH),
            mount_setattr=self._has(
                _SYS_MOUNT_SETATTR, -1, b"", _AT_EMPTY_PATH, ctypes.byref(_MountAttr(1)), 32
            ),
            beneath=self._has(
                _SYS_MOVE_MOUNT,
                -1,
                b"",
                -1,
                b"",
                _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH | _MOVE_MOUNT_BENEATH,
            ),
        )

    def mount(
        self,
        source: str,
        target: Path,
        fstype: str,
        flags: MountFlag = MountFlag.NONE,
        data: str = "",
    ) -> None:
        self._mount(source.encode(), target, fstype.encode(), int(flags), data.encode())
        if fstype == "tmpfs" and not flags & MountFlag.REMOUNT:
            set_label(target, self._label)

    def bind(self, source: Path, target: Path, *, recursive: bool = False) -> None:
        flags = MountFlag.BIND | (MountFlag.REC if recursive else MountFlag.NONE)
        self._mount(os.fsencode(source), target, None, int(flags), None)

    def unmount(self, target: Path, *, detach: bool = False, force: bool = False) -> None:
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0) | (_MNT_FORCE if force else 0)
        self._checked(self._libc.umount2(os.fsencode(target), flags), target)

    def set_propagation(self, target: Path, kind: Propagation, *, recursive: bool = False) -> None:
        flags = int(kind) | (int(MountFlag.REC) if recursive else 0)
        self._mount(None, target, None, flags, None)

    def clone(self, path: Path, *, recursive: bool = False) -> int:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
        return self._syscall(path, _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)

    def clone_of(self, place: int, *, recursive: bool = False) -> int:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
        return self._syscall(place, _SYS_OPEN_TREE, place, b"", flags | _AT_EMPTY_PATH)

    def set_attributes(
        self,
        mount: int,
        attributes: MountAttribute,
        *,
        propagation: Propagation | None = None,
        recursive: bool = False,
    ) -> None:
        attr = _MountAttr(int(attributes), 0, int(propagation or 0), 0)
        flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
        size = ctypes.sizeof(attr)
        self._syscall(mount, _SYS_MOUNT_SETATTR, mount, b"", flags, ctypes.byref(attr), size)

    def attach(self, mount: int, target: Path, *, beneath: bool = False) -> None:
        flags = _MOVE_MOUNT_F_EMPTY_PATH | (_MOVE_MOUNT_BENEATH if beneath else 0)
        path = os.fsencode(target)
        self._syscall(target, _SYS_MOVE_MOUNT, mount, b"", _AT_FDCWD, path, flags)

    def attach_to(self, mount: int, place: int) -> None:
        flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
        self._syscall(place, _SYS_MOVE_MOUNT, mount, b"", place, b"", flags)

    def _mount(
        self,
        source: bytes | None,
        target: Path,
        fstype: bytes | None,
        flags: int,
        data: bytes | None,
    ) -> None:
        path = os.fsencode(target)
        result = self._libc.mount(source, path, fstype, ctypes.c_ulong(flags), data)
        self._checked(result, target)

    def _syscall(self, what: object, number: int, *arguments: object) -> int:
        result = self._raw(number, *arguments)
        self._checked(result, what)
        return result

    def _raw(self, number: int, *arguments: object) -> int:
        # libc.syscall is variadic: every integer must be passed as a full register.
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        return int(self._libc.syscall(ctypes.c_long(number), *wide))

    def _has(self, number: int, *arguments: object) -> bool:
        # With a bad descriptor a kernel that knows call and flags answers EBADF before it does
        # anything; an older one ENOSYS or EINVAL, a missing capability EPERM.
        return self._raw(number, *arguments) < 0 and ctypes.get_errno() == errno.EBADF

    @staticmethod
    def _checked(result: int, what: object) -> None:
        if result < 0:
            number = ctypes.get_errno()
            name = str(what) if isinstance(what, Path) else None
            raise OSError(number, os.strerror(number), name)
