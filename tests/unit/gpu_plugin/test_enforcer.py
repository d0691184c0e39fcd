# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry

from agents.file_lock import FileLock
from agents.hostfs import HostFs
from agents.logs import get_logger
from agents.processes import ProcessKey
from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer
from gpu_plugin.config import ResourceRule
from gpu_plugin.driver_limits import DriverLimits
from gpu_plugin.driver_record import LimitRecord
from gpu_plugin.driver_wanted import Target
from gpu_plugin.enforcement_config import EnforcementConfig
from gpu_plugin.enforcement_metrics import EnforcementCounters
from gpu_plugin.enforcer import Enforcer, Means, Timing
from gpu_plugin.known_limits import KnownLimits
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.terminate import Ended, Terminator
from gpu_plugin.verdicts import Act, Action, Backend, Outcome, Reason, Verdict
from tests.fakes.gpu_scans import FIRST, SECOND, container, grant, scan, use

GIB = 1 << 30
NAME = "nodeshare/gpu-memory"


class FakeTerminator(Terminator):
    """`sent` are signals; `answer` says what became of each."""

    def __init__(self) -> None:
        super().__init__(HostFs(proc=Path("/nonexistent")))
        self.sent: list[tuple[int, signal.Signals]] = []
        self.cannot: str | None = None
        self.answer: Callable[[], Ended] = lambda: Ended(Outcome.DONE)

    def signal(self, process: ProcessKey, container: ContainerKey, number: signal.Signals) -> Ended:
        self.sent.append((process.pid, number))
        return self.answer()

    def problem(self, process: ProcessKey) -> str | None:
        return self.cannot


class Node:
    def __init__(self, directory: Path, **config: Any) -> None:
        rule = ResourceRule.model_validate({"name": NAME})
        host = HostFs(cgroup=directory)
        nvml = SimulatedNvml(load_machine("demo"), directory / "state")
        self.terminator, self.now = FakeTerminator(), 1000.0
        record = LimitRecord(directory / "run/limits")
        self.driver = DriverLimits(nvml, host, record, log=get_logger(agent="gpu"))
        self.lock = FileLock(directory / "run/lock")
        self.registry = CollectorRegistry()
        self.enforcer = Enforcer(
            EnforcementConfig.model_validate({"grace": "0s", "pressure_grace": "0s", **config}),
            KnownLimits([rule], lambda: {FIRST: 32 * GIB}, directory / "no runtime"),
            Means(self.terminator, self.driver, self.lock),
            session=lambda: 1,
            counters=EnforcementCounters(self.registry),
            log=get_logger(agent="gpu"),
            timing=Timing(act_s=0.2),
            clock=lambda: self.now,
        )
        self.told: list[tuple[Accounting, Sequence[Verdict], Sequence[Act]]] = []
        self.short: list[frozenset[str]] = []
        self.enforcer.told = lambda *told: self.told.append(told)
        self.enforcer.short = lambda devices: self.short.append(frozenset(devices))

    async def see(self, *found: GpuContainer, late: float = 0.0, **fields: Any) -> Sequence[Act]:
        self.now += 1.0
        accounting = scan(*found, at=self.now - late)
        await self.enforcer.scanned(replace(accounting, **fields))
        return self.told[-1][2] if self.told else ()

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"nodeshare_gpu_{name}", labels)


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Node]:
    return partial(Node, tmp_path)


def greedy(name: str = "ada") -> GpuContainer:
    return container(name, grant(name, 4), use(1, 3 * GIB), use(2, 3 * GIB))


