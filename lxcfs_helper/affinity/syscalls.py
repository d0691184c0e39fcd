# SPDX-License-Identifier: Apache-2.0
"""Which system calls are notified, by architecture: numbers, and the size of a C `long` there.
Pure; a table.

An architecture is what the notification names (`arch` of struct seccomp_data): a 32-bit caller on a
64-bit kernel has numbers and layouts of its own. x86-64 and i386 were tried; aarch64 is stated from
the kernel's tables (include/uapi/asm-generic/unistd.h) and untried. Knows no answer.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Call(enum.Enum):
    """What can be asked; the values are the kernel's names, and those of a metric."""

    SCHED_GETAFFINITY = "sched_getaffinity"
    SYSINFO = "sysinfo"
    EXECVE = "execve"
    EXECVEAT = "execveat"
    #: Whatever else a profile of somebody else notifies: it is always left to the kernel.
    OTHER = "other"

    @property
    def starts_program(self) -> bool:
        return self in (Call.EXECVE, Call.EXECVEAT)


@dataclass(frozen=True, slots=True)
class Abi:
    """One way to call the kernel. `long_bytes`: of a C `long`, which decides layouts."""

    name: str
    long_bytes: int
    calls: Mapping[int, Call]


def _abi(name: str, long_bytes: int, *numbers: int) -> Abi:
    calls = (Call.SCHED_GETAFFINITY, Call.SYSINFO, Call.EXECVE, Call.EXECVEAT)
    return Abi(name, long_bytes, dict(zip(numbers, calls, strict=True)))


#: By AUDIT_ARCH_… of include/uapi/linux/audit.h. Calls of x32 come as x86-64 with bit 30 set in
#: their number, and so as none of these.
ABIS: Mapping[int, Abi] = {
    0xC000003E: _abi("x86_64", 8, 204, 99, 59, 322),
    0x40000003: _abi("i386", 4, 242, 116, 11, 358),
    0xC00000B7: _abi("aarch64", 8, 123, 179, 221, 281),
}


def call_of(arch: int, number: int) -> Call:
    """What this notification is about."""
    abi = ABIS.get(arch)
    return Call.OTHER if abi is None else abi.calls.get(number, Call.OTHER)
