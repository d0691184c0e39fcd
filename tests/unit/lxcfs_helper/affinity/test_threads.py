# SPDX-License-Identifier: Apache-2.0
"""Whom a caller means by a number, on kernels that do not tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.hostfs import HostFs
from lxcfs_helper.affinity import threads


@pytest.fixture
def host(tmp_path: Path) -> HostFs:
    """A process with two threads in a container, one of a pod namespace below it, and the host's;
    by the numbers of the host, with those of the container behind."""
    names = {500: "500 7", 501: "501 8", 600: "600 9 1", 1: "1", 700: "700"}
    for pid, numbers in names.items():
        (tmp_path / str(pid) / "task").mkdir(parents=True)
        text = f"Name:\tx\nTgid:\t{pid}\nNSpid:\t{numbers.replace(' ', chr(9))}\nNSpgid:\t1\n"
        (tmp_path / str(pid) / "status").write_text(text)
    for thread in (500, 501):
        (tmp_path / "500/task" / str(thread)).mkdir()
    return HostFs(proc=tmp_path)


@pytest.mark.parametrize(
    ("number", "thread"),
    [(7, 500), (8, 501), (9, 600), (1, None), (700, None), (10, None)],
    ids=["itself", "its thread", "another process", "a host's number", "the host's", "nobody"],
)
def test_threads_are_found_by_their_number_in_the_callers_namespace(
    host: HostFs, number: int, thread: int | None
) -> None:
    assert threads._search(host, 500, number, lambda: [600, 999]) == thread


def test_a_caller_that_is_gone_means_nobody(host: HostFs) -> None:
    assert threads.meant(host, 999, 5, tuple) is None
    assert threads.meant(host, 500, -1, tuple) is None
    assert threads.meant(host, 500, 0, tuple) == 500
