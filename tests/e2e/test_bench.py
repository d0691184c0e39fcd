# SPDX-License-Identifier: Apache-2.0
"""The measurements still run: they use the real parts, and leave nothing behind. No figure is
judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.hostfs import CGROUP, HostFs
from agents.standin.up import cgroup_parent, clean_up

REPOSITORY = Path(__file__).parents[2]
BENCH = [sys.executable, "-m", "tests.bench"]
PROC = Path("/proc")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Short, because the bench makes sockets below it. What a failed bench left is swept away."""
    directory = Path(tempfile.mkdtemp(prefix="nsb"))
    yield directory
    for path in directory.glob("nsbench*/*"):
        clean_up(path, HostFs())
    shutil.rmtree(directory)


def environment(temporary: Path, **more: str) -> dict[str, str]:
    """Everything that it makes is below this directory, its processes are marked with it."""
    return {**os.environ, "TMPDIR": str(temporary), **more}


def leftovers(temporary: Path) -> list[str]:
    found = [str(path) for path in temporary.glob("nsbench*")]
    found += [
        line for line in (PROC / "self/mounts").read_text().splitlines() if str(temporary) in line
    ]
    for pid in (name for name in os.listdir(PROC) if name.isdigit()):
        try:
            if f"NODESHARE_RUN_DIR={temporary}" in (PROC / pid / "environ").read_text("latin-1"):
                found.append((PROC / pid / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def cgroups(place: Path) -> list[str]:
    """Those of a subject that works in this directory."""
    return [str(path) for path in CGROUP.glob(f"**/{cgroup_parent(place)}")]


def bench(temporary: Path, *arguments: str, **more: str) -> tuple[str, dict[str, Any]]:
    report = temporary / "bench.json"
    done = subprocess.run(
        [*BENCH, "--quick", "--json", str(report), *arguments],
        cwd=REPOSITORY,
        env=environment(temporary, **more),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(report.read_text())


def test_agents_are_measured(temporary: Path) -> None:
    text, report = bench(temporary, "--only", "agents")
    assert report["machine"]["kernel"] == os.uname().release
    (subject,) = report["subjects"]
    measured = {row["what"] for row in subject["rows"] if row["ours"] is not None}
    for agent in ("gpu_plugin", "fuse_mounter", "lxcfs_helper"):
        assert {f"{agent}: start to ready", f"{agent}: USS", f"{agent}: idle CPU"} <= measured
    assert "three agents together: PSS" in measured
    assert "beside them, holder: USS" in measured
    assert all(row["ours"]["repetitions"] for row in subject["rows"])
    assert "goals met:" in text
    assert leftovers(temporary) == []


def test_what_is_missing_is_said(temporary: Path) -> None:
    text, report = bench(temporary, "--only", "views", "--only", "scan", PATH="/nonexistent")
    assert text.count("not measured: gcc is not installed") == 2
    assert [bool(subject["missing"]) for subject in report["subjects"]] == [True, True]
    assert leftovers(temporary) == []


def test_interrupted_it_leaves_nothing(temporary: Path) -> None:
    running = subprocess.Popen(
        [*BENCH, "--only", "mounts"], cwd=REPOSITORY, env=environment(temporary)
    )
    try:
        deadline = time.monotonic() + 60
        while not any(
            str(temporary) in line for line in (PROC / "self/mounts").read_text().splitlines()
        ):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (place,) = temporary.glob("nsbench*/mounts")
        assert cgroups(place)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) != 0
    finally:
        running.kill()
        running.wait(10)
    assert leftovers(temporary) + cgroups(place) == []
