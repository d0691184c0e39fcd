# SPDX-License-Identifier: Apache-2.0
"""Threads of a real container as the host numbers them, told by the kernel or, where it does not,
found by looking; and where they may run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from lxcfs_helper.affinity import target_memory, threads
from lxcfs_helper.affinity.target_memory import Written
from lxcfs_helper.affinity.threads import Affinities
from tests.fakes.real_container import RealContainer, eventually

HOST = HostFs()


@pytest.fixture(params=["told", "looked for"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from Linux 6.11 on, and as before."""
    if request.param == "looked for":
        monkeypatch.setattr(threads, "_FROM_NAMESPACE", 0xB7FF)  # the kernel knows no such thing


@pytest.mark.usefixtures("way")
def test_numbers_count_in_the_pid_namespace_of_the_caller(
    make_container: Callable[..., RealContainer],
) -> None:
    one = make_container()
    inside = one.enter("sleep", "600")
    children = Path(f"/proc/{inside.pid}/task/{inside.pid}/children")

    def grandchild() -> int:
        return int((children.read_text().split() or ["0"])[0])

    eventually(grandchild, "it runs inside")
    other = grandchild()
    names = threads._names(HOST, other)
    assert names is not None
    seen = [one.pid, other]
    assert threads.meant(HOST, one.pid, 1, lambda: seen) == one.pid
    assert threads.meant(HOST, one.pid, names[-1], lambda: seen) == other
    assert threads.meant(HOST, other, 1, lambda: seen) == one.pid
    assert threads.meant(HOST, one.pid, os.getpid(), lambda: seen) is None


@pytest.mark.usefixtures("way")
def test_threads_of_the_same_process() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        for number in (thread.native_id, os.getpid()):
            assert threads.meant(HOST, os.getpid(), number, tuple) == number
    finally:
        done.set()
        thread.join()


def test_affinities_are_those_of_the_kernel() -> None:
    affinities = Affinities(HOST)
    real = os.sched_getaffinity(0)
    found = affinities.of(os.getpid())
    assert found is not None
    assert {cpu for cpu in range(found.bit_length()) if found >> cpu & 1} == real
    assert affinities.of(4194303) is None
    assert affinities.masks.cpu_ids > max(real)
    assert affinities.masks.size * 8 >= affinities.masks.cpu_ids


def test_memory_that_cannot_be_written_is_told_from_a_process_that_is_gone() -> None:
    assert target_memory.write(os.getpid(), 8, b"x") is Written.BAD_ADDRESS
    assert target_memory.write(4194303, 8, b"x") is Written.GONE
