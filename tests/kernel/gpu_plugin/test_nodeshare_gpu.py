# SPDX-License-Identifier: Apache-2.0
"""The program in the container, under every shell that an image is likely to have, and with no
other program in reach.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gpu_plugin import container_files

#: Those that this machine has; busybox and dash it must have.
SHELLS = [
    pytest.param(words, id=words[-1])
    for words in (["busybox", "sh"], ["dash"], ["bash"], ["ksh"], ["zsh", "--emulate", "sh"])
    if words[0] in ("busybox", "dash") or shutil.which(words[0])
]
pytestmark = pytest.mark.parametrize("shell", SHELLS)
STATUS = "nodeshare/gpu-memory: 8 units\n  a  \\b  %s\n\nlast line\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """As a container's directory, written just now."""
    for name, text in container_files.standing().items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(container_files.mode(name))
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "events").write_text("2026-01-02T03:04:05Z limit: x\n")
    write(tmp_path, age_s=0)
    return tmp_path


def write(place: Path, *, age_s: int) -> None:
    text = f'{{\n"version": 1,\n"written_at": {int(time.time()) - age_s},\n"valid_s": 45,\n'
    (place / "status.json").write_text(f'{text}"devices": [{{"written_at": 1}}]\n}}\n')


def run(
    shell: Sequence[str], place: Path, *options: str, path: str | None = None, limit_s: float = 10
) -> subprocess.CompletedProcess[str]:
    program = shutil.which(shell[0])
    assert program is not None
    return subprocess.run(
        [program, *shell[1:], str(place / "nodeshare-gpu"), *options],
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
        env={} if path is None else {"PATH": path},
    )


def test_it_shows_what_lies_beside_it(shell: Sequence[str], place: Path) -> None:
    shown = run(shell, place, path="/usr/bin:/bin")
    assert (shown.stdout, shown.stderr, shown.returncode) == (STATUS, "", 0)
    assert run(shell, place, "-e").stdout == "2026-01-02T03:04:05Z limit: x\n"
    assert run(shell, place, "-j").stdout == (place / "status.json").read_text()
    assert "usage: nodeshare-gpu" in run(shell, place, "-h").stdout
    wrong = run(shell, place, "-x")
    assert (wrong.stdout, wrong.returncode) == ("", 2)
    assert "unknown option '-x'" in wrong.stderr


def test_somebody_elses_files_are_not_shown(shell: Sequence[str], place: Path) -> None:
    """As in a directory that happens to have a `status` and a `status.json`."""
    program = shutil.which(shell[0])
    assert program is not None
    shown = subprocess.run(
        [program, *shell[1:], "nodeshare-gpu"],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
        env={},
    )
    assert shown.stdout == ""
    assert "no /run/nodeshare/gpu/status" in shown.stderr


@pytest.mark.parametrize(
    ("age_s", "said"),
    [(60, "60 seconds"), (600, "10 minutes"), (90_000, "25 hours")],
    ids=["seconds", "minutes", "hours"],
)
def test_old_numbers_are_shown_and_called_old(
    shell: Sequence[str], place: Path, age_s: int, said: str
) -> None:
    write(place, age_s=age_s)
    shown = run(shell, place, path="/usr/bin:/bin")
    assert (shown.stdout, shown.returncode) == (STATUS, 1)
    assert f"STALE: written {said} ago" in shown.stderr or "STALE: written 61" in shown.stderr


def test_before_the_first_scan_and_without_a_share(shell: Sequence[str], place: Path) -> None:
    (place / "status.json").write_text(container_files.NOTHING_YET)
    none_yet = run(shell, place)
    assert (none_yet.stdout, none_yet.returncode) == (STATUS, 1)
    assert "no numbers yet" in none_yet.stderr
    (place / "status").unlink()
    (place / "status.json").unlink()
    without = run(shell, place)
    assert (without.stdout, without.returncode) == ("", 1)
    assert "was given no GPU memory" in without.stderr


def test_in_an_image_without_any_program(shell: Sequence[str], place: Path) -> None:
    """It shows all the same; where the shell cannot tell the time, it calls nothing old."""
    shown = run(shell, place, path="/nonexistent")
    assert (shown.stdout, shown.returncode) == (STATUS, 0)
    if shell[0] != "busybox":  # which has a sleep of its own
        watched = run(shell, place, "-w", path="/nonexistent")
        assert watched.returncode == 2
        assert "has no sleep" in watched.stderr


def test_it_watches(shell: Sequence[str], place: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as ended:
        run(shell, place, "-w", "0.1", path="/usr/bin:/bin", limit_s=0.5)
    assert isinstance(ended.value.stdout, bytes)
    assert ended.value.stdout.decode().count("last line\n") >= 2
    for wrong in ("x", "", ".", "1.2.3", "-1"):
        assert run(shell, place, "-w", wrong).returncode == 2, wrong
