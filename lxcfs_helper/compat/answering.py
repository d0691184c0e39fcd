# SPDX-License-Identifier: Apache-2.0
"""Whether the root answers, and its end if it never will: who reads from a process that hangs waits
for ever, and cannot always be killed; who reads from a dead one gets an error, and the next one is
mounted.

A child asks, because whoever asks hangs too. Knows no mount table and starts no process that
serves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import Signals

import trio

from agents import command, processes
from agents.errors import AgentError
from agents.holder_client import Holder
from agents.hostfs import HostFs
from agents.logs import Logger

EVERY_S = 10.0
#: Far more than a machine that swaps needs.
LIMIT_S = 30.0


async def watch(
    served: Callable[[], tuple[Path, int] | None], holder: Holder, host: HostFs, log: Logger
) -> None:
    """Never returns. `served`: the root and the pid of its process, while it should answer."""
    while True:
        await trio.sleep(EVERY_S)
        now = served()
        key = None if now is None else processes.identify(host.proc, now[1])
        if now is None or key is None or not await _hangs(*now, host):
            continue
        log.warning("compatible root hangs", root=str(now[0]), pid=key.pid, unanswered_s=LIMIT_S)
        with suppress(AgentError):  # the holder ends: who comes after it looks again
            await holder.signal(key, Signals.SIGKILL)


async def _hangs(root: Path, pid: int, host: HostFs) -> bool:
    """Whether there was no answer in time while the process, which wakes every second by itself,
    did nothing at all. One that is starved, or cannot be seen, is in doubt."""
    before = _run_ns(host, pid)
    try:
        asked = await command.run(["stat", "--file-system", str(root)], timeout_s=LIMIT_S)
    except OSError:
        return False
    return asked.timed_out and before is not None and _run_ns(host, pid) == before


def _run_ns(host: HostFs, pid: int) -> int | None:
    """Time on a CPU, of its only thread (`/proc/<pid>/schedstat`)."""
    try:
        return int(host.of_pid(pid, "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
