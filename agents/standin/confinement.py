# SPDX-License-Identifier: Apache-2.0
"""The system calls that turn a process into a container's: namespaces, a new root, less privilege.

For single-threaded programs of the stand-in alone. Every call raises OSError with the kernel's
errno. Knows no container.
"""

from __future__ import annotations

import ctypes
import enum
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

#: What containerd leaves to a container's root (capabilities(7)), less CAP_MKNOD: nothing here
#: guards the host's devices on cgroup v2, so no container may make a node of one.
KEPT_CAPABILITIES = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        13,  # NET_RAW
        18,  # SYS_CHROOT
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace(enum.IntFlag):
    """Kinds of namespaces, as unshare(2) and setns(2) number them."""

    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    PID = 0x20000000


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def unshare(kinds: Namespace) -> None:
    """Leave these namespaces for new ones (PID: the next child does)."""
    _checked(_libc.unshare(ctypes.c_int(kinds)))


def enter(pidfd: int, kinds: Namespace) -> None:
    """Join these namespaces of the process behind a pidfd (kernel 5.8)."""
    _checked(_libc.setns(ctypes.c_int(pidfd), ctypes.c_int(kinds)))


def set_hostname(name: str) -> None:
    """Of our UTS namespace; at most 64 bytes."""
    raw = name.encode()[:64]
    _checked(_libc.sethostname(raw, ctypes.c_size_t(len(raw))))


def pivot_root(new_root: Path) -> int:
    """Make a mount point our root; answers a descriptor of the old one, which lies over the new one
    until it is unmounted."""
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(new_root)
    _checked(_libc.pivot_root(b".", b"."))
    os.chdir("/")
    return old


def open_members(cgroup: Path) -> int:
    """The list of members of a cgroup, to be joined later, when its path may be out of sight."""
    return os.open(cgroup / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def join(members: Sequence[int]) -> None:
    """Move ourselves into these cgroups, and close their descriptors."""
    for descriptor in members:
        os.write(descriptor, b"0")  # 0 is the writer, in whatever pid namespace it is
        os.close(descriptor)


def die_with_parent() -> None:
    """SIGKILL for us when the thread that made us ends."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def drop_privileges() -> None:
    """Keep the capabilities of a container's root, and never gain others by executing a program."""
    for number in range(_LAST_CAPABILITY + 1):
        if number not in KEPT_CAPABILITIES and _libc.prctl(*_wide(_PR_CAPBSET_DROP, number)) < 0:
            break  # EINVAL: this kernel has no more capabilities
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    kept = sum(1 << number for number in KEPT_CAPABILITIES)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)(
        _CapabilityData(kept & 0xFFFFFFFF, kept & 0xFFFFFFFF, 0),
        _CapabilityData(kept >> 32, kept >> 32, 0),
    )
    _checked(_libc.capset(ctypes.byref(header), data))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def find_program(name: str, env: Mapping[str, str]) -> str:
    """The path of a command, as the container sees it. Raises OSError as runc words it.

    FileNotFoundError for a name that is nowhere in PATH, PermissionError for a file that cannot be
    executed.
    """
    places: Sequence[str] = [name]
    if "/" not in name:
        places = [f"{place}/{name}" for place in env.get("PATH", "").split(":")]
    found = [place for place in places if os.path.isfile(place)]  # noqa: PTH113
    for place in found:
        if os.access(place, os.X_OK):
            return place
    if found:
        raise PermissionError(f'exec: "{name}": permission denied')
    if "/" in name:
        raise FileNotFoundError(f'exec: "{name}": stat {name}: no such file or directory')
    raise FileNotFoundError(f'exec: "{name}": executable file not found in $PATH')


def execute(program: str, argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Become the program, with the interpreter's two changed signals put back.

    A container whose program turns out not to be executable has started all the same: it ends with
    code 1 and one line of output, as under runc.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(program, list(argv), dict(env))  # noqa: S606 -- this is what a container is
    except OSError as error:
        os.write(2, f"exec {program}: {(error.strerror or '').lower()}\n".encode())
    os._exit(1)


def _prctl(option: int, argument: int) -> None:
    _checked(_libc.prctl(*_wide(option, argument)))


def _wide(option: int, argument: int) -> list[Any]:
    # prctl is variadic: every argument must be a full register, and the unused ones zero.
    return [ctypes.c_int(option), *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0))]


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
