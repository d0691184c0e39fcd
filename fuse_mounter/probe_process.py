# SPDX-License-Identifier: Apache-2.0
"""The program that asks mounts whether they answer: one request, one forked child, one statvfs
and one stat.

A call into a file system that hangs cannot be ended, not even by SIGKILL, so it is made by a
process that nobody needs; and forking one that has loaded next to nothing costs a fraction of
starting an interpreter. So this runs by file and isolated, imports the standard library alone, and
never touches a mount itself. It knows no mount and no limit: whoever asks decides how long to wait.

A request is one datagram, the path, with a pipe beside it. The child writes one `ANSWER`, the errno
(0: it answered) and what statvfs(3) said; its end without one means that there is no answer. The
program ends when the last sender has closed its end.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys

#: errno; size and room in bytes; all inodes and the free ones. One write, so whole or not at all.
ANSWER = struct.Struct("=B4Q")
_MAX_PATH = 4096


def main(arguments: list[str]) -> int:
    """Serve the socket with this descriptor number until nobody can send any more."""
    requests = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need no reaping
    os.chdir("/")
    while True:
        path, descriptors, _, _ = socket.recv_fds(requests, _MAX_PATH, 1)
        if not path:
            return 0
        (answer,) = descriptors
        try:
            if os.fork() == 0:
                _ask(path, answer, requests)
        except OSError:
            pass  # no child can be started: that says nothing about the mount
        os.close(answer)


def _ask(path: bytes, answer: int, requests: socket.socket) -> None:
    """Never returns: there must never be two who serve the requests."""
    try:
        requests.close()  # else those would vanish here when we hang and our parent was killed
        os.write(answer, _statvfs(path))
    finally:
        os._exit(0)


def _statvfs(path: bytes) -> bytes:
    try:
        found = os.statvfs(path)
        os.stat(path)  # noqa: PTH116 -- xrootdfs answers statvfs from memory; no pathlib here
    except OSError as error:
        return ANSWER.pack(error.errno or 255, 0, 0, 0, 0)
    size, room = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    # A file system may say anything, also what does not fit.
    numbers = (min(n, 2**64 - 1) for n in (size, room, found.f_files, found.f_favail))
    return ANSWER.pack(0, *numbers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
