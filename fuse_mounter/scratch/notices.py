# SPDX-License-Identifier: Apache-2.0
"""What a user is told of his files that will go: a text in his own folder, and the same as a list
for programs (JSON lines) in a hidden file beside it.

The folder belongs to the user, who may have put anything under these names: they are replaced as
names (rename), and what is not ours by its first words is neither replaced nor removed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from fuse_mounter.scratch.sizes import size_text
from fuse_mounter.scratch.walk import Folder

#: In the text and in the list; the numbers count all.
MOST_LISTED = 5_000
#: So our text begins, and so our list does.
_TEXT_BEGINS = (
    "Files of yours that nobody has used for long will be removed from this scratch space."
)
_LIST_BEGINS = '{"nodeshare_scratch": '


@dataclass(frozen=True, slots=True)
class Line:
    """One file: `path` relative to the user's folder, `last_use` and `goes` in seconds of the
    epoch.
    """

    path: str
    size: int
    last_use: float
    goes: float


@dataclass(slots=True)
class Notice:
    """All that one user is told. Of more files than can be listed, those that go first."""

    files: int = 0
    size: int = 0
    lines: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> None:
        self.files += 1
        self.size += line.size
        self.lines.append(line)
        if len(self.lines) >= 2 * MOST_LISTED:
            self._shorten()

    def _shorten(self) -> None:
        self.lines.sort(key=lambda line: (line.goes, line.path))
        del self.lines[MOST_LISTED:]

    def listed(self) -> list[Line]:
        self._shorten()
        return self.lines


def text(
    notice: Notice, rule: str, keep_file: str | None, *, armed: bool, reading_counts: bool
) -> str:
    """For people. Names are shown so that none can pretend to be another line."""
    how = (
        "use it: read it, or change it" if reading_counts else "change it (reading does not count)"
    )
    listed = notice.listed()
    files = "1 file" if notice.files == 1 else f"{notice.files} files"
    head = [
        _TEXT_BEGINS,
        "",
        f"{files}, {size_text(notice.size)}, by the rule for {rule!r}."
        + ("" if armed else " (For now they are only counted: nothing is removed yet.)"),
        "",
        f"To keep a file, {how}. Copy elsewhere what you need for long.",
    ]
    if keep_file is not None:
        head.append(f"A folder with a file called {keep_file!r} is kept with all in it.")
    rows = [
        f"{_day(line.goes)}  {size_text(line.size):>10}  last used {_day(line.last_use)}  "
        f"{_shown(line.path)}"
        for line in listed
    ]
    more = notice.files - len(listed)
    tail = [f"… and {more} more"] if more else []
    return "\n".join(
        [*head, "", "goes on            size                        file", *rows, *tail, ""]
    )


def document(notice: Notice, rule: str, armed: bool) -> str:
    """For programs: one JSON object a line; the first has the numbers of all files, the others a
    file each.
    """
    told = {"rule": rule, "armed": armed, "files": notice.files, "size_bytes": notice.size}
    rows = (
        {
            "path": line.path,
            "size_bytes": line.size,
            "last_use": _instant(line.last_use),
            "goes": _instant(line.goes),
        }
        for line in notice.listed()
    )
    return "".join(json.dumps(row) + "\n" for row in ({"nodeshare_scratch": told}, *rows))


def list_name(notice_file: str) -> str:
    """The hidden file beside the text."""
    return f".{notice_file}.jsonl"


def names(notice_file: str | None) -> frozenset[str]:
    """What is ours in a user's folder."""
    return frozenset() if notice_file is None else frozenset({notice_file, list_name(notice_file)})


def write(folder: Folder, notice_file: str, contents: Iterable[tuple[str, str]]) -> None:
    """Put files into the user's folder, each whole, written by us alone. Raises OSError, also
    FileExistsError when something of the user's has that name.
    """
    for name, content in contents:
        if _is_theirs(folder, name):
            raise FileExistsError(errno.EEXIST, "a file that is not ours has that name", name)
        aside = f".nodeshare.{secrets.token_hex(6)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(aside, flags, 0o600, dir_fd=folder.descriptor)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(content)
                file.flush()
                _give(file.fileno(), folder)
            os.replace(aside, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=folder.descriptor)
            raise


def _give(descriptor: int, folder: Folder) -> None:
    """To the owner of the folder alone: it names what lies in folders that others may not read. A
    folder of root's is somebody's by its group, or by its mode.
    """
    status = folder.status
    if status.st_uid != os.geteuid():
        os.fchown(descriptor, status.st_uid, status.st_gid)
    else:
        os.fchown(descriptor, -1, status.st_gid)
        os.fchmod(descriptor, 0o600 | status.st_mode & 0o044)


def take_away(folder: Folder, notice_file: str) -> None:
    """When there is nothing to tell any more. What is not ours stays."""
    for name in names(notice_file):
        with contextlib.suppress(OSError):
            if _begins(folder, name) in (_TEXT_BEGINS, _LIST_BEGINS):
                os.unlink(name, dir_fd=folder.descriptor)


def _is_theirs(folder: Folder, name: str) -> bool:
    """A file with something in it that we have not written. (A link, a pipe and the like are
    replaced; a folder cannot be.)
    """
    try:
        return _begins(folder, name) not in (_TEXT_BEGINS, _LIST_BEGINS, "", None)
    except FileNotFoundError:
        return False


def _begins(folder: Folder, name: str) -> str | None:
    """As much of a file as tells whether it is ours; None: it is no plain file."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False).st_mode):
        return None
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder.descriptor)
    try:
        head = os.read(descriptor, len(_TEXT_BEGINS)).decode(errors="replace")
    finally:
        os.close(descriptor)
    return _LIST_BEGINS if head.startswith(_LIST_BEGINS) else head


def _shown(path: str) -> str:
    """On one line, whatever the name holds."""
    safe = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return safe if safe.isprintable() else ascii(safe)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
