# SPDX-License-Identifier: Apache-2.0
"""Keep commands running on a bare machine: start, restart with back-off, stop together.

What a cluster's kubelet does for a DaemonSet. Knows no agent: only names and command lines.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from agents import command, processes
from agents.agent import EXIT_CONFIG
from agents.logs import get_logger

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 15.0
#: A child that ran this long has recovered: the next failure starts with the first delay again.
_STEADY_S = 30.0
_STOP_S = 6.0
_LOG_PERIOD_S = 60.0
#: A log that has grown beyond the first number of bytes is cut to the second, its last lines.
_LONGEST_LOG, _KEPT_LOG = 16 << 20, 1 << 20
_ORPHANS_S = 5.0


@dataclass(frozen=True, slots=True)
class ChildState:
    """`pid` None: not running; `last_exit` None: never ended; `given_up`: will not be restarted.

    `problem`: why it could not be started at all, or empty.
    """

    pid: int | None = None
    restarts: int = 0
    last_exit: int | None = None
    given_up: bool = False
    problem: str = ""

    def describe_end(self) -> str:
        """How it last ended, in words; empty when it never did."""
        if self.problem:
            how = f"cannot be started: {self.problem}"
        elif self.last_exit is None:
            return ""
        elif self.last_exit < 0:
            how = f"killed by {signal.Signals(-self.last_exit).name}"
        else:
            how = f"ended with code {self.last_exit}"
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        return f"{how}, " + ("not started again" if self.given_up else f"started again {times}")


class Supervisor:
    """Runs every command in a session of its own, its output in `<logs>/<name>.log`."""

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        logs: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._commands, self._logs, self._environment = commands, logs, environment
        self.states = {name: ChildState() for name in commands}

    async def run(self) -> None:
        """Until cancelled; then all are told to stop, waited for, and killed when they do not."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_logs_short)
            for name in self._commands:
                nursery.start_soon(self._keep, name)

    async def _keep(self, name: str) -> None:
        delay = _FIRST_DELAY_S
        while True:
            started = trio.current_time()
            try:
                ended = ChildState(last_exit=await self._once(name))
            except OSError as error:  # no memory, no space for its log
                ended = ChildState(problem=str(error))
            restarts = self.states[name].restarts
            if ended.last_exit == EXIT_CONFIG:
                # It has said what is wrong with its configuration; trying again changes nothing.
                self.states[name] = replace(ended, restarts=restarts, given_up=True)
                return
            self.states[name] = replace(ended, restarts=restarts + 1)
            get_logger().warning("agent ended", child=name, how=ended.problem or ended.last_exit)
            delay = _FIRST_DELAY_S if trio.current_time() - started > _STEADY_S else delay
            await trio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY_S)

    async def _once(self, name: str) -> int:
        with (self._logs / f"{name}.log").open("ab") as log:
            child = command.start(self._commands[name], env=self._environment, output=log)
        self.states[name] = replace(self.states[name], pid=child.pid)
        descriptor = os.pidfd_open(child.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._stop(descriptor)
            raise
        finally:
            os.close(descriptor)
            child.poll()
        return child.returncode

    async def _stop(self, descriptor: int) -> None:
        for number, limit_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, 1.0)):
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return
            with trio.move_on_after(limit_s):
                await trio.lowlevel.wait_readable(descriptor)
                return

    async def _keep_logs_short(self) -> None:
        while True:
            for log in self._logs.glob("*.log"):
                shorten(log)
            await trio.sleep(_LOG_PERIOD_S)


def shorten(log: Path, *, longest: int = _LONGEST_LOG, kept: int = _KEPT_LOG) -> None:
    """Cut a log that has grown too long to its last lines, in place.

    Whoever writes it appends, and goes on behind them; what comes during the cut may be lost.
    """
    try:
        if log.stat().st_size <= longest:
            return
        with log.open("r+b") as file:
            file.seek(-kept, os.SEEK_END)
            file.readline()  # begin with a whole line
            last = file.read()
            file.seek(0)
            file.truncate()
            file.write(last)
    except OSError as error:
        get_logger().warning("log not shortened", path=str(log), error=str(error))


async def end_orphans(
    commands: Collection[Sequence[str]], mark: tuple[str, str], proc: Path
) -> bool:
    """Kill what a supervisor that was killed itself has left, and wait; whether all is gone.

    An orphan is a process with exactly one of these command lines, and the mark (name and value) in
    its environment. What it has started itself goes on: mounts live through this.
    """
    lines = {b"".join(os.fsencode(word) + b"\0" for word in line) for line in commands}
    variable = os.fsencode(f"{mark[0]}={mark[1]}")

    def is_orphan(pid: int) -> bool:
        try:
            if (proc / str(pid) / "cmdline").read_bytes() not in lines:
                return False
            return variable in (proc / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or not ours to look at
            return False

    with trio.move_on_after(_ORPHANS_S):
        for pid in processes.pids(proc):
            key = processes.identify(proc, pid) if is_orphan(pid) else None
            if key is None:
                continue
            with processes.pinned(proc, key) as descriptor:
                # Looked at again: the pid may have changed hands since.
                if descriptor is not None and is_orphan(pid):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    await trio.lowlevel.wait_readable(descriptor)
        return True
    return False
