# SPDX-License-Identifier: Apache-2.0
"""The program that runs one more command in a container: joins all it has, and becomes the command.

A single-threaded interpreter of its own. It leaves with the command's exit code; a command that
cannot be run gives 126 (not executable) or 127 (not found), and the reason as output. SIGTERM ends
the command, and this program once it has reaped it: left to others, the dead command would hold up
the end of the container's pid namespace for as long as nobody reaps it.

Arguments: the pidfd of the container's first process, and the descriptor of the `Entry`. Knows no
pod.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from agents.standin import confinement
from agents.standin.confinement import Namespace
from agents.standin.container_init import describe, exit_code
from agents.standin.launch import Entry, entry_from


def main(arguments: list[str]) -> int:
    """Run the command, and answer its exit code."""
    pidfd, entry = int(arguments[0]), entry_from(int(arguments[1]))
    os.set_inheritable(pidfd, False)
    commands: list[int] = []  # the one command, once it is there: its pidfd
    signal.signal(signal.SIGTERM, lambda *_: _kill(commands))
    try:
        confinement.enter(pidfd, Namespace.PID)
        child = os.fork()  # a process never changes its own pid namespace, only its children's
    except OSError as error:  # the container ends just now
        os.write(2, f"{describe(error)}\n".encode())
        return 126
    if child == 0:
        _run(pidfd, entry)
    commands.append(os.pidfd_open(child))
    _, status = os.waitpid(child, 0)
    return exit_code(status)


def _kill(commands: list[int]) -> None:
    for command in commands:
        try:
            signal.pidfd_send_signal(command, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended by itself


def _run(pidfd: int, entry: Entry) -> NoReturn:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        confinement.die_with_parent()
        confinement.join([confinement.open_members(directory) for directory in entry.cgroups])
        confinement.enter(pidfd, Namespace.MOUNT | Namespace.UTS | Namespace.IPC | Namespace.CGROUP)
        os.chdir("/")
        os.umask(0o022)
        program = confinement.find_program(entry.argv[0], entry.env)
        confinement.drop_privileges()
    except OSError as error:
        os.write(2, f"{describe(error)}\n".encode())
        os._exit(126 if isinstance(error, PermissionError) else 127)
    confinement.execute(program, entry.argv, entry.env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
