# SPDX-License-Identifier: Apache-2.0
"""Our own directory on the file system that is kept clean, so that whichever node runs next knows
what the last one knew: the memory, the lock that lets one node at a time work there, what the file
system's own clock says, and whether it notes that a file is read. Effects only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from agents.errors import AgentError
from fuse_mounter.scratch.clocks import Access
from fuse_mounter.scratch.keeping import DIRECTORY
from fuse_mounter.scratch.memory import CLOCK_LIMIT_S, Memory, decode, encode
from fuse_mounter.scratch.walk import Folder

#: A lock without a sign of life for longer belongs to nobody: locks of one node do not reach
#: others on every network file system.
STALE_S = 900.0
#: How often a sign of life is given.
_BEAT_S = 60.0
#: How long another node may need to see what was written, where locks do not reach it.
SETTLES_S = 2.0
_LOCK_BYTES = 256
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_REMEDY = (
    "remove it; it is made anew (where the server takes root for nobody, as with root_squash, "
    "nothing can be cleaned)"
)


class Private:
    """Every method raises OSError, or AgentError with what to do."""

    def __init__(self, root: Folder) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o700, dir_fd=root.descriptor)
        try:
            self._descriptor = os.open(
                DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=root.descriptor
            )
        except OSError as error:
            raise AgentError(
                f"{DIRECTORY!r} in the scratch directory cannot be used: {error.strerror}",
                remedy=_REMEDY,
            ) from error
        status = os.fstat(self._descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            self.close()
            raise AgentError(
                f"{DIRECTORY!r} in the scratch directory belongs to user {status.st_uid}, or is "
                "open to others",
                remedy=_REMEDY,
            )

    def close(self) -> None:
        os.close(self._descriptor)

    def identity(self) -> str:
        """Of this scratch directory, the same for whichever node has it mounted."""
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(
                "id", os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=self._descriptor
            )
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(8))
        found = self.read("id").decode(errors="replace")
        if len(found) != 16 or not found.isalnum():
            raise AgentError(f"{DIRECTORY}/id is damaged", remedy="remove it; it is made anew")
        return found

    def now(self) -> float:
        """What the file system holds for the time: that of a file made just now."""
        with self._probe() as descriptor:
            return os.fstat(descriptor).st_mtime

    def check_clock(self, wall: float) -> None:
        """Raises AgentError when the two clocks are too far apart to say how old anything is."""
        apart = wall - self.now()
        if abs(apart) > CLOCK_LIMIT_S:
            raise AgentError(
                f"the clock of this node is {abs(apart):.0f} s "
                f"{'ahead of' if apart > 0 else 'behind'} that of the file system",
                remedy="set both by NTP; until then nothing is removed",
            )

    def access(self) -> Access:
        """What reading a file does to its time of access, tried out. `relatime` moves one that is
        a day old or not later than the last change, which is now: so a later one tells.
        """
        with self._probe() as descriptor:
            now = int(time.time())
            for before, noted in ((now + 1000, Access.EXACT), (now - 3 * 86400, Access.DAILY)):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.utime(descriptor, (before, now - 4 * 86400))
                os.pread(descriptor, 1, 0)
                if int(os.fstat(descriptor).st_atime) != before:
                    return noted
        return Access.FROZEN

    def recall(self, rule: str) -> Memory | None:
        """None: nothing is known of this rule, or it cannot be read."""
        return _recall(self._descriptor, rule)

    def keep(self, rule: str, memory: Memory) -> None:
        """Whole or not at all. Only for whoever has the lock."""
        aside = f"{_file(rule)}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS
        with os.fdopen(os.open(aside, flags, 0o600, dir_fd=self._descriptor), "w") as file:
            file.write(encode(memory))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, _file(rule), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    @asynccontextmanager
    async def alone(self, node: str, settles_s: float) -> AsyncIterator[Heartbeat]:
        """For as long as nobody else works here; `settles_s` is waited for to be certain. Raises
        AgentError, naming who does.
        """
        descriptor = os.open(
            "lock", os.O_RDWR | os.O_CREAT | _FLAGS, 0o600, dir_fd=self._descriptor
        )
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _busy(os.pread(descriptor, 300, 0)) from None
            owner = os.pread(descriptor, 300, 0).strip()
            # What our own node wrote is of a process that has ended: it would have the lock.
            ours = owner.partition(b"\n")[0] == node.encode()
            if owner and not ours and self.now() - os.fstat(descriptor).st_mtime < STALE_S:
                raise _busy(owner)
            heartbeat = Heartbeat(self, descriptor, node)
            heartbeat.write()
            if settles_s:
                await trio.sleep(settles_s)
                heartbeat.check()
            try:
                yield heartbeat
            finally:
                heartbeat.leave()
        finally:
            os.close(descriptor)

    def read(self, name: str) -> bytes:
        """The beginning of one of our files."""
        descriptor = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=self._descriptor)
        try:
            return os.read(descriptor, 4096)
        finally:
            os.close(descriptor)

    @contextmanager
    def _probe(self) -> Iterator[int]:
        """A file with something in it, that nobody has touched."""
        name = f"probe.{secrets.token_hex(6)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            with contextlib.suppress(OSError):  # no room: its times are there all the same
                os.write(descriptor, b"\n")
                os.fsync(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)
            os.unlink(name, dir_fd=self._descriptor)


class Heartbeat:
    """Says to other nodes that somebody is at work: who in the file, and that it is still so by the
    file's time. Of one length, so that a file system that is full has room for it.
    """

    def __init__(self, private: Private, descriptor: int, node: str) -> None:
        self._private, self._descriptor = private, descriptor
        self._text = f"{node[:200]}\n{secrets.token_hex(8)}".encode()
        self._written = False
        self._at = 0.0

    def beat(self) -> None:
        """Does something once a minute; call it often. Raises OSError, or AgentError when another
        node has taken over: this one was away for too long.
        """
        now = time.monotonic()
        if now - self._at >= _BEAT_S:
            self._at = now
            self.check()
            os.utime(self._descriptor)

    def write(self) -> None:
        """Where there is no room for that yet, the lock alone must do, which other nodes may not
        see.
        """
        self._at = time.monotonic()
        try:
            os.pwrite(self._descriptor, self._text.ljust(_LOCK_BYTES), 0)
            os.fsync(self._descriptor)
            self._written = True
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def check(self) -> None:
        """Opened anew: so a network file system looks at what others wrote."""
        found = self._private.read("lock").strip()
        if found != self._text and (found or self._written):
            raise _busy(found)

    def leave(self) -> None:
        with contextlib.suppress(OSError, AgentError):
            self.check()
            if self._written:
                os.pwrite(self._descriptor, b"".ljust(_LOCK_BYTES), 0)


def recalled(root: Folder, rule: str) -> Memory | None:
    """What is known of a rule, for whoever only looks."""
    try:
        descriptor = os.open(
            DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=root.descriptor
        )
    except OSError:
        return None
    try:
        return _recall(descriptor, rule) if os.fstat(descriptor).st_uid == os.geteuid() else None
    finally:
        os.close(descriptor)


def _recall(directory: int, rule: str) -> Memory | None:
    try:
        flags = os.O_RDONLY | _FLAGS
        with os.fdopen(os.open(_file(rule), flags, dir_fd=directory)) as file:
            return decode(file.read())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _busy(owner: bytes) -> AgentError:
    name = owner.partition(b"\n")[0].decode(errors="replace") or "another process"
    return AgentError(
        f"{name} is at work on this scratch directory",
        remedy="one at a time: wait until it is done",
    )


def _file(rule: str) -> str:
    """Two rules may differ by a slash alone, and a name may be long."""
    return f"{hashlib.sha256(os.fsencode(rule)).hexdigest()[:16]}.json"
