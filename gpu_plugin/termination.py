# SPDX-License-Identifier: Apache-2.0
"""The termination message of a container: what `kubectl describe pod` and KubeSpawner show when its
first process has ended. Written just before that process is ended, and only if the program left
none.

The kubelet mounts an empty file of the host, `pods/<uid>/containers/<name>/<eight hex digits>`
below its directory, at `terminationMessagePath`. Which mount it is, is read from the process's
mountinfo; the file is opened through the process's own root, in which every path is the user's: no
link is followed, and what was opened has to be that very mount. Blocks: worker threads only.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from agents import mountinfo
from agents.hostfs import PROC
from agents.mountinfo import MountEntry
from agents.openat2 import Resolve, openat2
from agents.processes import ProcessKey, pinned
from agents.threads import ThreadLane

#: The kubelet reads no more.
_LARGEST = 4096
_LIMIT_S = 0.3
#: The kubelet's own file: the root of the mount, in whichever file system its directory lies. What
#: lies in a volume has another path.
_FILE = r"(/[^/]+)*/pods/{uid}/containers/[^/]+/[0-9a-f]{{8}}"


class LastWords:
    """Messages of several containers, from any thread. The path that is opened is the user's, who
    may have put a file system there that never answers: nobody waits for longer than a moment, and
    such a one costs the messages of its own pod alone.
    """

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._lanes: dict[str, ThreadLane] = {}

    def leave(self, main: ProcessKey, pod_uid: str, text: str) -> bool:
        """As `leave_message`; raises Unavailable as well."""
        return self._in_time(pod_uid, lambda: leave_message(self._proc, main, pod_uid, text))

    def withdraw(self, main: ProcessKey, pod_uid: str, beginning: str) -> bool:
        """As `withdraw_message`; raises Unavailable as well."""
        return self._in_time(
            pod_uid, lambda: withdraw_message(self._proc, main, pod_uid, beginning)
        )

    def _in_time(self, pod_uid: str, work: Callable[[], bool]) -> bool:
        lane = self._lanes.setdefault(pod_uid, ThreadLane(f"the container of pod {pod_uid}"))
        found = lane.call(work, timeout_s=_LIMIT_S)
        self._lanes.pop(pod_uid, None)  # kept only while something hangs in it
        return found


def leave_message(proc: Path, main: ProcessKey, pod_uid: str, text: str) -> bool:
    """Whether the message is there now. False: there is one already, or no place for one; also
    when in doubt whether the place is the kubelet's. Raises OSError.
    """
    return _at_place(proc, main, pod_uid, lambda file: _leave(file, text))


def withdraw_message(proc: Path, main: ProcessKey, pod_uid: str, beginning: str) -> bool:
    """Take a message of ours back (known by how it begins): the process was asked to end, and went
    on within what it may have. Whether there was one. Raises OSError.
    """
    return _at_place(proc, main, pod_uid, lambda file: _withdraw(file, beginning))


def _leave(file: int, text: str) -> bool:
    if os.fstat(file).st_size:
        return False
    os.write(file, text.encode()[:_LARGEST])
    return True


def _withdraw(file: int, beginning: str) -> bool:
    expected = beginning.encode()
    if os.pread(file, len(expected), 0) != expected:
        return False
    os.ftruncate(file, 0)
    return True


def _at_place(proc: Path, main: ProcessKey, pod_uid: str, work: Callable[[int], bool]) -> bool:
    with pinned(proc, main) as process:
        if process is None:
            return False
        place = _place(mountinfo.read(proc, main.pid), pod_uid)
        if place is None:
            return False
        root = os.open(proc / str(main.pid) / "root", os.O_PATH | os.O_DIRECTORY)
        try:
            return _open_and(root, place, work)
        except OSError as error:
            if error.errno in _NO_PLACE:
                return False
            raise
        finally:
            os.close(root)


#: A link, nothing, or something else in the place.
_NO_PLACE = frozenset({errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ENXIO})


def _place(entries: tuple[MountEntry, ...], pod_uid: str) -> MountEntry | None:
    """The mount that the kubelet made; None: there is none, or more than one."""
    pattern = re.compile(_FILE.format(uid=re.escape(pod_uid)))
    found = [
        entry
        for entry in entries
        if pattern.fullmatch(entry.root) and "/volumes/" not in entry.root
    ]
    return found[0] if len(found) == 1 and not found[0].read_only else None


def _open_and(root: int, place: MountEntry, work: Callable[[int], bool]) -> bool:
    refused = Resolve.IN_ROOT | Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS
    found = openat2(root, place.mount_point, os.O_PATH | os.O_NOFOLLOW, refused)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode) or _mount_id(found) != place.mount_id:
            return False
        # By its descriptor: nobody can put anything else in its place any more.
        flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(PROC / "self/fd" / str(found), flags)
        try:
            return work(descriptor)
        finally:
            os.close(descriptor)
    finally:
        os.close(found)


def _mount_id(descriptor: int) -> int:
    lines = (PROC / "self/fdinfo" / str(descriptor)).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
