# SPDX-License-Identifier: Apache-2.0
"""One run over one directory: walk, judge, announce, remove. Knows no configuration file, no agent
and no clock: `now` is given, and waiting is the caller's.

A file that nobody used for its age is *due*. Its owner is told from the first run on that finds it
so; it goes when he has been told for the grace. That is known by folder: one that was moved here
is another one, and a file that came later has changed its status since (rename, copy, unpack). When
the file system is too full the oldest go first, without announcement.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fuse_mounter.scratch import notices
from fuse_mounter.scratch.ages import Ages, last_use
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.keeping import Keeping
from fuse_mounter.scratch.memory import Memory, folder_key
from fuse_mounter.scratch.notices import Line, Notice
from fuse_mounter.scratch.outcome import Outcome, Skipped
from fuse_mounter.scratch.removal import File, Remover
from fuse_mounter.scratch.walk import Emptied, Files, Folder, Passed, walk

#: Files from the future: a clock was wrong, and nobody knows how old they are.
AHEAD_S = 3600.0
_PASSED = {
    "mount": Skipped.MOUNT,
    "depth": Skipped.DEPTH,
    "unreadable": Skipped.UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is to do. `now` in seconds of the epoch. `full_since`: last uses before it go at
    once, for want of space (None: there is space); `mounts` are paths below the root;
    `reading_counts`: who reads a file keeps it.
    """

    rule: ScratchRule
    now: float
    armed: bool
    memory: Memory
    full_since: float | None = None
    mounts: frozenset[str] = frozenset()
    reading_counts: bool = True


#: What would go, or went: path below the root, bytes, last use, when it goes (None: now).
Told = Callable[[str, int, float, float | None], None]


