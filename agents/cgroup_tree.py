# SPDX-License-Identifier: Apache-2.0
"""Cgroup directories with open files, shared by all that are read.

Reading an open file again costs a tenth of opening it again, and directories are shared: a hundred
containers have few ancestors, whose limits and headroom are worked out once in a round of readings.
Knows nothing of processes or of which cgroup is whose.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agents import cgroup_formats as formats

_READ_SIZE = 65536

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Branch:
    """Where one controller manages a process: hierarchy version, its root, the path below it."""

    version: int
    root: Path
    path: str

    @property
    def directory(self) -> Path:
        return self.root / self.path.lstrip("/")


class Rounds:
    """Counts rounds of readings; what was kept in an earlier one is read again."""

    def __init__(self) -> None:
        self.number = 0


class Directory:
    """One cgroup directory; its files are opened when first asked for, and stay open."""

    def __init__(self, location: Path, path: str, rounds: Rounds) -> None:
        self.location = location
        self.path = path
        self.users = 0
        self._files: dict[str, int | None] = {}
        self._rounds = rounds
        self._known: dict[object, tuple[int, object]] = {}

    def once(self, what: Callable[[Directory], T]) -> T:
        """What this function makes of the directory; worked out once in a round."""
        found = self._known.get(what)
        if found is None or found[0] != self._rounds.number:
            found = self._known[what] = self._rounds.number, what(self)
        return found[1]  # type: ignore[return-value] # the key is the function that made it

    def last(self, what: Callable[[Directory], T]) -> T:
        """The same as it was worked out last, in whatever round."""
        found = self._known.get(what)
        return self.once(what) if found is None else found[1]  # type: ignore[return-value] # as above

    def read(self, name: str) -> str | None:
        """The text of a file; None when there is none or the cgroup is gone."""
        data = self.raw(name)
        return None if data is None else data.decode()

    def raw(self, name: str) -> bytes | None:
        """What a file holds; None when there is none or the cgroup is gone."""
        try:
            descriptor = self._files[name]
        except KeyError:
            descriptor = self._files[name] = self._open(name)
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, _READ_SIZE, 0)
        except OSError as error:
            if error.errno == errno.ENODEV:  # removed; there may be another one by the next time
                os.close(descriptor)
                del self._files[name]
            elif error.errno != errno.EOPNOTSUPP:  # switched off
                raise
            return None

    def number(self, name: str) -> int | None:
        text = self.read(name)
        return None if text is None else int(text)

    def limit(self, name: str) -> int | None:
        text = self.read(name)
        return None if text is None else formats.parse_limit(text)

    def close(self) -> None:
        for descriptor in self._files.values():
            if descriptor is not None:
                os.close(descriptor)
        self._files.clear()

    def _open(self, name: str) -> int | None:
        try:
            return os.open(self.location / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None


class Directories:
    """All that are open, each once, closed when its last user has let it go."""

    def __init__(self) -> None:
        self.rounds = Rounds()
        self._open: dict[Path, Directory] = {}

    def acquire(self, branch: Branch | None) -> tuple[Directory, ...]:
        """The branch's directory and its ancestors, the root of the hierarchy last."""
        paths = () if branch is None else formats.up(branch.path)
        chain = []
        for path in paths:
            assert branch is not None
            location = branch.root / path.lstrip("/")
            directory = self._open.setdefault(location, Directory(location, path, self.rounds))
            directory.users += 1
            chain.append(directory)
        return tuple(chain)

    def release(self, chain: Sequence[Directory]) -> None:
        for directory in chain:
            directory.users -= 1
            if directory.users == 0:
                del self._open[directory.location]
                directory.close()


def texts(*names: str) -> Callable[[Directory], object]:
    """Some files, as they are: enough to see that one of them changed."""

    def read(level: Directory) -> object:
        return [level.raw(name) for name in names]

    return read
