# SPDX-License-Identifier: Apache-2.0
"""A holder, programs whose calls it is asked about, and agents that answer: real processes, for the
tests that end or stop one of them. Knows no view and no affinity.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agents import holder, hostfs
from agents.holder_start import socket_path
from tests.fakes import seccomp_agent, seccomp_program

LIMIT_S = 60.0
REPOSITORY = Path(__file__).parents[2]
KERNEL, AGENT = str(seccomp_program.KERNELS_ANSWER), str(seccomp_agent.ANSWER)


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


class Program:
    """Calls all the time, in this many threads."""

    def __init__(self, path: Path, name: str, threads: int) -> None:
        script = str(Path(seccomp_program.__file__))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(path), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def told(self) -> dict[str, Any]:
        """`answers` since the last time, and how long the slowest took (`slowest_s`)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def answers(self) -> Mapping[str, int]:
        return dict(self.told()["answers"])

    def until_answered(self, answer: str) -> None:
        """And by nobody else any more."""
        eventually(lambda: set(self.answers()) == {answer}, f"answers are {answer}")

    def finish(self) -> None:
        """All its callers have come back."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(LIMIT_S) == 0

    def end(self) -> None:
        _end(self.process)


class Agent:
    """Answers each call after a while."""

    def __init__(self, path: Path, hold_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.seccomp_agent", str(path), str(hold_s)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def arrival(self) -> dict[str, Any]:
        return dict(json.loads(self.line()))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        _end(self.process)


class Node:
    """All of them, to be ended together."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = socket_path(directory)
        self.seccomp = hostfs.seccomp_socket(directory)
        self.log = directory / "holder.log"
        self.holder: subprocess.Popen[bytes] | None = None
        self._others: list[Program | Agent] = []

    def start_holder(self, *options: str) -> None:
        self.path.unlink(missing_ok=True)
        argv = ["--socket", str(self.path), "--seccomp-socket", str(self.seccomp)]
        with self.log.open("ab") as log:
            self.holder = subprocess.Popen(
                [sys.executable, "-I", "-S", holder.__file__, *argv, "--proc", "/proc", *options],
                stderr=log,
            )
        eventually(self.path.exists, "the holder listens")

    def kill_holder(self) -> None:
        assert self.holder is not None
        _end(self.holder)

    def program(self, name: str = "container-1", threads: int = 2) -> Program:
        one = Program(self.seccomp, name, threads)
        self._others.append(one)
        return one

    def agent(self, hold_s: float = 0.0) -> Agent:
        one = Agent(self.path, hold_s)
        self._others.append(one)
        return one

    def kept(self) -> int:
        """Descriptors of containers that the holder keeps."""
        assert self.holder is not None
        links = []
        for one in (hostfs.PROC / str(self.holder.pid) / "fd").iterdir():
            try:
                links.append(str(one.readlink()))
            except FileNotFoundError:  # closed meanwhile
                continue
        return links.count("anon_inode:seccomp notify")

    def end(self) -> None:
        for one in self._others:
            one.end()
        if self.holder is not None:
            _end(self.holder)


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(LIMIT_S)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