class Purge:
    """`steps` does the work. `told` is for the next run, when this one is over.

    `is_open` says whether an inode is in use on this node. `tells`: users get their notices.
    """

    def __init__(
        self,
        order: Order,
        root: Folder,
        proc: Path,
        is_open: Callable[[int], bool],
        told: Told | None = None,
        *,
        tells: bool = True,
    ) -> None:
        self._order, self._rule, self._root, self._proc = order, order.rule, root, proc
        self._ages = Ages(order.rule)
        self._last_use = last_use(order.rule.clock)
        self._told, self._tells = told, tells
        self._keeping = Keeping(order.rule, self._ages)
        self._remover = Remover(root, proc, self._last_use, is_open)
        self._ours = notices.names(order.rule.notice_file)
        self._notice = Notice()
        self._news: dict[int, float] = {}  # of this user: he is told when his folder is done
        #: Last uses after it are not looked at any further.
        self._young = max(order.now - self._ages.shortest, order.full_since or 0.0)
        self._ahead = order.now + AHEAD_S
        self.outcome = Outcome(armed=order.armed)
        self.told: dict[int, float] = {}

    def steps(self) -> Iterator[float]:
        """Each step tells how long (seconds) to wait before the next one. Raises OSError when the
        root cannot be read, or the file system does not work any more.
        """
        pause = 1.0 / self._rule.rate
        for found in walk(self._root, self._proc, self._enter, self._order.mounts):
            if isinstance(found, Files):
                for file in self._old_ones(found):
                    if self._old(file):
                        yield pause
            elif isinstance(found, Emptied):
                self._leave(found.folder)
            else:
                self._pass(found)
            yield 0.0
        self.told |= self._news

    # What is found

    def _old_ones(self, found: Files) -> list[File]:
        """Those that may be old enough. Most files of a scratch space are in use, and this is all
        that is done for them.
        """
        outcome, last_use, young, ahead = self.outcome, self._last_use, self._young, self._ahead
        old, oldest, size = [], math.inf, 0
        for name, status in found.entries:
            size += status.st_blocks
            used = last_use(status)
            if used <= young:
                old.append(File(found.folder, name, status))
            elif used > ahead:
                outcome.skip(Skipped.FUTURE)
            elif used < oldest:
                oldest = used
        outcome.scanned += len(found.entries)
        outcome.scanned_bytes += size * 512
        if len(old) < len(found.entries):
            found.folder.kept = True
        if oldest < math.inf:
            outcome.stays(oldest)
        return old

    def _enter(self, folder: Folder) -> bool:
        if self._keeping.is_ours(folder):
            return False
        if (why := self._keeping.why(folder)) is not None:
            self.outcome.skip(why)
            return False
        self.outcome.folders += 1
        if folder.depth == 1 and self._rule.users:
            self._notice, self._news = Notice(), {}
        return True

    def _pass(self, passed: Passed) -> None:
        self.outcome.skip(_PASSED[passed.reason])

    def _old(self, file: File) -> bool:
        """A file that may be old enough. Whether it was removed."""
        if self._rule.users and file.folder.depth < 2 and self._is_nobodys(file):
            return False
        path, size = file.path, file.status.st_blocks * 512
        used = self._last_use(file.status)
        due = used + self._ages.of(path, size)
        goes = self._goes(file, used, due)
        if goes is None:
            file.folder.kept = True
            self.outcome.stays(used)
            if due == math.inf:
                self.outcome.skip(Skipped.KEPT)
            return False
        if goes > self._order.now:
            file.folder.kept = True
            self.outcome.stays(used)
            self._announce(file, path, size, used, goes)
            return False
        return self._go(file, path, size, used)

    def _is_nobodys(self, file: File) -> bool:
        """Our notices; and what lies beside the users' folders, whose owner could not be told: the
        administrator's, or a link in the place of a folder.
        """
        if file.folder.depth == 0:
            self.outcome.skip(Skipped.KEPT)
            return True
        return file.name in self._ours

    def _goes(self, file: File, used: float, due: float) -> float | None:
        """When it goes; None: not yet."""
        now, full = self._order.now, self._order.full_since
        if full is not None and used <= full and due != math.inf:
            return now
        if due > now:
            return None
        if not self._rule.grace:
            return now
        since = max(due, self._told_since(file.folder), file.status.st_ctime)
        return self._order.memory.told_of(since, now) + self._rule.grace

    def _told_since(self, folder: Folder) -> float:
        key = folder_key(folder.status.st_ino, folder.path)
        if key in self.told:
            return self.told[key]
        if (before := self._order.memory.told.get(key)) is not None:
            self.told[key] = before
            return before
        return self._news.setdefault(key, self._order.now)

    def _announce(self, file: File, path: str, size: int, used: float, goes: float) -> None:
        self.outcome.skip(Skipped.ANNOUNCED)
        self.outcome.announced_bytes += size
        if self._told is not None:
            self._told(path, size, used, goes)
        if self._rule.users and file.folder.depth:
            self._notice.add(Line(path.partition("/")[2], size, used, goes))

    def _go(self, file: File, path: str, size: int, used: float) -> bool:
        why = self._why_stays(file, size)
        if why is None:
            unused_since = used + 1e-6  # as a file system rounds it when asked again
            act = self._remover.remove if self._order.armed else self._remover.why_not
            why = act(file, unused_since)
        if why is not None:
            self.outcome.skip(why)
            if why is not Skipped.CHANGED:
                self.outcome.stays(used)
            file.folder.kept = True
            return False
        if self._told is not None:
            self._told(path, size, used, None)
        self.outcome.removed += 1
        # The bytes of a file with another name stay.
        self.outcome.removed_bytes += size if file.status.st_nlink == 1 else 0
        return True

    def _why_stays(self, file: File, size: int) -> Skipped | None:
        mode = file.status.st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            return Skipped.SPECIAL
        done, most = self.outcome, self._rule.most_bytes
        if done.removed >= self._rule.most_files:
            return Skipped.CAPPED
        return Skipped.CAPPED if most is not None and done.removed_bytes + size > most else None

    # After all that is in a folder

    def _leave(self, folder: Folder) -> None:
        if folder.depth == 1 and self._rule.users:
            self._tell(folder)
        elif not folder.kept and self._empty_goes(folder):
            self.outcome.removed_folders += 1
            return
        if folder.parent is not None:
            folder.parent.kept = True

    def _empty_goes(self, folder: Folder) -> bool:
        """A walk reads a folder, which moves its access time: that one tells nothing."""
        if not self._rule.empty_folders:
            return False
        touched = max(folder.status.st_mtime, folder.status.st_ctime)
        if touched + self._ages.of(folder.path, 0) + self._rule.grace > self._order.now:
            return False
        return self._remover.remove_folder(folder) if self._order.armed else True

    def _tell(self, folder: Folder) -> None:
        """The user's notice. What is new in one that cannot be written he has not been told."""
        name, notice = self._rule.notice_file, self._notice
        try:
            if name is not None and self._tells:
                self._write(folder, name, notice)
        except OSError as error:
            self.outcome.problem(f"{folder.name!r} could not be told: {error.strerror}")
        else:
            self.told |= self._news
        self._news = {}

    def _write(self, folder: Folder, name: str, notice: Notice) -> None:
        if not notice.files:
            notices.take_away(folder, name)
            return
        rule, armed = self._rule, self._order.armed
        counts = self._order.reading_counts
        text = notices.text(notice, rule.name, rule.keep_file, armed=armed, reading_counts=counts)
        listed = notices.document(notice, rule.name, armed)
        notices.write(folder, name, [(name, text), (notices.list_name(name), listed)])
