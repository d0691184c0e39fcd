# SPDX-License-Identifier: Apache-2.0
"""/proc/loadavg of a container: averages of its own threads that run or wait for a disk. Pure.

The averages are the kernel's (kernel/sched/loadavg.c): each sample counts with 1 - e^(-t/60), and
the same for five and fifteen minutes, whatever time t passed. The last field of the kernel's file
is the process id given out last: here zero, because the container's is unknown and the host's is
nobody's business.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from lxcfs_helper.facts import ContainerFacts, HostFacts, LoadAccount
from lxcfs_helper.views.view import Told, nothing_unknown

unknown = nothing_unknown

_MINUTES = (1, 5, 15)
#: Three averages, two counts and a zero; longer only with a hundred thousand threads.
_WIDTH = 44
_SHOWN = re.compile(rb"(\d+\.\d\d) (\d+\.\d\d) (\d+\.\d\d) ")


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file; its length stays."""
    load = container.load
    averages = " ".join(f"{average:.2f}" for average in load.averages)
    return f"{f'{averages} {load.running}/{load.threads} 0':<{_WIDTH}}\n".encode()


def advance(load: LoadAccount, running: int, threads: int, now: float) -> LoadAccount:
    """Take in one sample; `now` in seconds since boot."""
    passed_s = max(0.0, now - load.at) if load.at else 0.0
    averages = [
        average * kept + running * (1 - kept)
        for average, kept in zip(
            load.averages, (math.exp(-passed_s / (60 * m)) for m in _MINUTES), strict=True
        )
    ]
    return LoadAccount(now, (averages[0], averages[1], averages[2]), running, threads)


def resume(load: LoadAccount, text: bytes) -> LoadAccount:
    """Go on from what an earlier agent's file says. Other text is ignored."""
    shown = _SHOWN.match(text)
    if shown is None:
        return load
    one, five, fifteen = map(float, shown.groups())
    return replace(load, averages=(one, five, fifteen))


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """Each average, and the counts."""
    load, of_host = container.load, host.texts.get("loadavg", "").replace("/", " ").split()
    averages = [
        Told(
            f"{minutes} min",
            f"{average:.2f}",
            of_host[number] if of_host else None,
            "states of its threads",
            f"mean of those in R or D, sampled every 5 s, weight 1 - e^(-t/{60 * minutes} s)",
        )
        for number, (minutes, average) in enumerate(zip(_MINUTES, load.averages, strict=True))
    ]
    running, threads = (of_host[3], of_host[4]) if len(of_host) > 4 else (None, None)
    return (
        *averages,
        Told("running", str(load.running), running, "/proc/<thread>/stat", "in state R or D"),
        Told("threads", str(load.threads), threads, "cgroup.threads (v1: tasks)", "their number"),
        Told("last pid", "0", None, "rule", "zero: its own is unknown, the host's is not its"),
    )
