# SPDX-License-Identifier: Apache-2.0
"""An agent that answers calls of containers with 7, as a process to kill and to stop.

Arguments: the holder's socket, and how long it holds each call, in seconds. It tells each arrival,
and that it was replaced.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from agents.errors import Unavailable
from agents.seccomp_connection import Arrival, Replaced, SeccompConnection
from agents.seccomp_notify import answer, receive
from agents.seccomp_slots import Slots

ANSWER = 7
#: Instead of a time: it stops itself in the worst moment.
STOPS_WHILE_WRITING = -1.0
_BEAT_S = 0.1


class Agent:
    """One epoll loop."""

    def __init__(self, path: Path, hold_s: float) -> None:
        self.slots = Slots()
        self.connection = SeccompConnection(path, self.slots)
        self.hold_s = hold_s
        self.epoll = select.epoll()
        self.arrivals: dict[int, Arrival] = {}
        #: When to answer: slot, descriptor, id.
        self.held: list[tuple[float, int, int, int]] = []

    def connect(self, *, replace: bool = True) -> bool:
        try:
            self.connection.connect(self.arrivals.values(), replace=replace)
        except Unavailable:
            return False
        self.epoll.register(self.connection.fileno(), select.EPOLLIN)
        return True

    def run(self) -> None:
        connected = self.connect()
        while True:
            self.slots.beat()
            events = self.epoll.poll(_BEAT_S / 10 if self.held else _BEAT_S)
            if not connected:
                connected = self.connect()
            for number, event in events:
                if connected and number == self.connection.fileno():
                    connected = self.take()
                elif number in self.arrivals:
                    self.look(number, event)
            self.answer_due()

    def take(self) -> bool:
        try:
            for one in self.connection.receive():
                self.arrivals[one.descriptor] = one
                self.epoll.register(one.descriptor, select.EPOLLIN)
                state = asdict(one.state)
                _say(json.dumps({"token": one.token, "fresh": one.fresh, **state}))
        except Unavailable:
            return False
        except Replaced:
            self.hold_s = 0
            self.answer_due()
            _say("replaced")
            os._exit(0)
        return True

    def look(self, number: int, event: int) -> None:
        if not event & select.EPOLLIN:
            self.epoll.unregister(number)
            del self.arrivals[number]
            os.close(number)
        elif not self.slots.revoked:
            self.receive(number)

    def receive(self, number: int) -> None:
        slot = self.slots.acquire(self.arrivals[number].token)
        if slot is None:
            return
        if receive(number, self.slots.address(slot)):
            if self.hold_s == STOPS_WHILE_WRITING and self.slots.begin_write(slot):
                os.kill(os.getpid(), signal.SIGSTOP)
            id_ = self.slots.notification(slot).id
            self.held.append((time.monotonic() + self.hold_s, slot, number, id_))
        else:
            self.slots.release(slot)

    def answer_due(self) -> None:
        due = time.monotonic()
        for one in [one for one in self.held if one[0] <= due or not self.hold_s]:
            self.held.remove(one)
            with suppress(OSError):  # nobody is left who could call, and it was closed
                answer(one[2], one[3], ANSWER)
            self.slots.release(one[1])


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    Agent(Path(sys.argv[1]), float(sys.argv[2])).run()
