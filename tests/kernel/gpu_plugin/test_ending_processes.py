# SPDX-License-Identifier: Apache-2.0
"""Who is ended and who is not: real processes in real containers, as the C library lists them, on a
clock of the test's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agents import processes
from agents.file_lock import FileLock
from agents.hostfs import PROC
from agents.logs import get_logger
from agents.processes import ProcessKey, identify
from agents.standin.pods import RunningContainer
from gpu_plugin.accounting import Accounting, Origin
from gpu_plugin.config import ResourceRule
from gpu_plugin.driver_limits import DriverLimits
from gpu_plugin.driver_record import LimitRecord
from gpu_plugin.enforcement_config import EnforcementConfig
from gpu_plugin.enforcement_metrics import EnforcementCounters
from gpu_plugin.enforcer import Enforcer, Means
from gpu_plugin.known_limits import KnownLimits
from gpu_plugin.process_origins import ProcessOrigins
from gpu_plugin.terminate import Terminator
from gpu_plugin.verdicts import Act, Action, Outcome, Standing, Verdict
from tests.fakes.containers import eventually, exists
from tests.fakes.gpu_tenants import GIB, HIDE, RESOURCE, GpuTenants, child, children, key_of

MIB = 1 << 20
#: Told to end, it does not.
STUBBORN = "(trap '' TERM; exec sleep 1000) & wait; exec sleep 900"


def crowd(number: int) -> str:
    """Its children, and a first process that needs no GPU, and waits for them."""
    return f"{_start(number)}; wait; exec sleep 900"


def _start(number: int) -> str:
    numbers = " ".join(map(str, range(number)))
    return f"for i in {numbers}; do sleep 1000 >/dev/null 2>&1 & done"


class Enforcement:
    """An enforcer on a clock that moves when it is told to. `acts` are all, `last` of one scan."""

    def __init__(self, tenants: GpuTenants, lock: Path, **config: Any) -> None:
        self.tenants, self.now = tenants, 5000.0
        self.acts: list[Act] = []
        self.last: Sequence[Act] = ()
        self.verdicts: dict[str, Verdict] = {}
        self.last_words: list[Act] = []
        devices = tenants.devices
        usable = {one.uuid: one.memory_total - one.memory_reserved for one in devices}
        rule = ResourceRule.model_validate({"name": RESOURCE})
        self.lock = FileLock(lock)
        self.registry = CollectorRegistry()
        log = get_logger(agent="gpu")
        self.enforcer = Enforcer(
            EnforcementConfig.model_validate(config),
            KnownLimits([rule], lambda: usable, lock.with_name("no runtime")),
            Means(
                Terminator(tenants.host),
                DriverLimits(
                    tenants.nvml, tenants.host, LimitRecord(lock.with_name("limits")), log=log
                ),
                self.lock,
            ),
            session=lambda: 1,
            counters=EnforcementCounters(self.registry),
            log=log,
            clock=lambda: self.now,
        )
        self.enforcer.told = self._told
        self.enforcer.before_end = lambda container, act: self.last_words.append(act)

    def _told(
        self, accounting: Accounting, verdicts: Sequence[Verdict], acts: Sequence[Act]
    ) -> None:
        self.last = acts
        self.acts += acts
        self.verdicts = {one.container.container_id: one for one in verdicts}

    async def look(self, seconds: float = 1.0, found: Accounting | None = None) -> list[int]:
        """One scan, that much later; the pids that were asked to end, or ended."""
        self.now += seconds
        accounting = found or self.tenants.account()
        await self.enforcer.scanned(replace(accounting, at=self.now))
        return [
            act.process.pid for act in self.last if act.process and act.action is not Action.SPARE
        ]

    def standing(self, container: RunningContainer) -> Standing:
        return self.verdicts[container.start.id].standing

    def count(self, action: str, reason: str, outcome: str = "done") -> float:
        labels = {"action": action, "reason": reason, "outcome": outcome}
        name = "nodeshare_gpu_enforcement_actions_total"
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def enforcement(tenants: GpuTenants, tmp_path: Path) -> Callable[..., Enforcement]:
    return partial(Enforcement, tenants, tmp_path / "lock")


def users(
    tenants: GpuTenants, container: RunningContainer, number: int, each: int | None
) -> list[int]:
    """That many children of its first process hold so much each; oldest first."""
    pids: list[int] = []

    def there() -> bool:
        pids[:] = [one for one in children(container.pid) if _command(one) == "sleep"]
        return len(pids) == number

    eventually(there, "the container's processes")
    for pid in pids:
        tenants.state.hold(tenants.gpu, pid, each)
    return pids


def _command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def gone(*pids: int) -> None:
    """Wait until their ends were waited for, too."""
    eventually(lambda: not any((PROC / str(pid)).exists() for pid in pids), f"the end of {pids}")


async def test_eight_processes_of_one_gib_with_four_gib(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    """The newest go until it is within its limit; a neighbour who uses more keeps all."""
    ada, ben = tenants.tenant(4, "sh", "-c", crowd(8)), tenants.tenant(16, "sh", "-c", crowd(2))
    greedy, quiet = users(tenants, ada, 8, GIB), users(tenants, ben, 2, 7 * GIB)
    node = enforcement()
    assert await node.look() == []
    assert (node.last[0].action, node.last[0].grace_s) == (Action.WARN, 10.0)
    assert node.standing(ada) is Standing.WARNED
    for _ in range(9):
        assert await node.look() == []
    assert await node.look() == greedy[:3:-1]
    gone(*greedy[4:])
    assert await node.look() == []
    found = tenants.account()
    assert tenants.find(found, ada).used(tenants.gpu) == 4 * GIB
    assert tenants.find(found, ben).used(tenants.gpu) == 14 * GIB
    assert all(map(exists, (*greedy[:4], *quiet, ada.pid, ben.pid)))
    assert node.standing(ada) is node.standing(ben) is Standing.BELOW
    assert {act.container for act in node.acts} == {key_of(ada)}
    assert all(act.outcome is Outcome.DONE for act in node.acts)
    assert node.count("terminate", "over_limit") == 4
    assert node.last_words == []


async def test_sigterm_is_ignored(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    ada = tenants.tenant(4, "sh", "-c", STUBBORN)
    (pid,) = users(tenants, ada, 1, 5 * GIB)
    eventually(lambda: _handles_sigterm(pid, "SigIgn"), "it ignores SIGTERM")
    node = enforcement(grace="0s", pressure_grace="0s")
    assert await node.look() == [pid]
    for _ in range(4):
        assert await node.look() == []
    assert exists(pid)
    assert node.standing(ada) is Standing.TERMINATING
    assert await node.look() == [pid]
    gone(pid)
    assert [act.action for act in node.acts] == [Action.TERMINATE, Action.KILL]
    assert exists(ada.pid)


def _handles_sigterm(pid: int, how: str) -> bool:
    """By ignoring (`SigIgn`) or catching it (`SigCgt`); proc(5)."""
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    handled = next(int(line.split()[1], 16) for line in lines if line.startswith(how))
    return bool(handled & 1 << (signal.SIGTERM - 1))


async def test_the_first_process_leaves_a_last_word(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    ada = tenants.tenant(4, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
    eventually(lambda: _handles_sigterm(ada.pid, "SigCgt"), "it handles SIGTERM")
    tenants.state.hold(tenants.gpu, ada.pid, 5 * GIB)
    node = enforcement(grace="0s", pressure_grace="0s")
    assert await node.look() == [ada.pid]
    assert [(act.main, act.process) for act in node.last_words] == [(True, node.last[0].process)]
    eventually(lambda: not exists(ada.pid), "its end")


async def test_a_pid_that_is_anothers_by_now(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    """What was observed has ended, and an innocent of another container has its pid."""
    ada, ben = tenants.tenant(4), tenants.tenant(4)
    tenants.state.hold(tenants.gpu, ada.pid, 5 * GIB)
    found = tenants.account()
    (container,) = (one for one in found.containers if one.key == key_of(ada))
    (use,) = container.uses
    innocent = identify(PROC, ben.pid)
    assert innocent is not None
    stale = ProcessKey(innocent.pid, use.process.start_ticks - 1)
    forged = replace(container, uses=(replace(use, process=stale),))
    node = enforcement(grace="0s", pressure_grace="0s")
    for seconds in (1.0, 6.0):
        await node.look(seconds, replace(found, containers=(forged,)))
        assert [act.outcome for act in node.last] == [Outcome.GONE]
    assert exists(ben.pid)


async def test_a_pid_is_given_away_between_observation_and_act(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    ada = tenants.tenant(4, "sh", "-c", crowd(1))
    (pid,) = users(tenants, ada, 1, 5 * GIB)
    found = tenants.account()
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    node = enforcement(grace="0s", pressure_grace="0s")
    with given_to_another(pid) as innocent:
        assert await node.look(found=found) == [pid]
        assert [act.outcome for act in node.last] == [Outcome.GONE]
        assert innocent.poll() is None


@contextmanager
def given_to_another(pid: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host with this very pid, once nobody has it any more."""
    last = PROC / "sys/kernel/ns_last_pid"
    for _ in range(200):
        last.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "100"])
        if process.pid == pid:
            break
        process.kill()
        process.wait(10)
    else:
        pytest.skip("this machine does not let anybody choose a pid")
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_it_ends_while_it_is_looked_at(tenants: GpuTenants) -> None:
    """After its identity was proven the signal can reach it, or nobody."""
    ada = tenants.tenant(4, "sh", "-c", crowd(1))
    eventually(lambda: len(children(ada.pid)) == 1, "its child")
    (pid,) = children(ada.pid)
    key = identify(PROC, pid)
    assert key is not None

    def look(looked_at: int) -> Origin | None:
        origin = ProcessOrigins(tenants.host).look(looked_at)
        os.kill(pid, signal.SIGKILL)
        gone(pid)
        return origin

    ended = Terminator(tenants.host, look).signal(key, key_of(ada), signal.SIGTERM)
    assert ended.outcome is Outcome.GONE


