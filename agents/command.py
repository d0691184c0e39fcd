# SPDX-License-Identifier: Apache-2.0
"""Child processes: the only place that starts one. A bounded run, and a start that is not waited
for.

`subprocess.run(timeout=)` hangs on a child in state D; here nothing waits without a limit. A child
that outlives SIGKILL (it sleeps in the kernel) is left behind, counted, and reaped when it ends at
last.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias
from weakref import WeakSet

import trio

from agents.processes import wait_exit

#: The console command of this installation, whatever the search path says.
NODESHARE = (sys.executable, "-m", "agents")

_MAX_OUTPUT = 1 << 20
_KILL_GRACE_S = 1.0

#: A started child, for those who may not import subprocess.
Child: TypeAlias = subprocess.Popen[bytes]

#: Those somebody still knows, and may ask how they ended.
_started: WeakSet[Child] = WeakSet()
_starting = threading.Lock()
#: Children that did not end when they were killed, kept so that they are reaped one day.
_abandoned: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. `code` as subprocess has it (negative: signal); None when it hung in the
    kernel.

    `output` is stdout and stderr together, at most 1 MiB of it.
    """

    argv: tuple[str, ...]
    code: int | None
    output: str
    timed_out: bool

    @property
    def ok(self) -> bool:
        return self.code == 0

    def describe(self) -> str:
        """One line for an error text."""
        how = "timed out" if self.timed_out else f"ended with code {self.code}"
        last = self.output.strip().splitlines()[-1:]
        return f"{self.argv[0]!r} {how}" + (f": {last[0]}" if last else "")


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run to the end, or kill it with all that it started after `timeout_s`.

    Raises OSError when it cannot be started.

    `env` None gives the child our own environment.
    """
    reap_abandoned()
    # In memory: where an agent has a container, nothing of that can be written.
    with os.fdopen(os.memfd_create("output"), "r+b") as output:
        child = start(argv, env=env, cwd=cwd, output=output)
        ended = await _wait(child, timeout_s)
        if not ended:
            _kill_session(child)
            if not await _wait(child, _KILL_GRACE_S):
                _abandoned.append(child)
        output.seek(0)
        text = output.read(_MAX_OUTPUT).decode(errors="replace")
        return Result(tuple(argv), child.poll(), text, not ended)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = subprocess.DEVNULL,
    stdin: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    new_session: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a child that the caller watches itself.

    `output` None lets it write to our own stdout.
    """
    child = subprocess.Popen(
        list(argv),
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=stdin,
        stdout=output,
        stderr=output if output is None else subprocess.STDOUT,
        pass_fds=tuple(pass_fds),
        start_new_session=new_session,
    )
    with _starting:
        _started.add(child)
    return child


def running() -> set[int]:
    """Pids of our children that were not reaped yet."""
    with _starting:
        started = list(_started)
    return {child.pid for child in started if child.returncode is None}


def own_environment() -> dict[str, str]:
    """A copy of our own environment, for a child that gets it with additions."""
    return dict(os.environ)


def wait(child: Child, timeout_s: float) -> bool:
    """Whether the child ended in time. Blocks the calling thread, for those that are one."""
    if child.poll() is not None:
        return True
    descriptor = os.pidfd_open(child.pid)
    try:
        wait_exit(descriptor, timeout_s)
    finally:
        os.close(descriptor)
    return child.poll() is not None


def end(child: Child) -> bool:
    """Kill a child and reap it; False when it hangs in the kernel: it is then reaped when it ends.

    Blocks the calling thread, for a second at most.
    """
    child.kill()
    ended = wait(child, _KILL_GRACE_S)
    if not ended:
        _abandoned.append(child)
    return ended


def reap_abandoned() -> int:
    """Collect children that hung when they were killed and have ended since.

    How many still hang.
    """
    _abandoned[:] = [child for child in _abandoned if child.poll() is None]
    return len(_abandoned)


def _kill_session(child: Child) -> None:
    """The child and what it started: `mount` waits for a `mount.nfs` that would try on for ever.

    It leads a group of its own, whose number cannot be another's before the child is reaped. What
    made a session of its own, as a daemon does, is spared.
    """
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


async def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether the child ended in time. Asks its pidfd: no thread, no signal handler, no blocking
    wait.
    """
    if child.poll() is not None:
        return True
    descriptor = os.pidfd_open(child.pid)
    try:
        with trio.move_on_after(timeout_s):
            await trio.lowlevel.wait_readable(descriptor)
    except trio.Cancelled:
        _kill_session(child)
        _abandoned.append(child)
        raise
    finally:
        os.close(descriptor)
    return child.poll() is not None
