# SPDX-License-Identifier: Apache-2.0
"""The answering thread with real filters of real processes: whom it holds, for how long, and what
becomes of those who do not wait for it. Nobody covers anything here.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.seccomp_connection import Arrival, SeccompState
from agents.seccomp_slots import Slots
from lxcfs_helper.affinity.answering import Answering
from lxcfs_helper.affinity.loop import Heard, Loop
from lxcfs_helper.affinity.syscalls import ABIS, Call
from lxcfs_helper.affinity.tally import Outcome, Result, Tally
from tests.fakes import seccomp_program
from tests.fakes.real_container import eventually

EXECVE = next(
    number
    for abi in ABIS.values()
    if abi.name == platform.machine()
    for number, call in abi.calls.items()
    if call is Call.EXECVE
)
#: Makes its filter, hands it over, and then starts programs: one for each line, and says so.
PROGRAM = """
import ctypes, os, signal, socket, sys
from tests.fakes import seccomp_program
channel = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGWINCH, lambda *_: None)
signal.siginterrupt(signal.SIGWINCH, False)
descriptor = seccomp_program.install(int(sys.argv[2]))
socket.send_fds(channel, [b"x"], [descriptor])
os.close(descriptor)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.execv("/bin/true", ["true"])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Connection:
    """Brings what is put into it."""

    def __init__(self) -> None:
        self._theirs, self._ours = socket.socketpair()
        self._waiting: deque[Arrival] = deque()
        self.error: AgentError | None = None

    def bring(self, arrival: Arrival) -> None:
        self._waiting.append(arrival)
        self._ours.send(b"x")

    def break_down(self, error: AgentError) -> None:
        self.error = error
        self._ours.send(b"x")

    def fileno(self) -> int:
        return self._theirs.fileno()

    def receive(self) -> Sequence[Arrival]:
        self._theirs.recv(1)
        if self.error is not None:
            raise self.error
        return [self._waiting.popleft()]

    def close(self) -> None:
        self._theirs.close()
        self._ours.close()


class Program:
    """A process whose execve calls are asked about."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(EXECVE)],
                cwd=Path(seccomp_program.__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[theirs.fileno()],
            )
            ours.settimeout(60)
            self.descriptor = socket.recv_fds(ours, 1, 1)[1][0]

    def children(self) -> list[int]:
        pid = self.process.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def started(self) -> bool:
        """Waits until it was."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "0\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


class Answered:
    """The thread, what it is told, and what it says."""

    def __init__(self, slots: int = 16) -> None:
        self.hold_s = 60.0
        self.tally, self.slots, self.connection = Tally(), Slots(slots), Connection()
        self.ended: list[str] = []
        self.errors: list[Exception] = []
        self.programs: list[Program] = []
        heard = Heard(
            lambda arrival: None, self.ended.append, self.errors.append, self.errors.append
        )
        answering = Answering(HostFs())
        self.loop = Loop(answering, self.slots, self.tally, heard, lambda: self.hold_s)
        self.loop.start()
        seam: Any = self.connection
        self.loop.connected(seam)

    def program(self, container_id: str = "container-1") -> Program:
        made = Program()
        self.programs.append(made)
        token = len(self.programs)
        self.connection.bring(Arrival(token, made.descriptor, SeccompState(container_id), True))
        eventually(lambda: self.loop.descriptors == token, "listened to", 60)
        return made

    def held(self, number: int) -> None:
        eventually(lambda: self.loop.waiting == number, f"{number} held", 60)

    def close(self) -> None:
        for one in self.programs:
            one.end()
        self.loop.stop()
        self.slots.close()
        self.connection.close()


@pytest.fixture
def make_answered() -> Iterator[Callable[..., Answered]]:
    made: list[Answered] = []

    def make(*arguments: Any) -> Answered:
        made.append(Answered(*arguments))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()
            assert not any(isinstance(error, OSError) for error in one.errors)


@pytest.fixture
def answered(make_answered: Callable[..., Answered]) -> Answered:
    return make_answered()


def test_a_program_is_held_until_it_is_let_go_and_the_next_is_not(answered: Answered) -> None:
    program = answered.program()
    program.start()
    answered.held(1)
    answered.loop.let_go("container-1", Outcome.ATTACHED)
    assert program.started()
    program.start()
    assert program.started()
    assert answered.tally.held == {Outcome.ATTACHED: 1}
    assert answered.tally.calls == {(Call.EXECVE, Result.KERNEL): 1}