def test_a_process_of_another_container_or_of_none_is_left_alone(tenants: GpuTenants) -> None:
    ada, ben = tenants.tenant(4), tenants.tenant(4)
    terminator = Terminator(tenants.host)
    own = identify(PROC, os.getpid())
    theirs = identify(PROC, ben.pid)
    assert own is not None
    assert theirs is not None
    ended = terminator.signal(theirs, key_of(ada), signal.SIGKILL)
    assert (ended.outcome, exists(ben.pid)) == (Outcome.REFUSED, True)
    assert ben.start.id in (ended.explanation or "")
    assert terminator.signal(own, key_of(ada), signal.SIGKILL).outcome is Outcome.REFUSED
    assert terminator.problem(theirs) is None


def test_processes_that_are_numbered_otherwise_are_left_alone(tenants: GpuTenants) -> None:
    """In a pid namespace of its own the agent would mean somebody else."""
    ada = tenants.tenant(4)
    key = identify(PROC, ada.pid)
    script = (
        "from pathlib import Path; from agents.hostfs import HostFs; "
        "from agents.processes import ProcessKey; "
        "from gpu_plugin.terminate import Terminator; "
        f"print(Terminator(HostFs()).problem({key!r}))"
    )
    python = ["unshare", "--pid", "--fork", "--", sys.executable, "-c", script]
    done = subprocess.run(python, capture_output=True, text=True, timeout=30)
    assert "hostPID" in done.stdout, done.stderr
    assert exists(ada.pid)


