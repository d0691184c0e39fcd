# SPDX-License-Identifier: Apache-2.0
"""What is handed to the small programs that become a container: values, and how they travel.

Imported by those programs, so it imports little. Knows no system call but memfd_create(2).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.hostfs import HostFs
from agents.standin.pods import DeviceNode, Volume, VolumePropagation


@dataclass(frozen=True, slots=True)
class Busybox:
    """A root of one static program: where it is on the host, and the names it answers to."""

    binary: Path
    applets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CgroupDirectory:
    """The container's directory in one hierarchy, and under which name the container sees it ("":
    the only one)."""

    directory: Path
    shown_as: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One container to start. `root` is an empty directory of the host, its mount point to be."""

    hostname: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    root: Path
    host: HostFs
    cgroups: tuple[CgroupDirectory, ...]
    volumes: tuple[Volume, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    busybox: Busybox | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One command to run in a container that runs already."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cgroups: tuple[Path, ...]


def to_descriptor(value: Launch | Entry) -> int:
    """An anonymous file that holds the value, read from its start; the caller closes it."""
    descriptor = os.memfd_create("nodeshare-launch")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(json.dumps(asdict(value), default=_plain).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def launch_from(descriptor: int) -> Launch:
    """The value that `to_descriptor` wrote; closes the descriptor."""
    raw = _load(descriptor)
    return Launch(
        hostname=raw["hostname"],
        argv=tuple(raw["argv"]),
        env=raw["env"],
        root=Path(raw["root"]),
        host=HostFs(**{name: Path(value) for name, value in raw["host"].items()}),
        cgroups=tuple(
            CgroupDirectory(Path(cgroup["directory"]), cgroup["shown_as"])
            for cgroup in raw["cgroups"]
        ),
        volumes=tuple(_volume(volume) for volume in raw["volumes"]),
        devices=tuple(_device(device) for device in raw["devices"]),
        busybox=_busybox(raw["busybox"]),
    )


def entry_from(descriptor: int) -> Entry:
    """The value that `to_descriptor` wrote; closes the descriptor."""
    raw = _load(descriptor)
    return Entry(tuple(raw["argv"]), raw["env"], tuple(Path(path) for path in raw["cgroups"]))


def _load(descriptor: int) -> dict[str, Any]:
    with os.fdopen(descriptor, "rb") as file:
        raw: dict[str, Any] = json.loads(file.read())
    return raw


def _plain(value: object) -> object:
    return value.value if isinstance(value, VolumePropagation) else str(value)


def _volume(raw: dict[str, Any]) -> Volume:
    return Volume(
        Path(raw["host_path"]),
        raw["container_path"],
        raw["read_only"],
        VolumePropagation(raw["propagation"]),
    )


def _device(raw: dict[str, Any]) -> DeviceNode:
    return DeviceNode(Path(raw["host_path"]), raw["container_path"], raw["permissions"])


def _busybox(raw: dict[str, Any] | None) -> Busybox | None:
    return None if raw is None else Busybox(Path(raw["binary"]), tuple(raw["applets"]))
