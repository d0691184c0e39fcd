# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a client that does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.hostfs import HostFs
from fuse_mounter import diagnosis

STACK = "[<0>] request_wait_answer+0x12/0x34\n[<0>] fuse_do_getattr+0x1/0x2\n"


@pytest.fixture
def host(tmp_path: Path) -> HostFs:
    for number, state in ((7, "S"), (8, "D")):
        task = tmp_path / "7" / "task" / str(number)
        task.mkdir(parents=True)
        (task / "stat").write_text(f"{number} (a) b (c)) {state} 1 1 1")
        (task / "wchan").write_text("0" if state == "S" else "fuse_wait")
        (task / "stack").write_text(STACK if state == "D" else "")
    (tmp_path / "7" / "stat").write_text("7 (a) b (c)) T 1 1 1")
    return HostFs(proc=tmp_path)


def test_every_thread_is_told_with_its_stack(host: HostFs) -> None:
    lines = [task.line() for task in diagnosis.tasks(host, 7)]
    assert lines == ["7 S running", "8 D request_wait_answer < fuse_do_getattr"]


def test_a_stopped_client_is_told_apart(host: HostFs) -> None:
    assert diagnosis.stopped(host, 7)
    assert "SIGCONT" in diagnosis.why(host, 7)


def test_a_process_that_is_gone_has_nothing_to_tell(host: HostFs) -> None:
    assert diagnosis.tasks(host, 9) == ()
    assert diagnosis.why(host, 9) == ""
    assert not diagnosis.stopped(host, 9)