async def test_a_fork_bomb_of_small_users(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    ada = tenants.tenant(1, "sh", "-c", crowd(24))
    users(tenants, ada, 24, 128 * MIB)
    node = enforcement(grace="0s", pressure_grace="0s")
    for number in (24, 14, 14):
        ended = await node.look(0.1)
        assert len(ended) == number - 8, "a GiB remains, and not one process less"
        gone(*ended)
        tenants.runner.exec(ada.start.id, ["sh", "-c", _start(6)], timeout_s=5)
        users(tenants, ada, 14, 128 * MIB)
    assert exists(ada.pid)


async def test_a_container_that_restarts_begins_anew(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    directory = tenants.allocate(4)
    first = tenants.start("sh", "-c", crowd(1), directories=[directory])
    users(tenants, first, 1, 5 * GIB)
    node = enforcement()
    await node.look()
    await node.look(3.0)
    tenants.runner.remove(first.start.id)
    uid = first.start.pod_uid
    second = tenants.start("sh", "-c", crowd(1), directories=[directory], pod_uid=uid)
    (pid,) = users(tenants, second, 1, 5 * GIB)
    for _ in range(4):
        assert await node.look(3.0) == []
    assert [act.container for act in node.acts] == [key_of(first), key_of(second)]
    assert exists(pid)
    assert await node.look(3.0) == [pid]


@pytest.mark.parametrize("held", [None, 4 * GIB], ids=["not available", "the limit itself"])
async def test_nothing_is_done_about(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement], held: int | None
) -> None:
    ada = tenants.tenant(4, "sh", "-c", crowd(1))
    (pid,) = users(tenants, ada, 1, held)
    node = enforcement(grace="0s", pressure_grace="0s")
    for _ in range(5):
        assert await node.look(3.0) == []
    assert node.acts == []
    assert exists(pid)


async def test_guests_are_told_of_or_ended_by_policy(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    eve, ada = tenants.start("sh", "-c", crowd(2)), tenants.tenant(8, "sh", "-c", crowd(1))
    guests, host = users(tenants, eve, 2, 3 * GIB), processes.identify(PROC, os.getpid())
    (invited,) = users(tenants, ada, 1, 8 * GIB)
    assert host is not None
    tenants.state.hold(tenants.gpu, os.getpid(), 10 * GIB)
    report = enforcement(grace="0s", pressure_grace="0s")
    assert await report.look() == []
    assert report.standing(eve) is Standing.UNINVITED
    report.lock.release()
    strict = enforcement(grace="0s", pressure_grace="0s", uninvited="terminate")
    assert sorted(await strict.look()) == sorted(guests)
    gone(*guests)
    assert exists(invited)
    assert exists(eve.pid), "it holds no memory of a GPU"
    assert strict.count("terminate", "uninvited") == 2


async def test_who_hides_is_ended_and_nobody_else(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    """In namespaces and a root of its own, without any mount that tells."""
    ada = tenants.tenant(4, "sh", "-c", 'unshare -Urm sh -c "$0" & wait', HIDE)
    ben = tenants.tenant(4, "sh", "-c", crowd(1))
    hidden = child(ada.pid, "sleep")
    tenants.state.hold(tenants.gpu, hidden, 5 * GIB)
    users(tenants, ben, 1, 4 * GIB)
    node = enforcement(grace="0s", pressure_grace="0s")
    assert await node.look() == [hidden]
    gone(hidden)
    assert {act.container for act in node.acts} == {key_of(ada)}


async def test_observe_says_and_does_nothing(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    ada = tenants.tenant(4, "sh", "-c", crowd(8))
    pids = users(tenants, ada, 8, GIB)
    node = enforcement(mode="observe", grace="1s", pressure_grace="0s")
    for _ in range(12):
        await node.look()
    assert [act.action for act in node.acts] == [
        Action.WARN,
        *[Action.TERMINATE] * 4,
        *[Action.KILL] * 4,
    ]
    assert {act.outcome for act in node.acts} == {Outcome.OBSERVED}
    assert all(map(exists, pids))
    assert node.last_words == []
    assert not node.lock.path.exists(), "it is not in anybody's way"


async def test_disabled_does_not_even_say(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    ada = tenants.tenant(4, "sh", "-c", crowd(1))
    users(tenants, ada, 1, 9 * GIB)
    node = enforcement(mode="disabled", grace="0s", pressure_grace="0s")
    for _ in range(3):
        assert await node.look() == []
    assert node.acts == []
    assert node.standing(ada) is Standing.OVER_LIMIT


async def test_of_two_agents_one_acts(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement]
) -> None:
    """As in a rolling update; the second begins anew when the first has gone."""
    ada = tenants.tenant(4, "sh", "-c", STUBBORN)
    (pid,) = users(tenants, ada, 1, 5 * GIB)
    eventually(lambda: _handles_sigterm(pid, "SigIgn"), "it ignores SIGTERM")
    first, second = (enforcement(grace="1s", pressure_grace="0s") for _ in range(2))
    for _ in range(3):
        await first.look()
        await second.look()
    assert [act.outcome for act in first.acts] == [Outcome.DONE] * 2
    assert [act.outcome for act in second.acts] == [Outcome.OBSERVED] * 2
    assert f"pid {os.getpid()}" in (second.enforcer.problem or "")
    first.lock.release()
    second.acts.clear()
    for _ in range(7):
        await second.look()
    assert [act.action for act in second.acts] == [Action.WARN, Action.TERMINATE, Action.KILL]
    assert second.enforcer.problem is None
    gone(pid)


async def test_many_containers(
    tenants: GpuTenants, enforcement: Callable[..., Enforcement], soak: bool
) -> None:
    """The one that has too much is found, and nobody else touched."""
    number = 200 if soak else 10
    tenancies = [tenants.tenant(1) for _ in range(number)]
    each = 29 * GIB // number
    for one in tenancies:
        tenants.state.hold(tenants.gpu, one.pid, min(each, GIB))
    greedy = tenancies[number // 2]
    tenants.state.hold(tenants.gpu, greedy.pid, GIB + MIB)
    node = enforcement(grace="0s", pressure_grace="0s")
    assert await node.look() == [greedy.pid]
    assert len(node.verdicts) == number
    assert all(exists(one.pid) for one in tenancies if one is not greedy)
