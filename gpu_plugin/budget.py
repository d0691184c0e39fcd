# SPDX-License-Identifier: Apache-2.0
"""How many bytes a ListAndWatch message takes, and what fits. Pure arithmetic; knows no rule.

The kubelet's client takes messages up to 4 MiB (gRPC's default, not an option of the kubelet).
Beyond that it drops the resource, and tells only its own log. Every unit is counted as Unhealthy,
which is two bytes longer than Healthy: a list that fits only while all is well is cut off the day
it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

#: Largest message that the kubelet takes.
MESSAGE_LIMIT = 4 * 1024 * 1024
_MIB = 1 << 20
_FIELD_HEALTH = 2 + len("Unhealthy")


def unit_bytes(id_length: int, numa_node: int | None = None) -> int:
    """One Device in the list, with its field header. `numa_node` None: sent without topology."""
    inner = _field(id_length) + _FIELD_HEALTH
    if numa_node is not None:
        # TopologyInfo { NUMANode { ID } }; proto3 leaves out an ID of 0.
        node = 0 if numa_node == 0 else 1 + _varint(numa_node)
        inner += _field(_field(node))
    return _field(inner)


def device_bytes(uuid: str, units: int, numa_node: int | None = None) -> int:
    """All units `<uuid>::0` … of one device: ids grow by a byte with each digit."""
    total, first, digits = 0, 0, 1
    while first < units:
        last = min(units, 10**digits)
        total += (last - first) * unit_bytes(len(uuid) + 2 + digits, numa_node)
        first, digits = last, digits + 1
    return total


def message_bytes(devices: Iterable[tuple[str, int, int | None]]) -> int:
    """A whole list of (uuid, units, NUMA node or None)."""
    return sum(device_bytes(uuid, units, numa_node) for uuid, units, numa_node in devices)


def smallest_fitting_chunk(chunk: int, bytes_for: Callable[[int], int]) -> int:
    """The smallest chunk above `chunk`, in whole MiB, whose list fits; `bytes_for` falls with
    the chunk.
    """
    low, high = chunk // _MIB, chunk // _MIB + 1
    while bytes_for(high * _MIB) > MESSAGE_LIMIT:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if bytes_for(middle * _MIB) > MESSAGE_LIMIT:
            low = middle
        else:
            high = middle
    return high * _MIB


def _field(length: int) -> int:
    """A length-delimited field with a one-byte tag."""
    return 1 + _varint(length) + length


def _varint(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)
