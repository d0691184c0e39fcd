# SPDX-License-Identifier: Apache-2.0
"""The guest's first process: carries out one command after another for the host.

Requests and answers are lines of JSON on a virtio port. A command that is not done in time is ended
with everything else in the guest. Runs under a bare interpreter: standard library alone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

#: As much of the end of an output as is sent.
_MOST = 4 << 20
_POLL_S = 0.1


def main() -> None:
    """Never returns: the kernel would panic."""
    port = os.open(_port(), os.O_RDWR)
    _say(port, {"booted": Path("/proc/uptime").read_text().split()[0]})
    pending = b""
    while True:
        _reap()
        if not select.select([port], [], [], _POLL_S)[0]:
            continue
        pending += os.read(port, 1 << 16)
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            _say(port, _answer(json.loads(line)))


def _port() -> str:
    while True:
        found = [str(path) for path in Path("/dev").glob("vport*p1")]
        if found:
            return found[0]
        time.sleep(0.01)


def _say(port: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(port, data[: 1 << 15]) :]


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            status, in_time = _run(request, out.fileno(), err.fileno())
        except OSError as error:
            return {"returncode": 127, "stdout": "", "stderr": f"{error}\n", "in_time": True}
        return {
            "returncode": os.waitstatus_to_exitcode(status),
            "stdout": _end_of(out),
            "stderr": _end_of(err),
            "in_time": in_time,
        }


def _run(request: dict[str, Any], out: int, err: int) -> tuple[int, bool]:
    null = os.open(os.devnull, os.O_RDONLY)
    argv: list[str] = request["argv"]
    redirected = [(os.POSIX_SPAWN_DUP2, one, number) for number, one in enumerate((null, out, err))]
    try:
        child = os.posix_spawnp(
            argv[0], argv, request["environment"], file_actions=redirected, setsid=True
        )
    finally:
        os.close(null)
    deadline, in_time = time.monotonic() + request["timeout_s"], True
    while True:
        status = _reap(child)
        if status is not None:
            return status, in_time
        if time.monotonic() > deadline:
            in_time = False
            os.kill(-1, signal.SIGKILL)  # everybody but this process
        signal.sigtimedwait({signal.SIGCHLD}, _POLL_S)


def _reap(child: int = -1) -> int | None:
    """Take note of everyone who has ended; the status of `child` when it was among them."""
    status = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = ended[1]
    except ChildProcessError:
        pass
    return status


def _end_of(output: BinaryIO) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _MOST))
    return output.read().decode(errors="replace")


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main()
