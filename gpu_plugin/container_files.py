# SPDX-License-Identifier: Apache-2.0
"""The files that a container sees in its allocation's directory, written whole or not at all.

    status, status.json   its share now      events         its last fifty events
    nodeshare-gpu         the program that shows them, for any shell

A file is replaced in one step, so a reader never sees half of one, and a disk that is full leaves
the former; only the digits of a time are changed in place. Containers have the directory mounted
read-only; links are not followed all the same. Blocks: worker threads only. Knows no text but the
program's.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from agents.replacing import replace_file

PROGRAM = "nodeshare-gpu"
STATUS, STATUS_JSON, EVENTS = "status", "status.json", "events"
#: What is there before anything was measured, beside what says what was given.
NOTHING_YET = (
    '{\n"version": 1,\n"written_at": null,\n"devices": [],\n"processes": [],\n"events": []\n}\n'
)
_READABLE, _EXECUTABLE = 0o644, 0o755
_LARGEST = 1 << 20
#: Inode, and when it was written: an inode's number is used again.
FileKey = tuple[int, int]
_HALF_WRITTEN = re.compile(r"\.(status|status\.json|events|nodeshare-gpu)\.[0-9a-f]{8}")


@cache
def standing() -> Mapping[str, str]:
    """Files that every directory has from the start, whatever was given."""
    program = files("gpu_plugin").joinpath(PROGRAM).read_text()
    return {STATUS_JSON: NOTHING_YET, EVENTS: "", PROGRAM: program}


def mode(name: str) -> int:
    """Every user of the container may read, and run what is a program."""
    return _EXECUTABLE if name == PROGRAM else _READABLE


class StandingFiles:
    """The same files for all directories, kept once and linked into each: Allocate has to be quick,
    and a link takes a tenth of the time of a file. Nothing is ever written into one: whoever has
    something else to say replaces the link.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Bring them up to date; writes nothing where they are. Raises OSError."""
        self._directory.mkdir(mode=0o755, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._directory, flags)
        try:
            for name, text in standing().items():
                if _read(descriptor, name) != text:
                    scratch = f".{name}.{secrets.token_hex(4)}"
                    data = text.encode()
                    replace_file(descriptor, name, data, mode=mode(name), scratch=scratch)
        finally:
            os.close(descriptor)

    def link(self, directory: Path, names: Iterable[str]) -> None:
        """Into a directory that has none of them. Raises OSError, FileExistsError among them."""
        for name in names:
            try:
                os.link(self._directory / name, directory / name)
            except FileExistsError:
                raise
            except OSError:  # they were taken away, or this file system takes no (more) links
                create_file(directory / name, standing()[name], mode(name))


class ContainerFiles:
    """All directories below `containers`. Every call raises OSError."""

    def __init__(self, containers: Path) -> None:
        self._containers = containers
        self._mark = secrets.token_hex(4)

    def adopt(self, name: str) -> None:
        """Bring a directory that was made by an earlier agent up to date, and take away what one
        left half written.
        """
        with self._open(name) as directory:
            for found in os.listdir(directory):
                if _HALF_WRITTEN.fullmatch(found):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(found, dir_fd=directory)
            program = standing()[PROGRAM]
            if _read(directory, PROGRAM) != program:
                self._put(directory, PROGRAM, program)

    def events(self, name: str, known: FileKey | None) -> tuple[FileKey | None, str]:
        """Which file the events are in now, and what is in it, unless it is the one that is `known`
        already (then empty). None: there is none.
        """
        with self._open(name) as directory:
            try:
                stat = os.stat(EVENTS, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return None, ""
            found = (stat.st_ino, stat.st_mtime_ns)
            return found, "" if found == known else _read(directory, EVENTS) or ""

    def write(self, name: str, texts: Mapping[str, str]) -> None:
        """Replace these files of one directory, one after the other."""
        with self._open(name) as directory:
            for file, text in texts.items():
                self._put(directory, file, text)

    def advance(self, name: str, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
        """Change in place files that differ from what they were in a few digits of a time: as a
        heartbeat of hundreds of containers, new files would cost many times as much. False: a file
        is not what it is taken for, and has to be written whole.
        """
        with self._open(name) as directory:
            for file, text in after.items():
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(file, flags, dir_fd=directory)
                try:
                    if not _advance(descriptor, before[file].encode(), text.encode()):
                        return False
                finally:
                    os.close(descriptor)
        return True

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._containers / name, flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _put(self, directory: int, file: str, text: str) -> None:
        scratch = f".{file}.{self._mark}"
        replace_file(directory, file, text.encode(), mode=mode(file), scratch=scratch)


def create_file(path: Path, text: str, permissions: int) -> None:
    """Raises OSError, FileExistsError among them."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, permissions)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, permissions)  # whatever our umask
        file.write(text)


def _advance(descriptor: int, before: bytes, after: bytes) -> bool:
    if len(before) != len(after) or os.pread(descriptor, len(before) + 1, 0) != before:
        return False
    pairs = enumerate(zip(before, after, strict=True))
    differ = [place for place, (was, will_be) in pairs if was != will_be]
    if differ:
        first, end = differ[0], differ[-1] + 1
        os.pwrite(descriptor, after[first:end], first)
    return True


def _read(directory: int, file: str) -> str | None:
    """None: there is none, or it is no file."""
    try:
        descriptor = os.open(
            file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(_LARGEST).decode(errors="replace")
