# SPDX-License-Identifier: Apache-2.0
"""Scratch: how fast a run looks at files, beside `find`, and its memory for a million of them.

`find` looks at the same times of the same files (`-atime -mtime`), on the same file system, in turn
with ours; its output is thrown away. Starting our command is not part of the scan, and has a row of
its own. Files are in folders of a hundred; none is old, as it is with most.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from agents import mountinfo
from agents.mounts import LinuxMounts, MountFlag
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.place import place_of
from fuse_mounter.scratch.run import Run
from tests.bench.measure import Context, Row, at_most, median, once, times_the_peer

_IN_A_FOLDER = 100
#: Says its own peak: what its parent is told of (`ru_maxrss`) begins with the parent's.
_PROGRAM = """
import sys
from agents.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    sys.stderr.write(next(line for line in status if line.startswith("VmHWM:")))
sys.exit(code)
"""
_DAY_S = 86400.0


def measure(context: Context) -> Sequence[Row]:
    """Rows of files in a second, and of MiB."""
    files, repetitions = context.pick(100_000, 10_000), context.pick(7, 3)
    many = context.pick(1_000_000, 50_000)
    with _scratch(context.directory) as scratch:
        _fill(scratch, files, age_s=0)
        ours, theirs, whole = [], [], []
        for _ in range(repetitions):
            theirs.append(files / _seconds_of_find(scratch))
            ours.append(files / _seconds_of_scan(context, scratch, files))
            whole.append(files / _peak(context.directory, scratch, files)[1])
        note = f"{files:,} files in folders of {_IN_A_FOLDER}, median of {repetitions}"
        rows = [
            Row(
                "files looked at in a second",
                median(ours, "/s"),
                "find -atime -mtime",
                median(theirs, "/s"),
                times_the_peer(0.5),
                note,
            ),
            Row("of it with the start of the command", median(whole, "/s"), note=note),
        ]
    with _scratch(context.directory) as scratch:
        _fill(scratch, 100, age_s=60 * _DAY_S)
        few, _ = _peak(context.directory, scratch, 100)
    with _scratch(context.directory) as scratch:
        _fill(scratch, many, age_s=60 * _DAY_S)
        most, _ = _peak(context.directory, scratch, many)
    note = f"peak, all {many:,} of them old and announced"
    return [
        *rows,
        Row("memory of a run over 100 files", once(few, "MiB")),
        Row(
            "what more files add to it", once(most - few, "MiB"), goal=at_most(8, "MiB"), note=note
        ),
    ]


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """A file system in memory: a disk would measure the disk."""
    place = directory / "scratch"
    place.mkdir(parents=True, exist_ok=True)
    LinuxMounts().mount("nodeshare-bench", place, "tmpfs", MountFlag(0), "size=6g,nr_inodes=0")
    try:
        yield place
    finally:
        LinuxMounts().unmount(place, detach=True)
        place.rmdir()
        (directory / "scratch.json").unlink(missing_ok=True)
        directory.rmdir()


def _fill(scratch: Path, files: int, age_s: float) -> None:
    then = time.time() - age_s
    for start in range(0, files, _IN_A_FOLDER):
        folder = scratch / f"user{start % 7}/{start}"
        folder.mkdir(parents=True)
        descriptor = os.open(folder, os.O_RDONLY)
        for number in range(start, min(files, start + _IN_A_FOLDER)):
            os.close(os.open(str(number), os.O_CREAT, dir_fd=descriptor))
            os.utime(str(number), (then, then), dir_fd=descriptor)
        os.close(descriptor)


def _seconds_of_find(scratch: Path) -> float:
    argv = ["find", str(scratch), "-xdev", "-type", "f", "-atime", "+30", "-mtime", "+30"]
    started = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _seconds_of_scan(context: Context, scratch: Path, files: int) -> float:
    rule = _rule(scratch)
    proc = context.host.proc
    place = place_of(rule, None, mountinfo.read(proc))
    run = Run(rule, place, proc, "bench", dry=True)
    started = time.perf_counter()
    outcome = trio.run(run.run)
    seconds = time.perf_counter() - started
    if outcome.scanned < files:
        raise RuntimeError(f"{outcome.scanned} of {files} files were looked at")
    return seconds


def _rule(scratch: Path) -> ScratchRule:
    return ScratchRule.model_validate({"directory": str(scratch), "older_than": "30d"})


def _peak(directory: Path, scratch: Path, files: int) -> tuple[float, float]:
    """MiB and seconds of a whole run in a process of its own."""
    config = directory / "scratch.json"
    rule = {"directory": str(scratch), "older_than": "30d"}
    config.write_text(json.dumps({"fuse_mounter": {"scratch": [rule]}}))
    argv = [sys.executable, "-c", _PROGRAM, "scratch", "run", "--json", "--config", str(config)]
    started = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    (outcome,) = json.loads(done.stdout).values()
    if outcome["scanned"] < files:
        raise RuntimeError(f"{outcome['scanned']} of {files} files were looked at")
    return int(done.stderr.split()[-2]) / 1024, seconds
