# SPDX-License-Identifier: Apache-2.0
"""The kernel's lock on a file: one process has it, and its end gives it back. Knows no purpose."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class FileLock:
    """`flock(2)` on a file that is made when it is not there, and holds the pid of who has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """By this object."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Whether it is ours now; never waits. One whose file was taken away is lost: who makes the
        file anew has another. Raises OSError.
        """
        if self._descriptor is not None:
            if self._is_of(self._descriptor):
                return True
            self.release()
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Not for writing: whoever wants to make this file system read-only need not wait for us.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        if not self._is_of(descriptor):
            os.close(descriptor)  # it was taken away in this moment
            return False
        with suppress(OSError):  # a full disk costs others the pid, and us nothing
            self.path.write_text(str(os.getpid()))
        self._descriptor = descriptor
        return True

    def owner(self) -> str:
        """The pid of who has it, as text; empty: unknown."""
        try:
            return self.path.read_text(errors="replace")[:32].strip()
        except OSError:
            return ""

    def _is_of(self, descriptor: int) -> bool:
        """Whether this is the file that others find."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
