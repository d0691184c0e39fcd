# SPDX-License-Identifier: Apache-2.0
"""The directory that says who a container is: made fresh for every Allocate, mounted into it
read-only.

    <state>/gpu/containers/<allocation>.<nonce>/      what the container may see
    <state>/gpu/allocations/<allocation>.<nonce>.json  what was given, for the host alone

The kubelet names no pod in Allocate; whoever carries the mount of this very directory (device and
inode) holds these units. Freed units go to the next pod at once, so a name is never used twice. The
directories are the state: after a restart they are read again. Knows no rule and no NVML.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.errors import Unavailable
from agents.logs import get_logger
from gpu_plugin import units
from gpu_plugin.allocation import Share, share_document, share_text

_READABLE = 0o644
_PRIVATE = 0o600
_NAME = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Allocation:
    """One answer to Allocate, as its record tells. `made_at_ns` is wall-clock time, to order two
    of them; `inode` is that of the directory, on the file system `device`.
    """

    name: str
    resource: str
    units: Mapping[str, tuple[int, ...]]
    made_at_ns: int
    device: int
    inode: int

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(units.ungroup(self.units))


class Allocations:
    """All directories and records below `<state_dir>/gpu`. Thread-safe: names never collide."""

    def __init__(self, directory: Path) -> None:
        self.containers = directory / "containers"
        self.records = directory / "allocations"

    def prepare(self) -> None:
        """Make the two parents. Raises Unavailable."""
        try:
            self.containers.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.records.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot("make", self.containers, error) from error

    def make(self, share: Share) -> Path:
        """A fresh directory with what the container may know, and its record. Raises
        Unavailable.
        """
        name = f"{_digest(share)}.{secrets.token_hex(4)}"
        directory = self.containers / name
        document = json.dumps(share_document(share), indent=1) + "\n"
        self.prepare()  # again: a parent may have been taken away meanwhile
        try:
            directory.mkdir()
            directory.chmod(0o755)  # the container's user reads it, whatever our umask
            _write(directory / "share.json", document, _READABLE)
            _write(directory / "status", share_text(share), _READABLE)
            record = self.records / f"{name}.json"
            _write(record, _encode(share, name, directory.stat()), _PRIVATE)
        except OSError as error:
            # Nobody was told of it, and each retry of a pod would leave another half.
            with contextlib.suppress(OSError):
                self.remove(name)
            raise _cannot("write", directory, error) from error
        return directory

    def recorded(self) -> tuple[Allocation, ...]:
        """Everything that was given and not cleaned up, oldest first; a broken record is passed
        over.
        """
        found = []
        for path in self.records.glob("*.json"):
            try:
                found.append(_decode(path.stem, path.read_text()))
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                get_logger().warning(
                    "allocation record unreadable", path=str(path), error=repr(error)
                )
        return tuple(sorted(found, key=lambda allocation: allocation.made_at_ns))

    def names(self) -> frozenset[str]:
        """Of all directories and records, also of halves that a crash left. What else lies there
        is not ours.
        """
        found = {*os.listdir(self.containers), *(path.stem for path in self.records.glob("*.json"))}
        return frozenset(name for name in found if _NAME.fullmatch(name))

    def remove(self, name: str) -> None:
        """Take away a directory with its files, then its record. Raises OSError when there is
        more in it than files, or a link in its place: what we did not make is not ours to delete.
        """
        directory = self.containers / name
        with contextlib.suppress(FileNotFoundError):  # half of it may be gone already
            descriptor = os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for name_inside in os.listdir(descriptor):
                    os.unlink(name_inside, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            directory.rmdir()
        (self.records / f"{name}.json").unlink(missing_ok=True)


def _digest(share: Share) -> str:
    text = f"{share.resource} {[(device.uuid, device.numbers) for device in share.devices]}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _encode(share: Share, name: str, stat: os.stat_result) -> str:
    given = {device.uuid: units.to_ranges(device.numbers) for device in share.devices}
    record = {
        "name": name,
        "resource": share.resource,
        "units": given,
        "made_at_ns": time.time_ns(),
        "device": stat.st_dev,
        "inode": stat.st_ino,
    }
    return json.dumps(record) + "\n"


def _decode(name: str, text: str) -> Allocation:
    record = json.loads(text)
    given = {
        str(uuid): tuple(units.from_ranges(ranges)) for uuid, ranges in record["units"].items()
    }
    return Allocation(
        name=name,
        resource=str(record["resource"]),
        units=given,
        made_at_ns=int(record["made_at_ns"]),
        device=int(record["device"]),
        inode=int(record["inode"]),
    )


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)


def _cannot(what: str, path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"cannot {what} {str(path)!r}: {error.strerror}",
        remedy="look whether node.state_dir can be written and has room",
    )
