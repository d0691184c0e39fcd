# SPDX-License-Identifier: Apache-2.0
"""One call up to its answer, with a kernel that says yes to everything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from agents import seccomp_notify
from agents.cgroup_formats import CgroupPaths
from agents.seccomp_connection import Arrival, SeccompState
from agents.seccomp_notify import Notification
from agents.seccomp_slots import Slots
from lxcfs_helper.affinity import target_memory
from lxcfs_helper.affinity.answers import Answer
from lxcfs_helper.affinity.attended import Attended, Listening
from lxcfs_helper.affinity.dealing import Dealing
from lxcfs_helper.affinity.pace import Pace
from lxcfs_helper.affinity.syscalls import Call
from lxcfs_helper.affinity.tally import Result
from lxcfs_helper.affinity.target_memory import Written
from lxcfs_helper.affinity.values import Terms

LIMIT_S = 30
HUNG, WELL = 1, 2


class Always:
    """Says what every call is to be answered, and watches over nothing."""

    facts = host_facts = None

    def answer(self, *_: object) -> Answer:
        return Answer(0, 4096, b"answer")

    def begin(self) -> None: ...
    def end(self) -> None: ...


class Memory:
    """That of one caller hangs."""

    def __init__(self) -> None:
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def write(self, pid: int, address: int, data: bytes) -> Written:
        if pid == HUNG:
            self.hangs.set()
            assert self.goes_on.wait(LIMIT_S)
        return Written.DONE


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setattr(target_memory, "write", memory.write)
    for name in ("is_waiting", "answer", "proceed"):
        monkeypatch.setattr(seccomp_notify, name, lambda *_: True)
    return memory


@pytest.fixture
def slots() -> Iterator[Slots]:
    with closing(Slots(4)) as slots:
        yield slots


def test_a_container_whose_memory_hangs_takes_no_second_thread(
    memory: Memory, slots: Slots
) -> None:
    always: Any = Always()
    told = Dealing(always, slots, always)
    ones = {name: Attended(name, Terms(CgroupPaths("/"), always, always)) for name in "ab"}

    def deal(container: str, caller: int) -> Result:
        arrival = Arrival(1, -1, SeccompState(container), True)
        slot = slots.acquire(1)
        assert slot is not None
        asked = Notification(1, caller, 204, 0xC000003E, (0,) * 6)
        listening = Listening(arrival, ones[container], Pace(0.0))
        return told.deal(listening, Call.SCHED_GETAFFINITY, asked, slot)

    hung = threading.Thread(target=deal, args=("a", HUNG))
    hung.start()
    try:
        assert memory.hangs.wait(LIMIT_S)
        assert deal("a", WELL) is Result.FAILED
        assert deal("b", WELL) is Result.ANSWERED
    finally:
        memory.goes_on.set()
        hung.join(LIMIT_S)
    assert deal("a", WELL) is Result.ANSWERED
