# SPDX-License-Identifier: Apache-2.0
"""How many threads of a container run or wait for a disk at this moment.

No controller counts them, so they are looked at one by one, but only as often as the kernel samples
its own load, only when something was used since, and never more than a few of them: of many
threads a sample stands for all. Knows no average (`views.loadavg`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from agents.cgroups import Cgroup
from lxcfs_helper.facts import LoadAccount
from lxcfs_helper.views import loadavg

#: As often as the kernel does (include/linux/sched/loadavg.h: LOAD_FREQ).
EVERY_S = 5.0

#: Looking at one thread costs about 5 us.
MOST_THREADS = 128


_READ_SIZE = 4096


class LoadReader:
    """One container's. `proc` is the host's."""

    def __init__(self, cgroup: Cgroup, proc: Path) -> None:
        self._cgroup = cgroup
        self._proc = proc
        self._seen: object = None

    def read(self, account: LoadAccount, now: float) -> LoadAccount:
        """The averages as they are at `now`, in seconds since boot. What is fresh is returned as it
        is."""
        if account.at and now - account.at < EVERY_S:
            return account
        seen = self._cgroup.cpu.activity(), self._cgroup.waited()
        # Nothing was run and nothing waited since the last look: nothing runs.
        running, threads = (0, account.threads) if seen == self._seen else self._look()
        self._seen = seen
        return loadavg.advance(account, running, threads, now)

    def _look(self) -> tuple[int, int]:
        threads = self._cgroup.threads()
        looked_at = threads if len(threads) <= MOST_THREADS else _sample(threads)
        if not looked_at:
            return 0, 0
        busy = sum(_is_busy(self._proc, thread) for thread in looked_at)
        return round(busy * len(threads) / len(looked_at)), len(threads)


def _sample(threads: Sequence[int]) -> Sequence[int]:
    return random.sample(threads, MOST_THREADS)


def _is_busy(proc: Path, thread: int) -> bool:
    """Whether it runs, wants to run, or waits uninterruptibly: what the kernel's load counts."""
    try:
        # A third of what the same costs with `Path`, and there may be thousands.
        descriptor = os.open(f"{proc}/{thread}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it ended
        return False
    try:
        text = os.read(descriptor, _READ_SIZE)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    # The name before it is in brackets, and may hold anything.
    return text[text.rfind(b")") + 2 : text.rfind(b")") + 3] in (b"R", b"D")
