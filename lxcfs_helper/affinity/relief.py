# SPDX-License-Identifier: Apache-2.0
"""A thread that is replaced by another one while it hangs in a call that nobody can cancel. Knows
nothing of what it does.

Nobody watches while nothing is watched, so that an idle agent sleeps.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

#: What takes longer hangs; looked at this often.
_HANGS_S, _LOOK_S = 0.2, 0.1


class Relief:
    """`work` gets a function that says whether it is still the one to work; as soon as it is not,
    it must touch nothing that it shares. `relieved` is called when another one was started."""

    def __init__(
        self,
        what: str,
        work: Callable[[Callable[[], bool]], None],
        relieved: Callable[[], None],
    ) -> None:
        self._what, self._work, self._relieved = what, work, relieved
        self._worker: threading.Thread | None = None
        self._watcher = threading.Thread(target=self._watch, name=f"{what}: watch", daemon=True)
        self._to_watch = threading.Event()
        self._since: float | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        self._watcher.start()
        self._next()

    def join(self, timeout_s: float = 2.0) -> bool:
        """Wait until the one that works has ended, which it was told by other means; whether it
        has."""
        ended = self._ended.wait(timeout_s)
        self._to_watch.set()
        return ended

    def begin(self) -> None:
        """What is done until `end` may hang."""
        self._since = time.monotonic()
        if not self._to_watch.is_set():
            self._to_watch.set()

    def end(self) -> None:
        if self._worker is threading.current_thread():
            self._since = None

    def _next(self) -> None:
        # A daemon: what hangs must not keep the process from ending.
        self._worker = threading.Thread(target=self._run, name=self._what, daemon=True)
        self._worker.start()

    def _run(self) -> None:
        me = threading.current_thread()
        # A signal would interrupt calls that cannot be told apart from others then.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._work(lambda: self._worker is me)
        if self._worker is me:
            self._ended.set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._to_watch.wait()
            self._to_watch.clear()
            # Not at once: a busy worker would wake us each time.
            self._ended.wait(_LOOK_S)
            while (since := self._since) is not None and not self._ended.wait(_LOOK_S):
                if self._since == since and time.monotonic() - since > _HANGS_S:
                    self._since = None
                    self._relieved()
                    self._next()
