# SPDX-License-Identifier: Apache-2.0
"""A pid is not an identity: only with its start time it is."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.processes import ProcessKey, identify, pids, pinned, signal_process, wait_exit

PROC = Path("/proc")
pytestmark = pytest.mark.processes


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_identity_is_stable_and_listed(child: subprocess.Popen[bytes]) -> None:
    key = identify(PROC, child.pid)
    assert key is not None
    assert key == identify(PROC, child.pid)
    assert child.pid in pids(PROC)


def test_exactly_this_process_is_signalled(child: subprocess.Popen[bytes]) -> None:
    key = identify(PROC, child.pid)
    assert key is not None
    assert signal_process(PROC, key, signal.SIGTERM)
    assert child.wait(5) == -signal.SIGTERM
    assert not signal_process(PROC, key, signal.SIGTERM), "it is gone"


def test_reused_pid_is_not_signalled(child: subprocess.Popen[bytes]) -> None:
    key = identify(PROC, child.pid)
    assert key is not None
    earlier = ProcessKey(key.pid, key.start_ticks - 1)
    assert not signal_process(PROC, earlier, signal.SIGKILL)
    with pinned(PROC, earlier) as descriptor:
        assert descriptor is None
    assert child.poll() is None, "the process that has the pid now was not touched"


def test_exit_is_awaited_with_a_limit(child: subprocess.Popen[bytes]) -> None:
    key = identify(PROC, child.pid)
    assert key is not None
    with pinned(PROC, key) as descriptor:
        assert descriptor is not None
        assert not wait_exit(descriptor, 0.01)
        child.kill()
        assert wait_exit(descriptor, 5)


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        (b"7 (a) b (c) S " + b" ".join(b"%d" % n for n in range(4, 30)), ProcessKey(7, 22)),
        (b"7 (zombie) Z " + b"0 " * 16 + b"1 0 22 0", None),
        (b"7 (first thread ended) Z " + b"0 " * 16 + b"2 0 22 0", ProcessKey(7, 22)),
        (b"7 (cut", None),
        (b"", None),
    ],
)
def test_stat_line_is_read_from_the_last_parenthesis(
    tmp_path: Path, stat: bytes, expected: ProcessKey | None
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_bytes(stat)
    assert identify(tmp_path, 7) == expected
    assert identify(tmp_path, 8) is None
