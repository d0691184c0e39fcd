# SPDX-License-Identifier: Apache-2.0
"""What sched_getaffinity(2) and sysinfo(2) answer in a container, to the byte. Pure.

Says nothing where the kernel's own answer is right: also every error is the kernel's to give, which
is asked to go on with the call. Knows no container and touches no memory.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lxcfs_helper.affinity.syscalls import Abi

#: Fixed point of `loads`: SI_LOAD_SHIFT of include/uapi/linux/sysinfo.h.
_LOAD_UNIT = 1 << 16
#: `mem_unit` of a 32-bit caller grows to this at most (COMPAT_SYSCALL_DEFINE1(sysinfo)).
_PAGE = 4096
_UNSIGNED_INT = 0xFFFF_FFFF
#: struct sysinfo, by the size of a `long`: 112 and 64 bytes, everything that is not named is zero.
_LAYOUTS = {8: struct.Struct("<q9QH6x2QI4x"), 4: struct.Struct("<i9IH2x2II8x")}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the call returns, and what is put into the caller's memory before."""

    value: int
    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Masks:
    """How this kernel keeps sets of CPUs. `cpu_ids`: one more than the largest number a CPU may
    ever have (nr_cpu_ids); `size`: bytes of its own sets, of which it copies no more."""

    cpu_ids: int
    size: int


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """struct sysinfo, in bytes and seconds; `loads` as numbers, `threads` is its `procs`: what the
    kernel itself counts there are threads."""

    uptime_s: int
    loads: tuple[float, float, float]
    total: int
    free: int
    shared: int
    buffers: int
    total_swap: int
    free_swap: int
    threads: int
    total_high: int = 0
    free_high: int = 0


def affinity(
    abi: Abi, length: int, address: int, *, real: int, wanted: int, masks: Masks
) -> Answer | None:
    """The answer to sched_getaffinity with these arguments; None: the kernel's is right (the
    thread may run on no more CPUs than it is to see) or is an error. `real` is the set of CPUs on
    which the thread may run, `wanted` the set it is to see, as numbers with a bit for each.

    kernel/sched/syscalls.c: the length must hold all CPU numbers and be a multiple of a `long`;
    what is returned is how many bytes were written.
    """
    length &= _UNSIGNED_INT
    fits = (length * 8) & _UNSIGNED_INT >= masks.cpu_ids and length % abi.long_bytes == 0
    if not fits or wanted == real:
        return None
    size = min(length, masks.size)
    return Answer(size, address, wanted.to_bytes(size, "little"))


def chosen(real: int, count: int, start: int) -> int:
    """`count` of the CPUs in `real` (all, if there are no more), from number `start` upwards and
    then from the lowest on. More or fewer of them are nested in each other.

    Neighbours, because they mostly share a node and caches.
    """
    if real.bit_count() <= count:
        return real
    upper = real >> start << start
    found = 0
    for lowest in (*_lowest(upper, count), *_lowest(real ^ upper, count)):
        if not count:
            break
        found |= lowest
        count -= 1
    return found


def _lowest(cpus: int, count: int) -> Iterator[int]:
    while cpus and count:
        lowest = cpus & -cpus
        yield lowest
        cpus ^= lowest
        count -= 1


def first_cpu(container_id: str, real: int) -> int:
    """Where a container's CPUs begin, of those in `real`: programs that pin their threads to what
    they see shall not all land on the same ones.

    The CPU with the highest weight for this container (rendezvous hashing): taking others away, or
    adding some, moves it for those containers alone whose CPU it concerns.
    """
    numbers = (number for number in range(real.bit_length()) if real >> number & 1)
    return max(numbers, key=lambda number: _weight(container_id, number), default=0)


def _weight(container_id: str, cpu: int) -> bytes:
    return hashlib.blake2b(f"{container_id} {cpu}".encode(), digest_size=8).digest()


def system_info(abi: Abi, info: SystemInfo, address: int) -> Answer:
    """The answer to sysinfo. Where memory or swap do not fit into a 32-bit `long`, they are told
    in larger units, as the kernel does for 32-bit callers."""
    shift = 0
    if abi.long_bytes == 4 and max(info.total, info.total_swap) >> 32:
        shift = _PAGE.bit_length() - 1
    most = (1 << 8 * abi.long_bytes) - 1
    sizes = (info.total, info.free, info.shared, info.buffers, info.total_swap, info.free_swap)
    values = [min(most, size >> shift) for size in sizes]
    data = _LAYOUTS[abi.long_bytes].pack(
        min(most >> 1, info.uptime_s),
        *(min(most, int(load * _LOAD_UNIT)) for load in info.loads),
        *values,
        min(0xFFFF, info.threads),
        min(most, info.total_high >> shift),
        min(most, info.free_high >> shift),
        1 << shift,
    )
    return Answer(0, address, data)


def read_system_info(data: bytes) -> SystemInfo:
    """What the kernel answered a 64-bit caller."""
    uptime, *loads = _LAYOUTS[8].unpack(data)[:4]
    *sizes, threads, high, free_high, unit = _LAYOUTS[8].unpack(data)[4:]
    total, free, shared, buffers, total_swap, free_swap = (size * unit for size in sizes)
    return SystemInfo(
        uptime,
        (loads[0] / _LOAD_UNIT, loads[1] / _LOAD_UNIT, loads[2] / _LOAD_UNIT),
        total,
        free,
        shared,
        buffers,
        total_swap,
        free_swap,
        threads,
        high * unit,
        free_high * unit,
    )
