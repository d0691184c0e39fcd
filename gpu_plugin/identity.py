# SPDX-License-Identifier: Apache-2.0
"""The directory that says who a container is: made fresh for every Allocate, mounted into it
read-only.

    <state>/gpu/containers/<allocation>.<nonce>/      what the container may see
    <state>/gpu/allocations/<allocation>.<nonce>.json  what was given, for the host alone
    <state>/gpu/standing/                             what every directory has from the start

The kubelet names no pod in Allocate; whoever carries the mount of this very directory (device and
inode) holds these units. Freed units go to the next pod at once, so a name is never used twice. The
directories are the state: after a restart they are read again. Knows no rule and no NVML.

The kubelet asks once for the life of a pod, and mounts the same path at every start of a container,
also after a reboot. So a directory that went missing is made again from its record (`mend`), and a
record that a crash took (nothing here waits for a disk) from the units that podresources lists: the
name is a digest of them (`restore`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from agents.errors import Unavailable
from agents.logs import get_logger
from agents.mounts import set_label
from agents.threads import ThreadLane
from gpu_plugin import container_files, units
from gpu_plugin.allocation import Hardware, Share, share_document, share_text
from gpu_plugin.container_files import StandingFiles

#: The kubelet's pod loop waits for Allocate, so Allocate does not wait for a disk that hangs.
_DISK_LIMIT_S = 3.0
_PRIVATE = 0o600
_NAME = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Allocation:
    """One answer to Allocate, as its record tells. `made_at_ns` is wall-clock time, to order two
    of them. `place` is device and inode of its directory as they are now: both can be others after
    a reboot, or when it was made again (None: it is not there). `hardware` is by device, where the
    record tells it.
    """

    name: str
    resource: str
    units: Mapping[str, tuple[int, ...]]
    made_at_ns: int
    files: Mapping[str, str]
    place: tuple[int, int] | None
    hardware: Mapping[str, Hardware] = field(default_factory=dict)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(units.ungroup(self.units))

    @property
    def digest(self) -> str:
        return self.name.partition(".")[0]


class Allocations:
    """All directories and records below `<state_dir>/gpu`. Thread-safe: names never collide.

    `label`: the SELinux context of what containers see; None: what the policy of the node gives.
    """

    def __init__(self, directory: Path, label: str | None = None) -> None:
        self._label = label
        self.containers = directory / "containers"
        self.records = directory / "allocations"
        self._standing = StandingFiles(directory / "standing")
        self._disk = ThreadLane(
            f"the disk of {str(directory)!r}", remedy="look at the disk of node.state_dir"
        )
        # A directory that is just being made looks as if it needed mending.
        self._writing = threading.Lock()

    def prepare(self) -> None:
        """Make the parents. Raises Unavailable."""
        try:
            self.containers.mkdir(mode=0o755, parents=True, exist_ok=True)
            set_label(self.containers, self._label)
            self.records.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._standing.prepare()
        except OSError as error:
            raise _cannot("make", self.containers, error) from error

    def make(self, share: Share) -> Path:
        """A fresh directory with what the container may know, and its record. Raises Unavailable,
        also when the disk does not answer in time; then nothing stays behind.
        """
        return self._disk.call(
            lambda: self._make(share),
            timeout_s=_DISK_LIMIT_S,
            undo=lambda directory: self.remove(directory.name),
        )

    def _make(self, share: Share) -> Path:
        given = {device.uuid: device.numbers for device in share.devices}
        name = f"{digest(share.resource, given)}.{secrets.token_hex(4)}"
        files = {
            "share.json": json.dumps(share_document(share), indent=1) + "\n",
            "status": share_text(share),
        }
        hardware = {device.uuid: device.hardware for device in share.devices}
        record = _encode(share.resource, given, time.time_ns(), files, hardware)
        directory = self.containers / name
        try:
            with self._writing:
                try:
                    self._put(name, record, files)
                except FileNotFoundError:  # a parent was taken away meanwhile
                    self.prepare()
                    self._put(name, record, files)
        except OSError as error:
            # Nobody was told of it, and each retry of a pod would leave another half.
            with contextlib.suppress(OSError):
                self.remove(name)
            raise _cannot("write", directory, error) from error
        return directory

    def _put(self, name: str, record: str, files: Mapping[str, str]) -> None:
        # The record first, so that a directory without one is one whose record was lost.
        self._record(name, record)
        directory = self.containers / name
        directory.mkdir()
        _fill(directory, files)
        self._standing.link(directory, container_files.standing())

    def mend(self, allocation: Allocation) -> bool:
        """Make again what is missing of a directory that a container holds or will come back to:
        the directory, or files in it (a runtime makes an empty one of what is not there). Whether
        anything was; raises OSError.
        """
        with self._writing:
            directory = self.containers / allocation.name
            wanted = {**allocation.files, **container_files.standing()}
            missing = {name for name in wanted if not (directory / name).exists()}
            if not missing:
                return False
            directory.mkdir(exist_ok=True)
            if _place(directory) is None:
                return False  # somebody's link
            given = allocation.files
            _fill(directory, {name: given[name] for name in given if name in missing})
            self._standing.link(directory, sorted(missing - given.keys()))
            return True

    def restore(self, name: str, resource: str, ids: Iterable[str]) -> None:
        """Write the record of a directory anew, for units of which its name is the digest. Raises
        OSError.
        """
        directory = self.containers / name
        found = directory.stat()
        files = {
            path.name: path.read_text()
            for path in directory.iterdir()
            if path.is_file() and path.name not in container_files.standing()
        }
        given = {uuid: sorted(numbers) for uuid, numbers in units.group(ids).items()}
        self._record(name, _encode(resource, given, found.st_mtime_ns, files))

    def _record(self, name: str, text: str) -> None:
        """Whole or not at all: somebody may read it now."""
        new = self.records / f".{name}.new"
        try:
            container_files.create_file(new, text, _PRIVATE)
            new.rename(self.records / f"{name}.json")
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def recorded(self) -> tuple[Allocation, ...]:
        """Everything that was given and not cleaned up, oldest first; a broken record is passed
        over.
        """
        found = []
        for path in self.records.glob("*.json"):
            if not _NAME.fullmatch(path.stem):
                continue
            try:
                found.append(self._decode(path.stem, path.read_text()))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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

    def _decode(self, name: str, text: str) -> Allocation:
        record = json.loads(text)
        given = {
            str(uuid): tuple(units.from_ranges(ranges)) for uuid, ranges in record["units"].items()
        }
        return Allocation(
            name=name,
            resource=str(record["resource"]),
            units=given,
            made_at_ns=int(record["made_at_ns"]),
            files={
                str(file): str(content)
                for file, content in record["files"].items()
                if file == Path(file).name
            },
            place=_place(self.containers / name),
            hardware={
                str(uuid): _hardware(**found) for uuid, found in record.get("hardware", {}).items()
            },
        )


def _hardware(
    gpu_uuid: object, gpu_instance: object, memory: object, unit_memory: object
) -> Hardware:
    """Raises TypeError, ValueError: it was written by somebody else."""
    instance = None if gpu_instance is None else int(str(gpu_instance))
    return Hardware(str(gpu_uuid), instance, int(str(memory)), int(str(unit_memory)))


def _place(directory: Path) -> tuple[int, int] | None:
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def digest(resource: str, given: Mapping[str, Iterable[int]]) -> str:
    """What the names of all directories for these units begin with."""
    ordered = sorted((uuid, sorted(numbers)) for uuid, numbers in given.items())
    return hashlib.sha256(f"{resource} {ordered}".encode()).hexdigest()[:16]


def _encode(
    resource: str,
    given: Mapping[str, Iterable[int]],
    made_at_ns: int,
    files: Mapping[str, str],
    hardware: Mapping[str, Hardware | None] = MappingProxyType({}),
) -> str:
    record = {
        "resource": resource,
        "units": {uuid: units.to_ranges(numbers) for uuid, numbers in given.items()},
        "made_at_ns": made_at_ns,
        "files": files,
        "hardware": {uuid: asdict(found) for uuid, found in hardware.items() if found is not None},
    }
    return json.dumps(record) + "\n"


def _fill(directory: Path, files: Mapping[str, str]) -> None:
    directory.chmod(0o755)  # the container's user reads it, whatever our umask
    for name, text in files.items():
        container_files.create_file(directory / name, text, container_files.mode(name))


def _cannot(what: str, path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"cannot {what} {str(path)!r}: {error.strerror}",
        remedy="look whether node.state_dir can be written and has room",
    )