async def test_acts_are_counted_and_told(node: Callable[..., Node]) -> None:
    made = node()
    await made.see(container("ada", grant("ada", 4), use(1, GIB)))
    acts = await made.see(greedy())
    assert made.terminator.sent == [(2, signal.SIGTERM)]
    assert [(act.action, act.outcome, act.since) for act in acts] == [
        (Action.TERMINATE, Outcome.DONE, 1001.0)
    ]
    (verdict,) = made.told[-1][1]
    assert (verdict.over, verdict.backend) == (True, Backend.TERMINATE)
    labels = {"action": "terminate", "reason": "over_limit"}
    assert made.sample("enforcement_actions_total", **labels, outcome="done") == 1
    assert made.sample("reaction_seconds_sum", reason="over_limit") == 1.0
    assert made.sample("limited_containers", device=FIRST, backend="terminate") == 1
    assert made.sample("enforcing") == 1


async def test_a_scan_that_is_old_is_passed_over(node: Callable[..., Node]) -> None:
    made = node()
    await made.see(greedy(), late=3.5)
    assert (made.told, made.terminator.sent) == ([], [])


async def test_the_last_word_comes_first(node: Callable[..., Node]) -> None:
    made = node()
    alone = replace(container("ada", grant("ada", 4), use(1, 9 * GIB)), main=ProcessKey(1, 7))
    heard: list[tuple[str, int]] = []

    def before_end(found: GpuContainer, act: Act) -> None:
        heard.append((found.key.container_id[:3], len(made.terminator.sent)))

    made.enforcer.before_end = before_end
    await made.see(alone)
    assert heard == [("ada", 0)]
    assert len(made.terminator.sent) == 1


@pytest.mark.loud
async def test_a_last_word_that_fails_keeps_nobody_alive(node: Callable[..., Node]) -> None:
    made = node()

    def before_end(found: GpuContainer, act: Act) -> None:
        raise OSError("no space left")

    made.enforcer.before_end = before_end
    alone = replace(container("ada", grant("ada", 4), use(1, 9 * GIB)), main=ProcessKey(1, 7))
    await made.see(alone)
    assert made.terminator.sent == [(1, signal.SIGTERM)]


@pytest.mark.loud
async def test_what_is_refused_is_said_once_and_not_done_again(
    node: Callable[..., Node], capsys: pytest.CaptureFixture[str]
) -> None:
    made = node()
    made.terminator.answer = lambda: Ended(Outcome.REFUSED, "in doubt")
    for _ in range(20):
        await made.see(greedy())
    outcomes = [act.outcome for told in made.told for act in told[2]]
    assert outcomes == [Outcome.REFUSED] * 2
    assert [number for _, number in made.terminator.sent] == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.loud
async def test_procfs_that_hangs_holds_nothing_up(node: Callable[..., Node]) -> None:
    """What was not done in time is not done later on an old ground."""
    made, release = node(), threading.Event()

    def hang() -> Ended:
        release.wait(5)
        return Ended(Outcome.DONE)

    made.terminator.answer = hang
    crowd = container("ada", grant("ada", 4), *(use(pid, 3 * GIB) for pid in (1, 2, 3, 4)))
    try:
        assert await made.see(crowd) == []
        labels = {"action": "terminate", "reason": "over_limit"}
        assert made.sample("enforcement_actions_total", **labels, outcome="refused") == 3
        assert await made.see(crowd) == [], "and nothing piles up"
    finally:
        release.set()
    made.terminator.answer = lambda: Ended(Outcome.DONE)
    with trio.fail_after(5):
        while not (acts := await made.see(crowd)):
            await trio.sleep(0.01)
    assert [act.action for act in acts] == [Action.TERMINATE] * 3
    assert len(made.terminator.sent) == 4


@pytest.mark.loud
async def test_who_cannot_end_anybody_says_so(node: Callable[..., Node]) -> None:
    made = node()
    made.terminator.cannot = "the agent needs the capability KILL"
    for _ in range(3):
        assert await made.see(greedy()) == []
    (verdict,) = made.told[-1][1]
    assert (verdict.backend, verdict.note) == (Backend.NONE, made.terminator.cannot)
    assert made.enforcer.problem == made.terminator.cannot
    assert made.sample("enforcing") == 0
    made.terminator.cannot = None
    made.now += 60
    assert len(await made.see(greedy())) == 1
    assert made.enforcer.problem is None