def test_programs_wait_again_while_something_is_put_right(answered: Answered) -> None:
    program, other = answered.program(), answered.program("container-2")
    for container_id in ("container-1", "container-2"):
        answered.loop.let_go(container_id, Outcome.ATTACHED)
    answered.loop.hold("container-1")
    program.start()
    answered.held(1)
    other.start()
    assert other.started()
    answered.loop.let_go("container-1", Outcome.FAILED)
    assert program.started()
    assert answered.tally.held == {Outcome.FAILED: 1}


def test_nobody_is_held_for_longer_than_the_limit(answered: Answered) -> None:
    answered.hold_s = 0.2
    program = answered.program()
    program.start()
    assert program.started()
    assert answered.tally.held == {Outcome.LATE: 1}
    program.start()  # what there is, is there
    assert program.started()
    assert answered.tally.held == {Outcome.LATE: 1}


def test_who_is_interrupted_asks_again_and_counts_once(answered: Answered) -> None:
    program = answered.program()
    program.start()
    answered.held(1)
    held = next(iter(answered.loop._holding._listening.values())).held
    (before,) = [*held.values()]
    for child in program.children():
        os.kill(child, signal.SIGWINCH)
    eventually(lambda: [*held.values()] != [before], "asked again", 60)
    answered.loop.let_go("container-1", Outcome.ATTACHED)
    assert program.started()
    assert answered.tally.held == {Outcome.ATTACHED: 1}
    assert answered.slots.free == 16


def test_a_program_that_is_killed_while_it_waits_is_forgotten(answered: Answered) -> None:
    program = answered.program()
    program.start()
    answered.held(1)
    for child in program.children():
        os.kill(child, signal.SIGKILL)
    program.end()
    eventually(lambda: answered.ended == ["container-1"], "the container ended", 60)
    assert (answered.loop.descriptors, answered.loop.waiting, answered.slots.free) == (0, 0, 16)
    assert answered.tally.held == {Outcome.GONE: 1}


def test_when_all_slots_are_in_use_those_go_who_wait_longest(
    make_answered: Callable[..., Answered],
) -> None:
    answered = make_answered(2)
    programs = [answered.program(f"container-{number}") for number in range(3)]
    for number, program in enumerate(programs[:2]):
        program.start()
        answered.held(number + 1)
    programs[2].start()
    assert programs[0].started()
    answered.held(2)
    assert answered.tally.held == {Outcome.NO_ROOM: 1}
    for number in (1, 2):
        answered.loop.let_go(f"container-{number}", Outcome.ATTACHED)
        assert programs[number].started()


def test_who_is_stopped_lets_everybody_go(make_answered: Callable[..., Answered]) -> None:
    answered = make_answered()
    program = answered.program()
    program.start()
    answered.held(1)
    kept = os.dup(program.descriptor)  # as the holder has one
    try:
        answered.loop.stop()
        assert program.started()
    finally:
        os.close(kept)
    assert answered.tally.held == {Outcome.FAILED: 1}


def test_without_a_holder_what_there_is_goes_on(answered: Answered) -> None:
    program = answered.program()
    answered.connection.break_down(Unavailable("gone"))
    eventually(lambda: len(answered.errors) == 1, "told", 60)
    answered.loop.let_go("container-1", Outcome.ATTACHED)
    program.start()
    assert program.started()
    copies = answered.loop.copies()
    assert [copy.state.container_id for copy in copies] == ["container-1"]
    for copy in copies:
        os.close(copy.descriptor)


def test_a_descriptor_that_comes_twice_is_listened_to_once(answered: Answered) -> None:
    program = answered.program()
    again = os.dup(program.descriptor)
    answered.connection.bring(Arrival(1, again, SeccompState("container-1"), False))
    eventually(lambda: not Path(f"/proc/self/fd/{again}").exists(), "closed", 60)
    assert answered.loop.descriptors == 1


def test_a_bug_is_told_and_the_thread_ends(answered: Answered) -> None:
    answered.loop._order(lambda: [][0])
    eventually(lambda: [type(one) for one in answered.errors] == [IndexError], "told", 60)
    eventually(lambda: "answers to containers" not in _threads(), "ended", 60)


def _threads() -> Counter[str]:
    return Counter(thread.name for thread in threading.enumerate())
