# SPDX-License-Identifier: Apache-2.0
"""/proc/stat of a container: its own CPU time, shared out evenly over the CPUs it is shown. Pure.

A second of the container is as many CPU seconds as it can use (1.5 for a quota of one and a half),
so 100 % is the quota. What was not used is idle, less the time for which the quota held it up while
it wanted to run: that is steal, as on a virtual machine. Numbers only grow: they are accounted from
one reading to the next (`advance`), and a new agent goes on from what the file showed (`resume`).

Interrupts, context switches and processes are counted by no cgroup: zero. The boot time is the
host's, because process start times count from it.
"""

from __future__ import annotations

from agents.cgroup_formats import CpuTimes
from lxcfs_helper.facts import ContainerFacts, CpuAccount, CpuShare, HostFacts

#: Digits that a number may grow to before a line gets longer.
_DIGITS = 11
_WIDTH = len("cpu  ") + 4 * (_DIGITS + 1) + 6 * len("0 ")

_TAIL = (
    "intr 0\nctxt 0\nbtime {boot_time}\nprocesses 0\nprocs_running 0\nprocs_blocked 0\n"
    "softirq 0 0 0 0 0 0 0 0 0 0 0\n"
)


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file; as long as before while the number of CPUs stays."""
    account, hertz = container.account, host.ticks_per_second
    count = container.limits.cpu_count(host.cpus)
    lines = [_line("cpu ", account.total, hertz)]
    lines += [_line(f"cpu{i}", share, hertz) for i, share in enumerate(account.lines[:count])]
    return ("".join(lines) + _TAIL.format(boot_time=host.boot_time)).encode()


def begin(times: CpuTimes, *, capacity: float, count: int, age_s: float, now: float) -> CpuAccount:
    """The first account of a container that is `age_s` old. `now` in seconds since boot."""
    share = _share(times.user_s, times.system_s, times.throttled_s, capacity * age_s)
    return _add(CpuAccount(now, times), times, share, count, now)


def advance(
    account: CpuAccount, times: CpuTimes, *, capacity: float, count: int, now: float
) -> CpuAccount:
    """Account for what happened since. A counter that went back counts as unchanged."""
    share = _share(
        max(0.0, times.user_s - account.times.user_s),
        max(0.0, times.system_s - account.times.system_s),
        max(0.0, times.throttled_s - account.times.throttled_s),
        capacity * max(0.0, now - account.at),
    )
    return _add(account, times, share, count, now)


def resume(account: CpuAccount, text: bytes, ticks_per_second: int) -> CpuAccount:
    """Never less than the file showed that an earlier agent wrote. Other text is ignored."""
    rows = [line.split() for line in text.decode(errors="replace").splitlines()]
    shown = [_parse(row, ticks_per_second) for row in rows if row and row[0].startswith("cpu")]
    if not shown or None in shown:
        return account
    total, *lines = [share for share in shown if share is not None]
    lines += [CpuShare()] * (len(account.lines) - len(lines))
    own = [*account.lines, *[CpuShare()] * (len(lines) - len(account.lines))]
    return CpuAccount(
        account.at,
        account.times,
        _greater(account.total, total),
        tuple(_greater(mine, theirs) for mine, theirs in zip(own, lines, strict=True)),
    )


def _share(user_s: float, system_s: float, throttled_s: float, available_s: float) -> CpuShare:
    rest = max(0.0, available_s - user_s - system_s)
    steal = min(rest, throttled_s)
    return CpuShare(user_s, system_s, rest - steal, steal)


def _add(
    account: CpuAccount, times: CpuTimes, share: CpuShare, count: int, now: float
) -> CpuAccount:
    lines = [*account.lines, *[CpuShare()] * (count - len(account.lines))]
    lines[:count] = [line.plus(share, 1 / count) for line in lines[:count]]
    return CpuAccount(max(now, account.at), times, account.total.plus(share), tuple(lines))


def _greater(a: CpuShare, b: CpuShare) -> CpuShare:
    return CpuShare(
        max(a.user_s, b.user_s),
        max(a.system_s, b.system_s),
        max(a.idle_s, b.idle_s),
        max(a.steal_s, b.steal_s),
    )


def _line(name: str, share: CpuShare, hertz: int) -> str:
    # user nice system idle iowait irq softirq steal guest guest_nice
    user, system = _ticks(share.user_s, hertz), _ticks(share.system_s, hertz)
    idle, steal = _ticks(share.idle_s, hertz), _ticks(share.steal_s, hertz)
    return f"{f'{name} {user} 0 {system} {idle} 0 0 0 {steal} 0 0':<{_WIDTH}}\n"


def _ticks(seconds: float, hertz: int) -> int:
    # What was read back from ticks may lie a hair below them.
    return int(seconds * hertz + 0.001)


def _parse(row: list[str], hertz: int) -> CpuShare | None:
    if len(row) != 11 or not all(word.isdigit() for word in row[1:]):
        return None
    ticks = [int(word) / hertz for word in row[1:]]
    return CpuShare(ticks[0], ticks[2], ticks[3], ticks[7])
