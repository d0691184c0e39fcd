# SPDX-License-Identifier: Apache-2.0
"""The file in which the kubelet remembers allocations over a restart. Knows only its format.

The shape is the kubelet's: ids by NUMA node, the plugin's answer as base64 protobuf, healthy
registered ids. The checksum is not the kubelet's own (which hashes Go values); it serves the same
purpose.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.errors import AgentError
from agents.standin.kubelet.allocations import Allocation

FILE_NAME = "kubelet_internal_checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read: who holds what, and the names of the resources that were registered."""

    allocations: tuple[Allocation, ...] = ()
    resources: tuple[str, ...] = ()


def write(
    path: Path, allocations: Iterable[Allocation], registered: Mapping[str, Sequence[str]]
) -> None:
    """Replace the file as a whole: a reader sees the old or the new one."""
    data = {
        "PodDeviceEntries": [_encode(one) for one in allocations] or None,
        "RegisteredDevices": {name: list(ids) for name, ids in registered.items()},
    }
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps({"Data": data, "Checksum": _checksum(data)}))
    temporary.replace(path)


def read(path: Path) -> Checkpoint:
    """No file is an empty checkpoint. Raises AgentError when it is damaged."""
    try:
        document = json.loads(path.read_text())
        data = document["Data"]
        if document["Checksum"] != _checksum(data):
            raise AgentError(f"the checksum of {str(path)!r} does not match its content")
        return Checkpoint(
            tuple(_decode(entry) for entry in data["PodDeviceEntries"] or ()),
            tuple(data["RegisteredDevices"] or ()),
        )
    except FileNotFoundError:
        return Checkpoint()
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise AgentError(f"{str(path)!r} is not a checkpoint: {error!r}") from error


def _checksum(data: object) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def _encode(one: Allocation) -> dict[str, Any]:
    return {
        "PodUID": one.pod_uid,
        "ContainerName": one.container,
        "ResourceName": one.resource,
        "DeviceIDs": {str(node): list(ids) for node, ids in one.ids_by_numa.items()},
        "AllocResp": base64.b64encode(one.answer).decode(),
    }


def _decode(entry: Mapping[str, Any]) -> Allocation:
    return Allocation(
        entry["PodUID"],
        entry["ContainerName"],
        entry["ResourceName"],
        {int(node): tuple(ids) for node, ids in entry["DeviceIDs"].items()},
        base64.b64decode(entry["AllocResp"]),
    )
