# SPDX-License-Identifier: Apache-2.0
"""The threads of a container as the host numbers them, and where each may run. Reads only; knows no
limit.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from itertools import chain, islice

from agents.cgroup_formats import parse_cpu_list
from agents.errors import Unavailable
from agents.hostfs import HostFs
from lxcfs_helper.affinity.answers import Masks
from lxcfs_helper.affinity.syscalls import ABIS, Call

#: NS_GET_PID_FROM_PIDNS of include/uapi/linux/nsfs.h, from Linux 6.11.
_FROM_NAMESPACE = 0x8004B706
#: Before, threads are looked at one by one, and not more of them than this.
_MOST_LOOKED_AT = 512
#: Sets of CPUs are read into this: more than any kernel has.
_MASK_BYTES = 8192

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class Affinities:
    """Asks the kernel where threads may run. For one thread at a time. Raises Unavailable on a
    machine whose system calls we have no table of."""

    def __init__(self, host: HostFs) -> None:
        self._number = ctypes.c_long(_own_number())
        self._buffer = ctypes.create_string_buffer(_MASK_BYTES)
        try:
            possible = parse_cpu_list((host.cpu_devices / "possible").read_text())
        except (OSError, ValueError) as error:
            raise Unavailable(f"cannot tell which CPUs are possible: {error}") from error
        size = self._ask(0)
        if not possible or size is None:
            raise Unavailable("the kernel does not tell its own affinity")
        self.masks = Masks(max(possible) + 1, size)

    def of(self, thread: int) -> int | None:
        """The CPUs on which it may run, a bit for each; None: it is gone."""
        size = self._ask(thread)
        return None if size is None else int.from_bytes(self._buffer.raw[:size], "little")

    def _ask(self, thread: int) -> int | None:
        size: int = _syscall(
            self._number,
            ctypes.c_int(thread),
            ctypes.c_uint(_MASK_BYTES),
            ctypes.byref(self._buffer),
        )
        return size if size > 0 else None


def _own_number() -> int:
    machine = os.uname().machine
    for abi in ABIS.values():
        if abi.name == machine:
            return next(n for n, call in abi.calls.items() if call is Call.SCHED_GETAFFINITY)
    raise Unavailable(f"system calls of {machine} processors are not known here")


def meant(
    host: HostFs, caller: int, number: int, siblings: Callable[[], Iterable[int]]
) -> int | None:
    """The thread that a caller means by this number, which counts in its own pid namespace; None:
    nobody is found. `siblings` are all threads of the container, looked at on old kernels."""
    if number == 0:
        return caller
    if number < 0:
        return None
    try:
        # A third of what the same costs with `Path`, and libgomp asks so.
        namespace = os.open(f"{host.proc}/{caller}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return fcntl.ioctl(namespace, _FROM_NAMESPACE, number)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            return None
    finally:
        os.close(namespace)
    return _search(host, caller, number, siblings)


def _search(
    host: HostFs, caller: int, number: int, siblings: Callable[[], Iterable[int]]
) -> int | None:
    """By what each thread is called in its own namespace, which is the caller's or below it."""
    names = _names(host, caller)
    if names is None:
        return None
    everybody = chain([caller], _tasks(host, caller), siblings())
    for thread in islice(dict.fromkeys(everybody), _MOST_LOOKED_AT):
        theirs = _names(host, thread)
        if theirs is not None and len(theirs) >= len(names) and theirs[len(names) - 1] == number:
            return thread
    return None


def _tasks(host: HostFs, thread: int) -> Iterable[int]:
    try:
        return map(int, os.listdir(host.of_pid(thread, "task")))
    except OSError:
        return ()


def _names(host: HostFs, thread: int) -> tuple[int, ...] | None:
    """The thread's numbers, from our pid namespace down to its own; None: it is gone."""
    try:
        status = host.of_pid(thread, "status").read_bytes()
    except OSError:
        return None
    line = status.partition(b"\nNSpid:")[2].partition(b"\n")[0]
    return tuple(map(int, line.split())) or None
