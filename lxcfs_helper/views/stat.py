# SPDX-License-Identifier: Apache-2.0
"""/proc/stat of a container: its own CPU time, shared out evenly over the CPUs it is shown. Pure.

A second of the container is as many CPU seconds as it can use (1.5 for a quota of one and a half),
so 100 % is the quota. What was not used is idle, less the time for which the quota held it up while
it wanted to run: that is steal, as on a virtual machine. Numbers only grow: they are accounted from
one reading to the next (`advance`), and a new agent goes on from what the file showed (`resume`).

Interrupts, context switches and processes are counted by no cgroup: zero. The boot time is the
host's, because process start times count from it. How many run now is what loadavg says; at least
one does, as whoever reads it.
"""

from __future__ import annotations

from functools import lru_cache

from agents.cgroup_formats import CpuTimes
from lxcfs_helper.facts import ContainerFacts, CpuAccount, CpuShare, HostFacts
from lxcfs_helper.views.view import Told, nothing_unknown

#: Digits that a number may grow to before a line gets longer.
_DIGITS = 11
#: What follows the name of a CPU: a blank, four numbers, six zeros.
_WIDTH = 4 * (_DIGITS + 1) + 6 * len("0 ")
_NONE = CpuShare()

unknown = nothing_unknown

#: The number of running threads may need more digits than it has.
_RUNNING_WIDTH = 6

_TAIL = (
    "intr 0\nctxt 0\nbtime {boot_time}\nprocesses 0\nprocs_running {running}\nprocs_blocked 0\n"
    "softirq 0 0 0 0 0 0 0 0 0 0 0\n"
)


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file; as long as before while the number of CPUs stays."""
    account, hertz = container.account, host.ticks_per_second
    count = container.limits.cpu_count(host.cpus)
    # A CPU that has just come is not accounted for yet.
    shown = [*account.lines[:count], *[_NONE] * (count - len(account.lines))]
    # By identity: CPUs that came at the same time share one value, and hashing it costs more than
    # writing it down.
    numbers = {key: _numbers(share, hertz) for key, share in {id(s): s for s in shown}.items()}
    lines = [f"cpu {_numbers(account.total, hertz)}"]
    lines += [name + numbers[id(share)] for name, share in zip(_names(count), shown, strict=True)]
    running = f"{max(1, container.load.running):<{_RUNNING_WIDTH}}"
    return ("".join(lines) + _TAIL.format(boot_time=host.boot_time, running=running)).encode()


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
    greater = [_greater(mine, theirs) for mine, theirs in zip(own, lines, strict=True)]
    alike = {share: share for share in greater}
    return CpuAccount(
        account.at,
        account.times,
        _greater(account.total, total),
        tuple(alike[share] for share in greater),
    )


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """The line of all CPUs; the others are even parts of it."""
    account, limits = container.account, container.limits
    hertz, v1 = host.ticks_per_second, limits.swap_with_memory
    times = "cpuacct.usage_all" if v1 else "cpu.stat"
    capacity = f"{limits.capacity(host.cpus):g}"
    quota = "nobody: no quota" if limits.quota is None else f"cpu.stat of {limits.quota.path}"
    total = account.total
    rows = (
        ("user", total.user_s, times, "user" if v1 else "user_usec"),
        ("system", total.system_s, times, "system" if v1 else "system_usec"),
        ("idle", total.idle_s, times, f"{capacity} CPUs x time - user - system - steal"),
        ("steal", total.steal_s, quota, "throttled time while it used less than it may"),
    )
    count = limits.cpu_count(host.cpus)
    of_host = _host_ticks(host.texts.get("stat", ""))
    return (
        *(
            Told(name, f"{_ticks(s, hertz)} ticks", of_host.get(name), at, how)
            for name, s, at, how in rows
        ),
        Told("lines", str(count), str(len(host.cpus)), "limits", "as many CPUs as in cpuinfo"),
        Told(
            "procs_running",
            str(max(1, container.load.running)),
            of_host.get("procs_running"),
            "state of its threads",
            "R or D, at least 1",
        ),
        Told("btime", str(host.boot_time), str(host.boot_time), "the host's stat", "same clock"),
        Told("intr, ctxt, processes, softirq", "0", None, "rule", "counted by no cgroup"),
    )


def _host_ticks(text: str) -> dict[str, str]:
    """What the host's file says of the same."""
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    cpu = rows.get("cpu", [])
    names = ((0, "user"), (2, "system"), (3, "idle"), (7, "steal"))
    found = {name: f"{cpu[column]} ticks" for column, name in names if column < len(cpu)}
    return found | {"procs_running": " ".join(rows.get("procs_running", ["-"]))}


def _share(user_s: float, system_s: float, throttled_s: float, available_s: float) -> CpuShare:
    rest = max(0.0, available_s - user_s - system_s)
    steal = min(rest, throttled_s)
    return CpuShare(user_s, system_s, rest - steal, steal)


def _add(
    account: CpuAccount, times: CpuTimes, share: CpuShare, count: int, now: float
) -> CpuAccount:
    lines = [*account.lines, *[CpuShare()] * (count - len(account.lines))]
    # CPUs that came at the same time say the same: hundreds of lines are a handful of values.
    own = {id(line): line for line in lines[:count]}
    grown = {key: line.plus(share, 1 / count) for key, line in own.items()}
    lines[:count] = [grown[id(line)] for line in lines[:count]]
    return CpuAccount(max(now, account.at), times, account.total.plus(share), tuple(lines))


def _greater(a: CpuShare, b: CpuShare) -> CpuShare:
    return CpuShare(
        max(a.user_s, b.user_s),
        max(a.system_s, b.system_s),
        max(a.idle_s, b.idle_s),
        max(a.steal_s, b.steal_s),
    )


def _numbers(share: CpuShare, hertz: int) -> str:
    # user nice system idle iowait irq softirq steal guest guest_nice
    user, system = _ticks(share.user_s, hertz), _ticks(share.system_s, hertz)
    idle, steal = _ticks(share.idle_s, hertz), _ticks(share.steal_s, hertz)
    return f"{f' {user} 0 {system} {idle} 0 0 0 {steal} 0 0':<{_WIDTH}}\n"


@lru_cache(maxsize=16)
def _names(count: int) -> tuple[str, ...]:
    return tuple(f"cpu{cpu}" for cpu in range(count))


def _ticks(seconds: float, hertz: int) -> int:
    # What was read back from ticks may lie a hair below them.
    return int(seconds * hertz + 0.001)


def _parse(row: list[str], hertz: int) -> CpuShare | None:
    if len(row) != 11 or not all(word.isdigit() for word in row[1:]):
        return None
    ticks = [int(word) / hertz for word in row[1:]]
    return CpuShare(ticks[0], ticks[2], ticks[3], ticks[7])
