# SPDX-License-Identifier: Apache-2.0
"""The program that starts one container and stays beside it, as containerd's shim does.

A single-threaded interpreter of its own, because namespaces are entered by forking. It imports
little: it stays as long as the container runs. It leaves with the exit code of the container's
first process (128 and the signal, when one ended it), and that process dies with it.

Arguments: the descriptor of the `Launch`, and that of a socket on which it answers once, with a
line of JSON: `{"pid": …}` or `{"error": …}`. It does not reap its child before the other end is
closed: until then the pid that it told is nobody else's. Knows no pod.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

from agents.errors import AgentError
from agents.standin import confinement
from agents.standin.confinement import Namespace
from agents.standin.launch import Launch, launch_from
from agents.standin.rootfs import RootBuilder


def main(arguments: list[str]) -> int:
    """Start the container, tell its pid, wait for its end, and answer its exit code."""
    channel = int(arguments[1])
    os.set_inheritable(channel, False)
    launch = launch_from(int(arguments[0]))
    os.chdir("/")
    confinement.unshare(Namespace.PID)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run(launch, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        error = pipe.read()  # ends when the program is executed: the other end is closed then
    _answer(channel, {"error": error.decode()} if error else {"pid": child})
    _, status = os.waitpid(child, 0)
    return exit_code(status)


def exit_code(status: int) -> int:
    """What a container runtime reports for a wait(2) status."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _answer(channel: int, message: dict[str, object]) -> None:
    try:
        os.write(channel, json.dumps(message).encode() + b"\n")
        os.read(channel, 1)
    except OSError:
        pass  # whoever asked is gone; the container goes on, and is found by its marks
    os.close(channel)


def _run(launch: Launch, errors: int) -> NoReturn:
    """The first process of the container, until it becomes the user's program."""
    try:
        confinement.die_with_parent()
        program = _prepare(launch)
    except (OSError, AgentError) as error:
        os.write(errors, describe(error).encode())
        os._exit(1)
    confinement.execute(program, launch.argv, launch.env)


def _prepare(launch: Launch) -> str:
    os.umask(0o022)
    confinement.unshare(Namespace.MOUNT | Namespace.UTS | Namespace.IPC)
    confinement.set_hostname(launch.hostname)
    builder = RootBuilder(launch)
    builder.gather()
    members = [confinement.open_members(cgroup.directory) for cgroup in launch.cgroups]
    builder.enter()
    builder.furnish()
    # Not before: what was done so far is not the container's to pay for.
    confinement.join(members)
    confinement.unshare(Namespace.CGROUP)
    builder.seal()
    program = confinement.find_program(launch.argv[0], launch.env)
    confinement.drop_privileges()
    return program


def describe(error: OSError | AgentError) -> str:
    """The text that a kubelet would show."""
    if isinstance(error, AgentError) or error.errno is None:
        return str(error)
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return f"{where}{(error.strerror or '').lower()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
