# SPDX-License-Identifier: Apache-2.0
"""How large the kubelet's messages and files get, and what fits. Pure arithmetic; knows no rule.

The kubelet's client takes messages up to 4 MiB (gRPC's default, not an option of the kubelet).
Beyond that it drops the resource, and tells only its own log. Every unit is counted as Unhealthy,
which is two bytes longer than Healthy: a list that fits only while all is well is cut off the day
it is not. The formulas were checked against a kubelet of Kubernetes 1.34, the status of a pod
against the API types of 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: Largest message that the kubelet takes, and that clients of podresources take by default.
MESSAGE_LIMIT = 4 * 1024 * 1024
#: Largest object that etcd takes: a pod with its status is one.
OBJECT_LIMIT = 1_572_864
#: Largest environment variable that Linux takes, with its name and the NUL.
ENVIRONMENT_LIMIT = 128 * 1024
#: More units than this in one container make everything about its pod large.
MANY_UNITS = 500
_MIB = 1 << 20
_FIELD_HEALTH = 2 + len("Unhealthy")
#: In `allocatedResourcesStatus` (on by default from Kubernetes 1.36 on), around the id.
_STATUS_ENTRY = len('{"resourceID":"","health":"Unhealthy"},')
#: In the checkpoint, around the id: once as registered, and once more while a pod holds it.
_CHECKPOINT_ENTRY = len('"",')


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes, at worst. `checkpoint` is the part of this resource in the kubelet's file, which it
    writes whole at each change of any resource; `pod_status` that of the largest container;
    `podresources` the answer with every unit held; `environment` our longest variable.
    """

    message: int
    checkpoint: int
    pod_status: int
    podresources: int
    environment: int


def sizes(resource: str, devices: Iterable[tuple[str, int, int | None]], *, split: bool) -> Sizes:
    """Of a resource with these (uuid, units, NUMA node or None). `split`: a container may hold
    units of all devices.
    """
    listed = list(devices)
    units = sum(count for _, count, _ in listed)
    ids = sum(_id_bytes(uuid, count) for uuid, count, _ in listed)
    statuses = [_id_bytes(uuid, count) + count * _STATUS_ENTRY for uuid, count, _ in listed]
    uuids = [len(uuid) + 1 for uuid, _, _ in listed]
    whole = sum if split else _largest
    return Sizes(
        message=message_bytes(listed),
        checkpoint=2 * (ids + units * _CHECKPOINT_ENTRY),
        pod_status=whole(statuses),
        podresources=sum(_podresources_bytes(resource, *device) for device in listed),
        environment=len("NVIDIA_VISIBLE_DEVICES=") + whole(uuids),
    )


def unit_bytes(id_length: int, numa_node: int | None = None) -> int:
    """One Device in the list, with its field header. `numa_node` None: sent without topology."""
    return _field(_field(id_length) + _FIELD_HEALTH + _topology_bytes(numa_node))


def device_bytes(uuid: str, units: int, numa_node: int | None = None) -> int:
    """All units `<uuid>::0` … of one device in the list."""
    return sum(count * unit_bytes(length, numa_node) for length, count in _id_lengths(uuid, units))


def message_bytes(devices: Iterable[tuple[str, int, int | None]]) -> int:
    """A whole list of (uuid, units, NUMA node or None)."""
    return sum(device_bytes(uuid, units, numa_node) for uuid, units, numa_node in devices)


def smallest_fitting_chunk(chunk: int, fits: Callable[[int], bool]) -> int:
    """The smallest chunk above `chunk`, in whole MiB, that fits; a larger one fits the better."""
    low, high = chunk // _MIB, chunk // _MIB + 1
    while not fits(high * _MIB):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle * _MIB):
            high = middle
        else:
            low = middle
    return high * _MIB


def _podresources_bytes(resource: str, uuid: str, units: int, numa_node: int | None) -> int:
    """An entry for each id: its resource, the id, and the topology."""
    fixed = _field(len(resource)) + _topology_bytes(numa_node)
    return sum(count * _field(fixed + _field(length)) for length, count in _id_lengths(uuid, units))


def _id_bytes(uuid: str, units: int) -> int:
    return sum(length * count for length, count in _id_lengths(uuid, units))


def _id_lengths(uuid: str, units: int) -> Iterable[tuple[int, int]]:
    """(length of an id, how many have it): ids grow by a byte with each digit."""
    first, digits = 0, 1
    while first < units:
        last = min(units, 10**digits)
        yield len(uuid) + 2 + digits, last - first
        first, digits = last, digits + 1


def _topology_bytes(numa_node: int | None) -> int:
    """TopologyInfo { NUMANode { ID } }; proto3 leaves out an ID of 0."""
    if numa_node is None:
        return 0
    return _field(_field(0 if numa_node == 0 else 1 + _varint(numa_node)))


def _largest(values: list[int]) -> int:
    return max(values, default=0)


def _field(length: int) -> int:
    """A length-delimited field with a one-byte tag."""
    return 1 + _varint(length) + length


def _varint(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)
