# SPDX-License-Identifier: Apache-2.0
"""The latest value, across threads."""

from __future__ import annotations

import threading

from agents.published import Published


def test_versions_count_up() -> None:
    box = Published("a")
    assert (box.snapshot.value, box.snapshot.version) == ("a", 0)
    box.set("b")
    box.set("c")
    assert (box.value, box.snapshot.version) == ("c", 2)


def test_waiter_gets_the_newest_value_only() -> None:
    box = Published(0)
    box.set(1)
    box.set(2)
    snapshot = box.wait_newer(0, timeout_s=1)
    assert snapshot is not None
    assert (snapshot.value, snapshot.version) == (2, 2)
    assert box.wait_newer(2, timeout_s=0.01) is None


def test_closing_wakes_every_waiter() -> None:
    box = Published(0)
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(box.wait_newer(0, timeout_s=5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    box.close()
    for thread in threads:
        thread.join(2)
    assert answers == [None] * 4