async def test_whoever_has_the_lock_acts(node: Callable[..., Node], tmp_path: Path) -> None:
    other = FileLock(tmp_path / "run/lock")
    assert other.take()
    made = node(grace="2s")
    for _ in range(4):
        acts = await made.see(greedy())
        assert all(act.outcome is Outcome.OBSERVED for act in acts)
    assert made.sample("enforcing") == 0
    assert f"pid {os.getpid()}" in (made.enforcer.problem or "")
    other.release()
    assert [act.action for act in await made.see(greedy())] == [Action.WARN], "from the beginning"
    assert made.terminator.sent == []


async def test_a_lock_that_cannot_be_had_is_told(node: Callable[..., Node], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the place of the directory")
    made = node()
    await made.see(greedy())
    assert "cannot lock" in (made.enforcer.problem or "")
    assert made.terminator.sent == []


async def test_the_driver_holds_whom_it_can(node: Callable[..., Node]) -> None:
    made = node(backend="driver")
    await made.see()
    made.driver.unsupported = {SECOND: "this driver knows no limits"}
    made.driver.in_force = frozenset({(greedy().key, FIRST)})
    elsewhere = container("eve", grant("eve", 4, SECOND), use(9, GIB, SECOND))
    assert await made.see(greedy(), elsewhere) == []
    verdicts = {one.device: one for one in made.told[-1][1]}
    assert verdicts[FIRST].backend is Backend.DRIVER
    assert verdicts[SECOND].backend is Backend.TERMINATE
    assert verdicts[SECOND].note == "this driver knows no limits"
    assert made.sample("limited_containers", device=FIRST, backend="driver") == 1


@pytest.mark.parametrize(
    "config", [{"backend": "terminate"}, {"mode": "observe"}, {"mode": "disabled"}], ids=str
)
async def test_limits_of_the_driver_go_when_they_are_wanted_no_more(
    node: Callable[..., Node], tmp_path: Path, config: dict[str, str]
) -> None:
    """And not before the agent that set them has ended."""
    record = LimitRecord(tmp_path / "run/limits")
    record.add(Target(FIRST, str(tmp_path / "kubepods/ada")))
    other = FileLock(tmp_path / "run/lock")
    assert other.take()
    made = node(**config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.enforcer.run)
        with trio.fail_after(5):
            while not made.driver.has_set:
                await trio.sleep(0.01)
            await made.see()
            await trio.sleep(0.05)
            assert record.read()
            other.release()
            await made.see()
            while made.driver.has_set:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    await made.see()
    assert record.read() == frozenset()
    assert made.lock.held == ("mode" not in config)


async def test_a_device_that_misses_a_round_stays_short(node: Callable[..., Node]) -> None:
    made = node()
    tight = container("ada", grant("ada", 4), use(1, 4 * GIB)), container("bob", grant("bob", 4))
    await made.see(*tight, devices=_devices(FIRST, SECOND, free=GIB))
    assert made.short[-1] == {FIRST}
    await made.see(devices=_devices(SECOND, free=GIB))
    assert made.short[-1] == {FIRST}
    await made.see(*tight, devices=_devices(FIRST, SECOND, free=20 * GIB))
    assert made.short[-1] == frozenset()


def _devices(*uuids: str, free: int) -> dict[str, Any]:
    return {uuid: replace(scan().devices[uuid], free=free) for uuid in uuids}


async def test_bad_annotations_are_counted(node: Callable[..., Node]) -> None:
    made = node()
    ada = greedy()
    assert ada.names is not None
    names = replace(ada.names, labels={"a": "b"}, annotations={"nodeshare/gpu-memory-limit": "x"})
    acts = await made.see(replace(ada, names=names))
    assert made.sample("limit_problems") == 1
    assert [act.reason for act in acts] == [Reason.OVER_LIMIT], "the request holds"
