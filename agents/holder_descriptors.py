# SPDX-License-Identifier: Apache-2.0
"""The holder's descriptors of containers. Those that nobody else answers are served here: each call
continues, as if nobody had asked. Knows no agent.

Standard library only, and nothing of this package that is not: the holder loads this file.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from agents.seccomp_notify import LINK, NOTIFICATION_BYTES, parse, proceed, receive

State = dict[str, Any]

#: Calls that are answered in one turn, so that clients and agents are looked after in between.
_BATCH = 64
#: To receive blocks where somebody else was faster, against all expectation: it is interrupted.
_INTERRUPT_S = 0.05
_MOST = 1 << 20


class Descriptor:
    """One of them. `owner`: who receives from it, instead of us; `served`: we do. Where neither
    is, its calls wait. `number` is -1 when it was closed.
    """

    def __init__(self, token: int, number: int, state: State) -> None:
        self.token, self.number, self.state = token, number, state
        self.owner: object = None
        self.served = False


class Descriptors:
    """All of them, by token. `watch` calls back when a descriptor is readable."""

    def __init__(self, watch: Callable[[int, Callable[[], None]], None]) -> None:
        self._by_token: dict[int, Descriptor] = {}
        self._by_number: dict[int, Descriptor] = {}
        # Those that we serve wake us; at the others we only look.
        self._served, self._watched = select.epoll(), select.epoll()
        self._buffer = ctypes.create_string_buffer(NOTIFICATION_BYTES)
        signal.signal(signal.SIGALRM, lambda *_: None)  # it interrupts, and nothing else
        watch(self._served.fileno(), self._serve_some)

    def __len__(self) -> int:
        return len(self._by_token)

    def __iter__(self) -> Iterator[Descriptor]:
        return iter(tuple(self._by_token.values()))

    def get(self, token: int) -> Descriptor | None:
        return self._by_token.get(token)

    def add(self, token: int, number: int, state: State) -> Descriptor:
        """Ours from now on; nobody answers yet. Raises OSError when there is no memory for it:
        then it is closed, and its calls fail."""
        one = Descriptor(token, number, state)
        try:
            self._watched.register(number, select.EPOLLIN)
        except OSError:
            os.close(number)
            raise
        self._by_token[token] = self._by_number[number] = one
        return one

    def serve(self, one: Descriptor) -> None:
        """Its calls continue from now on."""
        one.owner = None
        self._move(one, served=True)

    def leave(self, one: Descriptor, owner: object) -> None:
        """To somebody else, who receives from now on; None: to nobody yet."""
        one.owner = owner
        self._move(one, served=False)

    def let_continue(self, token: int, id_: int) -> None:
        """A call that somebody else has received. Nothing happens when it was answered."""
        one = self._by_token.get(token)
        if one is not None:
            with suppress(OSError):
                proceed(one.number, id_)

    def waiting(self) -> set[object]:
        """Owners of descriptors with calls that nobody has received. Lets go of those that nobody
        can call by any more.
        """
        found = set()
        for number, events in self._watched.poll(0, max(1, len(self._by_token))):
            one = self._by_number[number]
            if events & select.EPOLLIN:
                found.add(one.owner)
            else:
                self._close(one)
        return found

    def _move(self, one: Descriptor, *, served: bool) -> None:
        if one.served != served and one.number >= 0:
            here, there = self._epolls(one.served), self._epolls(served)
            # A copy of the descriptor elsewhere would keep it in there.
            here.unregister(one.number)
            there.register(one.number, select.EPOLLIN)
            one.served = served

    def _epolls(self, served: bool) -> select.epoll:
        return self._served if served else self._watched

    def _close(self, one: Descriptor) -> None:
        self._epolls(one.served).unregister(one.number)
        del self._by_token[one.token], self._by_number[one.number]
        os.close(one.number)
        one.number = -1

    def _serve_some(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, _INTERRUPT_S, _INTERRUPT_S)
        try:
            for _ in range(_BATCH):
                # One at a time: each call may be there by several copies of a descriptor.
                ready = self._served.poll(0, 1)
                if not ready:
                    break
                ((number, events),) = ready
                one = self._by_number[number]
                if not events & select.EPOLLIN or not self._serve_one(one):
                    self._close(one)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _serve_one(self, one: Descriptor) -> bool:
        """False: no call can be answered by it. Then it is better closed, and calls fail."""
        ctypes.memset(self._buffer, 0, NOTIFICATION_BYTES)
        try:
            if receive(one.number, ctypes.addressof(self._buffer)):
                proceed(one.number, parse(self._buffer.raw).id)
        except OSError as error:
            print(f"calls of {one.state.get('id')!r} fail: {error}", file=sys.stderr)  # noqa: T201 -- stderr is our log
            return False
        return True


def raise_limit() -> None:
    """Each container, and each process that is executed in one, needs a descriptor: as many as we
    may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, _MOST)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # without CAP_SYS_RESOURCE, or beyond fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def is_notify(proc: str, descriptor: int) -> bool:
    """Whether calls can be answered by it. By its name alone: to ask any other file could block."""
    try:
        return os.readlink(f"{proc}/self/fd/{descriptor}") == LINK  # noqa: PTH115 -- no pathlib here
    except OSError:
        return False
