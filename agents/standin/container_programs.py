# SPDX-License-Identifier: Apache-2.0
"""Starts the two small programs that make a container and enter one. Knows their arguments, no pod.

They are interpreters of their own: this process has threads, and a process with threads can neither
fork safely nor change its namespaces.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import agents
from agents import command
from agents.command import Child, Result
from agents.errors import AgentError, Unavailable
from agents.standin import container_exec, container_init
from agents.standin.launch import Busybox, Entry, Launch, to_descriptor

_START_S = 10.0
_LIST_S = 5.0
_KILL_S = 1.0
_MAX_OUTPUT = 1 << 20


@dataclass(frozen=True, slots=True)
class Started:
    """The first process of a container (`pidfd` is the caller's to close), and its parent."""

    pid: int
    pidfd: int
    shim: Child


def start_container(launch: Launch, log: Path, environment: Mapping[str, str]) -> Started:
    """Start a container whose output is appended to `log`, and wait until its program runs.

    Raises AgentError with the reason, Unavailable after 10 s; no process is left then.
    """
    spec = to_descriptor(launch)
    try:
        ours, theirs = socket.socketpair()
        with ours, log.open("ab") as output:
            with theirs:
                shim = _start(
                    container_init.__name__, (spec, theirs.fileno()), environment, output.fileno()
                )
            try:
                pid = _told_pid(ours)
                # The shim does not reap its child before our end is closed.
                return Started(pid, os.pidfd_open(pid), shim)
            except BaseException:
                command.end(shim)
                raise
    finally:
        os.close(spec)


def run_inside(
    pidfd: int, entry: Entry, environment: Mapping[str, str], *, timeout_s: float
) -> Result:
    """Run a command in the container of this process, and kill it after `timeout_s`."""
    spec = to_descriptor(entry)
    try:
        with TemporaryFile() as output:
            child = _start(container_exec.__name__, (pidfd, spec), environment, output.fileno())
            timed_out = not command.wait(child, timeout_s)
            if timed_out:
                child.terminate()
                if not command.wait(child, _KILL_S):
                    command.end(child)
            output.seek(0)
            text = output.read(_MAX_OUTPUT).decode(errors="replace")
        return Result(entry.argv, child.poll(), text, timed_out)
    finally:
        os.close(spec)


def inspect_busybox(binary: Path) -> Busybox:
    """The names a busybox answers to. Raises AgentError when it is none."""
    with TemporaryFile() as output:
        try:
            child = command.start([str(binary), "--list"], output=output.fileno())
        except OSError as error:
            raise AgentError(f"{str(binary)!r}: {error.strerror}") from error
        if not command.wait(child, _LIST_S):
            command.end(child)
        output.seek(0)
        names = output.read(_MAX_OUTPUT).decode(errors="replace").split()
    if child.poll() != 0 or "sh" not in names:
        raise AgentError(f"{str(binary)!r} is not a busybox", remedy="name a static busybox")
    return Busybox(binary, tuple(names))


def _start(
    module: str, descriptors: tuple[int, int], environment: Mapping[str, str], output: int
) -> Child:
    # The working directory is what `-m` searches first: our own package, and no other of that name.
    return command.start(
        [sys.executable, "-m", module, *map(str, descriptors)],
        env=environment,
        cwd=Path(agents.__file__).parent.parent,
        output=output,
        pass_fds=descriptors,
    )


def _told_pid(channel: socket.socket) -> int:
    channel.settimeout(_START_S)
    try:
        with channel.makefile("rb") as answers:
            answer = answers.readline()
    except TimeoutError:
        raise Unavailable(f"the container did not start within {_START_S:g} s") from None
    message = json.loads(answer) if answer else {"error": "its shim ended; see the log"}
    if "error" in message:
        raise AgentError(str(message["error"]))
    return int(message["pid"])
