# SPDX-License-Identifier: Apache-2.0
"""Parse `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)). Pure: text in, values out."""

from __future__ import annotations

import errno
import os
import re
import select
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line. Paths are as the process sees them; `root` is relative to the mounted file system.

    `shared` and `master` are peer-group numbers (None: private, or no master).
    """

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    root: str
    mount_point: str
    options: frozenset[str]
    shared: int | None
    master: int | None
    fstype: str
    source: str
    super_options: frozenset[str]

    @property
    def read_only(self) -> bool:
        return "ro" in self.options


def parse(text: str) -> tuple[MountEntry, ...]:
    """All entries in kernel order: since 6.8 that of their making, not of what lies on what (`at`).

    A line that is cut short (a read that raced with an unmount) is passed over.
    """
    # Not splitlines(): the kernel escapes newlines alone, and a name may hold what it splits at.
    return tuple(entry for line in text.split("\n") if (entry := _parse_line(line)) is not None)


def read(proc: Path, pid: int | str = "self") -> tuple[MountEntry, ...]:
    """The mounts that process `pid` sees. Raises OSError; FileNotFoundError or ProcessLookupError
    when it is gone.
    """
    try:
        return parse(os.fsdecode((proc / str(pid) / "mountinfo").read_bytes()))
    except OSError as error:
        # So the kernel says that it has just ended, or is a zombie: it has no mounts any more.
        if error.errno == errno.EINVAL:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid)) from error
        raise


class Watched:
    """The mounts that this process sees, for somebody who looks again and again: on a busy node
    reading the text of thousands of lines is quick, and taking it apart is not.
    """

    def __init__(self, proc: Path) -> None:
        self._file = proc / "self" / "mountinfo"
        self._text = b""
        self._lines: dict[str, MountEntry | None] = {}
        self._entries: tuple[MountEntry, ...] = ()
        self._poll: select.poll | None = None
        self._mounted_since = True

    def mounted(self) -> tuple[MountEntry, ...]:
        """As they were at the last mount or unmount; costs nothing while there is none. What
        changes without one may be old: propagation, and a file system that turned read-only.
        """
        if self._poll is None:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLPRI)  # proc_pid_mounts(5)
        self._mounted_since |= bool(self._poll.poll(0))
        if self._mounted_since:
            self.read()
            self._mounted_since = False
        return self._entries

    def read(self) -> tuple[MountEntry, ...]:
        """As they are now; the same object while nothing has changed."""
        text = self._file.read_bytes()
        if text != self._text:
            known, lines = self._lines, os.fsdecode(text).split("\n")
            self._lines = {
                line: known[line] if line in known else _parse_line(line) for line in lines
            }
            self._text = text
            self._entries = tuple(entry for entry in self._lines.values() if entry is not None)
        return self._entries


def by_place(entries: Iterable[MountEntry]) -> Mapping[str, Sequence[MountEntry]]:
    """The stack at every mount point, for whoever asks for many of them."""
    table = tuple(entries)
    found: dict[str, list[MountEntry]] = {}
    for entry in table:
        found.setdefault(entry.mount_point, []).append(entry)
    return {place: _stack(here, table) for place, here in found.items()}


def at(entries: Iterable[MountEntry], mount_point: str | PurePath) -> tuple[MountEntry, ...]:
    """The stack of mounts exactly at this path, bottom first.

    Ordered by parents: a mount that was slipped beneath another one comes after it in the table.
    """
    path, table = str(mount_point), tuple(entries)
    return _stack([entry for entry in table if entry.mount_point == path], table)


def _stack(here: Sequence[MountEntry], table: Sequence[MountEntry]) -> tuple[MountEntry, ...]:
    """Those at one path that lie on each other, without those that another mount hides.

    A mount made on a shared mount appears on all its peers. One of them may lie under a mount on
    the way there (as when a directory was bound onto itself); the table has the same path for it.
    """
    if len(here) < 2:
        return tuple(here)
    ids = {entry.mount_id for entry in here}
    lowest = [e for e in here if e.parent_id not in ids or e.parent_id == e.mount_id]
    if len(lowest) > 1 and here[0].mount_point != "/":
        holder = covering(table, PurePosixPath(here[0].mount_point).parent)
        visible = [e for e in lowest if holder is not None and e.parent_id == holder.mount_id]
        lowest = visible or lowest
    on = {e.parent_id: e for e in here if e not in lowest}
    stack = list(lowest)
    while stack[-1].mount_id in on:
        stack.append(on.pop(stack[-1].mount_id))
    return tuple(stack)


def below(entries: Iterable[MountEntry], directory: str | PurePath) -> tuple[MountEntry, ...]:
    """Mounts at this directory or anywhere under it, in kernel order (unmount in reverse)."""
    path = str(directory).rstrip("/")
    return tuple(
        entry
        for entry in entries
        if entry.mount_point == path or entry.mount_point.startswith(path + "/")
    )


def covering(entries: Iterable[MountEntry], path: str | PurePath) -> MountEntry | None:
    """The topmost mount that holds this (absolute, resolved) path; None only for an empty table."""
    holding = [entry for entry in entries if _holds(entry.mount_point, str(path))]
    if not holding:
        return None
    return at(holding, max((entry.mount_point for entry in holding), key=len))[-1]


def _holds(mount_point: str, path: str) -> bool:
    prefix = mount_point.rstrip("/")
    return path == prefix or path.startswith(prefix + "/")


def _parse_line(line: str) -> MountEntry | None:
    head, separator, tail = line.partition(" - ")
    fields, rest = head.split(" "), tail.split(" ")
    if not separator or len(fields) < 6 or len(rest) < 3:
        return None
    major, _, minor = fields[2].partition(":")
    tags = dict(_tags(fields[6:]))
    return MountEntry(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=(int(major), int(minor)),
        root=_unescape(fields[3]),
        mount_point=_unescape(fields[4]),
        options=frozenset(fields[5].split(",")),
        shared=tags.get("shared"),
        master=tags.get("master"),
        fstype=rest[0],
        source=_unescape(rest[1]),
        super_options=frozenset(rest[2].split(",")),
    )


def _tags(fields: list[str]) -> Iterator[tuple[str, int]]:
    for field in fields:
        name, _, number = field.partition(":")
        if number.isdigit():
            yield name, int(number)


def _unescape(text: str) -> str:
    # The kernel writes space, tab, newline and backslash as three octal digits.
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text
