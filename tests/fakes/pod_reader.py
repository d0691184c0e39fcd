# SPDX-License-Identifier: Apache-2.0
"""A program that goes on reading a file through a pod's eyes, and notices every change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Reads a file a thousand times a second, and tells every change of what it saw, with the times.
#: It goes on until it is told to end and has read well often enough.
READER = """
import json, os, select, sys, time
directory = sys.argv[1]
seen, count, errors, end = [], 0, 0, None
print("ready", flush=True)
while end is None or (count < 200 and time.monotonic() < end):
    if end is None and select.select([0], [], [], 0)[0]:
        end = time.monotonic() + 20
    try:
        with open(directory + "/who") as file:
            now = file.read()
        count += 1
    except OSError as error:
        now, errors = error.errno, errors + 1
        try:
            os.close(os.open(directory + "/stray", os.O_CREAT | os.O_WRONLY))
            now = "wrote to the node"
        except OSError:
            pass
    if not seen or seen[-1][0] != now:
        seen.append((now, time.monotonic()))
    time.sleep(0.001)
print(json.dumps({"seen": seen, "count": count, "errors": errors}))
"""


class Reader:
    """Runs in the background until its `result` is asked for."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def result(self) -> tuple[list[object], float, int]:
        """What it saw in order, for how long it was not the file, and how many reads were fine."""
        answer = json.loads(self._process.communicate(timeout=60)[0])
        seen = [what for what, _ in answer["seen"]]
        gap, bad_since = 0.0, None
        for what, at in answer["seen"]:
            if isinstance(what, int):
                bad_since = bad_since or at
            elif bad_since is not None:
                gap, bad_since = gap + at - bad_since, None
        assert bad_since is None, f"it never came back: {answer}"
        return seen, gap, answer["count"]
