# SPDX-License-Identifier: Apache-2.0
"""What a client wrote into the log that the holder keeps for it: its last words when it ended, and,
for clients that have no other health signal, what they complained of last. Those answer statvfs
without asking their server, and tell only their log that it refuses them.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from fuse_mounter.drivers.base import Sign

#: A complaint that nothing followed is news for so long.
RECENT_S = 60.0
_END_BYTES = 8192
_LONGEST = 200
#: A log is cut when it is larger; it lies in memory, and a client may complain of every request.
_MOST_BYTES = 1 << 20
#: What says only that it ends, after what says why.
_FAREWELL = re.compile(r"s3fs_exit_fuseloop|^\s*$")
#: What is wrong between client and server; a user's own mistakes say nothing of the mount.
_OF_SERVER = re.compile(
    r"AccessDenied|AccessKey|Signature|credential|expired|unauthori[sz]ed|forbidden|\b(401|403|5\d\d)\b"
    r"|dial tcp|connect|refused|no such host|resolve|time(d )?out|x509|certificate|RequestError",
    re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"://[^/@\s]*@")
#: A line that belongs to the one before it.
_GOES_ON = re.compile(r"\s|<|$")
#: How such a line is introduced is of no use to people.
_STAMP = re.compile(r"^[\d/T:. Z-]+(\[\w+\]\s+)?(\S+\.cpp:\w+\(\d+\): )?")


def of(staging: Path, name: str) -> Path:
    """The log of the client of this mount."""
    return staging.parents[1] / "logs" / f"{name}.log"


def last_words(log: Path) -> str:
    """The last line that says anything; empty when there is none."""
    try:
        lines = _end(log)
    except OSError:
        return ""
    said = next((line for line in reversed(lines) if not _FAREWELL.search(line)), "")
    return _plain(_STAMP.sub("", said))


def complaint(log: Path, error: re.Pattern[str]) -> Sign:
    """A sign with the last error of the server's, if only errors follow it, and a recent one.
    `error` matches what stands before the words for people. Raises OSError.
    """
    if time.time() - log.stat().st_mtime > RECENT_S:
        return Sign()
    for line in reversed(_end(log)):
        found = error.search(line)
        if found and _OF_SERVER.search(line, found.end()):
            return Sign(_plain(line[found.end() :]))
        if not found and not _GOES_ON.match(line):
            break
    return Sign()


def trim(directory: Path) -> None:
    """Keep what is at the end of logs that have become too large. Clients append to them, so they
    may go on meanwhile.
    """
    for log in directory.glob("*.log"):
        try:
            if log.stat().st_size > _MOST_BYTES:
                lines = _end(log)
                os.truncate(log, 0)
                with log.open("a") as file:
                    file.write("\n".join(["… cut by the agent", *lines, ""]))
        except OSError:
            continue


def _plain(words: str) -> str:
    return _USER_IN_URL.sub("://…@", words).strip()[:_LONGEST]


def _end(log: Path) -> list[str]:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        text = file.read().decode(errors="replace")
    return text.splitlines()[1 if size > _END_BYTES else 0 :]
