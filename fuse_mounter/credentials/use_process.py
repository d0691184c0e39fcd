# SPDX-License-Identifier: Apache-2.0
"""The program that uses a mount as one user, as a process in his pod would: it gives up root, opens
a path, and says what came of it. It may hang for ever; nobody waits for it without a limit.

    use_process.py UID GID MOUNT PATH

Runs by file and isolated, imports the standard library alone, before it gives up what lets it read
that, and knows no token: only the environment that names the files. Clients look into /proc for
that, which is closed to them in a process that gave up root, until it says otherwise.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys

IDENTITY = "eos.identity"
_LONGEST = 200
_PR_SET_DUMPABLE = 4


def main(arguments: list[str]) -> int:
    """The answer is one line of JSON: `errno` (0: it could be used) and `identity` or null."""
    uid, gid, (mount, path) = int(arguments[0]), int(arguments[1]), arguments[2:]
    os.chdir("/")
    # The way there may be for root alone: a pod sees the mount elsewhere.
    place = os.open(mount, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    number = _use(place, path)
    sys.stdout.write(json.dumps({"errno": number, "identity": _identity(path)}) + "\n")
    return 0


def _use(place: int, path: str) -> int:
    try:
        os.fchdir(place)
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 -- no pathlib here: it starts slower
            with os.scandir(path) as entries:
                next(entries, None)
        else:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.read(descriptor, 1)
    except OSError as error:
        return error.errno or 255
    return 0


def _identity(path: str) -> str | None:
    """As whom the server sees us, where the client says so."""
    try:
        return os.getxattr(path, IDENTITY).decode(errors="replace").strip()[:_LONGEST]
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
