# SPDX-License-Identifier: Apache-2.0
"""A program under a seccomp filter, as a runtime would start it: it hands its own descriptor over,
calls again and again, and tells what it got.

The call is sched_get_priority_max(2), because an answer to it is a number and nothing else: the
kernel's is 99. Arguments: socket, container id, threads. It prints `ready`, and for each line of
input one of JSON, with the answers and their number since the last one, and for how long the
slowest call took or takes. When its input ends it does, with code 1 if a caller does not come back.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import struct
import sys
import threading
import time
from collections import Counter

#: The number of sched_get_priority_max, and of seccomp, by architecture.
NUMBERS = {"x86_64": (146, 317), "aarch64": (125, 277)}
KERNELS_ANSWER = 99
FIFO = 1

_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_NO_NEW_PRIVILEGES = 38


def install(*numbers: int) -> int:
    """A filter that asks about these system calls, for this thread and those it starts; returns
    the descriptor by which they are answered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    steps = [(_LOAD, 0, 0, 0)]
    for left, number in enumerate(reversed(numbers)):
        steps.insert(1, (_IF_EQUAL, left + 1, 0, number))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOTIFY)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    seccomp = NUMBERS[platform.machine()][1]
    descriptor = libc.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, program)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(descriptor)


def hand_over(path: str, container_id: str, descriptor: int) -> None:
    """As runc does it."""
    state = {
        "ociVersion": "1.0.2",
        "fds": ["seccompFd"],
        "pid": os.getpid(),
        "metadata": "profile-1",
        "state": {
            "ociVersion": "1.0.2",
            "id": container_id,
            "status": "creating",
            "pid": os.getpid(),
            "bundle": "/run/bundle",
            "annotations": {"io.kubernetes.cri.container-name": "main"},
        },
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(state).encode()], [descriptor])
    os.close(descriptor)


class Calls:
    """What the callers got so far."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.ended = False
        #: Since when each caller waits.
        self.waiting: dict[int, float] = {}

    def go_on(self) -> None:
        """Call until told to end."""
        libc = ctypes.CDLL(None, use_errno=True)  # lets others run while it waits
        me = threading.get_ident()
        while not self.ended:
            before = self.waiting[me] = time.monotonic()
            value = libc.sched_get_priority_max(FIFO)
            answer = str(value) if value >= 0 else os.strerror(ctypes.get_errno())
            del self.waiting[me]
            self.slowest_s = max(self.slowest_s, time.monotonic() - before)
            self.answers[answer] += 1
            time.sleep(0.0005)

    def told(self) -> dict[str, object]:
        """Since the last time; who waits still counts as well."""
        now = time.monotonic()
        waiting = [now - since for since in list(self.waiting.values())]
        told = {"answers": dict(self.answers), "slowest_s": max(self.slowest_s, *waiting, 0.0)}
        self.answers.clear()
        self.slowest_s = 0.0
        return told


def main(path: str, container_id: str, threads: str) -> int:
    hand_over(path, container_id, install(NUMBERS[platform.machine()][0]))
    calls = Calls()
    callers = [threading.Thread(target=calls.go_on, daemon=True) for _ in range(int(threads))]
    for one in callers:
        one.start()
    _say("ready")
    for _ in sys.stdin:  # each line asks what there was since the last one
        _say(json.dumps(calls.told()))
    calls.ended = True
    for one in callers:
        one.join(10)
    return int(any(one.is_alive() for one in callers))


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
