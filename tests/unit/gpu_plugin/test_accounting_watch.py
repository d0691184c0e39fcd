# SPDX-License-Identifier: Apache-2.0
"""The loop around accounting: pace, order, and what it does when it cannot account."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import trio
from prometheus_client import CollectorRegistry

from agents.containers import Container, Pod
from agents.errors import Unavailable
from agents.logs import get_logger
from agents.podresources import PodDevices
from agents.processes import ProcessKey
from agents.published import Published
from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer, GpuUse
from gpu_plugin.accounting_watch import Accountant, Timing
from gpu_plugin.container_names import Told
from gpu_plugin.devices import ProcessKind
from gpu_plugin.metrics import Counters
from gpu_plugin.names_watch import NamesWatch
from gpu_plugin.names_watch import Timing as NamesTiming
from gpu_plugin.readings import Readings

CONTAINER = GpuContainer(ContainerKey(None, "ab" * 32), "/docker/x")
USE = GpuUse(ProcessKey(1, 1), "GPU-0", 5, ProcessKind.COMPUTE)


class Scans:
    """Answers each scan with what a test put there."""

    def __init__(self, *, held: bool = False, limit_s: float = 5.0) -> None:
        self.next = Accounting(1.0, 1.0)
        self.error: Exception | None = None
        self.held = held
        self.go = threading.Event()
        self.go.set()
        self.registry = CollectorRegistry()
        self.accountant = Accountant(
            self._account,
            Timing(held_s=1.0, short_s=0.1, limit_s=limit_s),
            held=lambda: self.held,
            counters=Counters(self.registry),
            log=get_logger(),
        )

    def _account(self, readings: Readings) -> Accounting:
        self.go.wait(10)
        if self.error is not None:
            raise self.error
        return self.next


async def test_subscribers_are_called_in_order_with_what_is_published() -> None:
    scans = Scans()
    seen: list[tuple[str, Accounting]] = []

    async def first(accounting: Accounting) -> None:
        await trio.sleep(0.01)
        seen.append(("first", accounting))
        assert scans.accountant.latest.value is accounting

    async def second(accounting: Accounting) -> None:
        seen.append(("second", accounting))

    scans.accountant.subscribe(first)
    scans.accountant.subscribe(second)
    await scans.accountant.scan({})
    assert seen == [("first", scans.next), ("second", scans.next)]
    assert scans.registry.get_sample_value("nodeshare_gpu_scan_seconds_count") == 1


async def test_the_pace_follows_use() -> None:
    scans = Scans()
    accountant = scans.accountant
    assert accountant.pace_s() is None, "nobody holds or uses anything"
    scans.held = True
    assert accountant.pace_s() == 1.0
    scans.held = False
    for busy in (
        Accounting(1.0, 1.0, containers=(CONTAINER,)),
        Accounting(1.0, 1.0, host=(USE,)),
        Accounting(1.0, 1.0, unknown=(USE,)),
    ):
        scans.next = busy
        await accountant.scan({})
        assert accountant.pace_s() == 1.0
    accountant.short_of_memory(["GPU-0"])
    assert accountant.pace_s() == 0.1
    accountant.short_of_memory([])
    scans.next = Accounting(2.0, 2.0)
    await accountant.scan({})
    assert accountant.pace_s() is None


@pytest.mark.loud
async def test_what_cannot_be_accounted_for_is_said_once_and_nobody_acts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    scans = Scans()
    seen: list[Accounting] = []

    async def act(accounting: Accounting) -> None:
        seen.append(accounting)

    scans.accountant.subscribe(act)
    scans.error = PermissionError("no")
    await scans.accountant.scan({})
    await scans.accountant.scan({})
    assert seen == []
    assert scans.accountant.problem == "GPU processes are not accounted for: no"
    scans.error = None
    await scans.accountant.scan({})
    assert seen == [scans.next]
    assert scans.accountant.problem is None
    assert [record.getMessage() for record in caplog.records] == [
        "GPU processes not accounted for",
        "GPU processes accounted for again",
    ]


@pytest.mark.loud
async def test_a_procfs_that_hangs_stops_nothing_else() -> None:
    scans = Scans(limit_s=0.05)
    scans.go.clear()
    with trio.fail_after(5):
        await scans.accountant.scan({})
        await scans.accountant.scan({})
    scans.go.set()


@pytest.mark.loud
async def test_a_doubt_is_said_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    scans = Scans()
    scans.next = Accounting(1.0, 1.0, doubts=("two claim one",))
    await scans.accountant.scan({})
    await scans.accountant.scan({})
    assert [record.getMessage() for record in caplog.records] == ["accounting in doubt"]


class Runtime:
    """Lists what a test put there; None: it does not answer."""

    def __init__(self) -> None:
        self.containers: tuple[Container, ...] | None = ()
        self.asked = 0

    def list(self) -> tuple[Container, ...]:
        self.asked += 1
        if self.containers is None:
            raise Unavailable("no answer")
        return self.containers


async def test_names_are_asked_for_when_there_is_somebody_to_name() -> None:
    runtime, told = Runtime(), Published(Told())
    pods: list[tuple[PodDevices, ...] | None] = [()]
    watch = NamesWatch(
        runtime, lambda: pods[0], told, NamesTiming(again_s=0.01, seldom_s=60.0), log=get_logger()
    )
    someone = Accounting(1.0, 1.0, containers=(CONTAINER,))
    id_ = CONTAINER.key.container_id

    async def until(wanted: bool) -> None:
        with trio.fail_after(5):
            while (id_ in told.value.by_id) is not wanted:
                await watch.scanned(someone)
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await watch.scanned(Accounting(1.0, 1.0))
        await trio.sleep(0.05)
        assert runtime.asked == 0, "nobody uses a GPU"
        runtime.containers = None
        await watch.scanned(someone)
        await trio.sleep(0.05)
        assert runtime.asked >= 1
        runtime.containers = (Container(id_, "main", Pod("ada", "hub", "u", {}, {"a": "b"}), 1),)
        await until(True)
        assert told.value.by_id[id_].annotations == {"a": "b"}
        asked = runtime.asked
        for _ in range(5):
            await watch.scanned(someone)
            await trio.sleep(0.02)
        assert runtime.asked == asked, "all are known"
        pods[0] = (PodDevices("ada", "hub", {"main": {"r": ("GPU-0::1",)}}),)
        with trio.fail_after(5):
            while not told.value.held:
                await watch.scanned(someone)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_who_is_new_is_asked_for_before_anybody_acts() -> None:
    """What it may use is in its annotations: not asked for, it looks as if it had none."""
    runtime, told = Runtime(), Published(Told())
    id_ = CONTAINER.key.container_id
    runtime.containers = (Container(id_, "main", Pod("ada", "hub", "u", {}, {"a": "b"}), 1),)
    watch = NamesWatch(runtime, lambda: (), told, log=get_logger())
    someone = Accounting(1.0, 1.0, containers=(CONTAINER,))
    seen: list[Accounting] = []

    def account(readings: Readings) -> Accounting:
        names = told.value.names(id_, ())
        return replace(someone, containers=(replace(CONTAINER, names=names),))

    async def act(accounting: Accounting) -> None:
        seen.append(accounting)

    accountant = Accountant(
        account,
        introduce=watch.introduce,
        counters=Counters(CollectorRegistry()),
        log=get_logger(),
    )
    accountant.subscribe(act)
    await accountant.scan({})
    (names,) = [one.names for one in seen[0].containers]
    assert names is not None
    assert names.annotations == {"a": "b"}
    await accountant.scan({})
    assert runtime.asked == 1


async def test_names_that_the_runtime_told_stay_when_it_goes_away() -> None:
    """Else the series of all containers would change with every restart of it."""
    runtime, told = Runtime(), Published(Told())
    id_ = CONTAINER.key.container_id
    runtime.containers = (Container(id_, "main", Pod("ada", "hub", "u", {}, {"a": "b"}), 1),)
    watch = NamesWatch(runtime, lambda: (), told, log=get_logger())
    assert await watch.introduce(Accounting(1.0, 1.0, containers=(CONTAINER,)))
    runtime.containers = None
    other = replace(CONTAINER, key=ContainerKey(None, "cd" * 32))
    assert await watch.introduce(Accounting(2.0, 2.0, containers=(CONTAINER, other)))
    assert runtime.asked == 2
    assert told.value.by_id.keys() == {id_}


async def test_a_runtime_that_does_not_answer_is_asked_once_for_whom_it_does_not_know() -> None:
    runtime, told = Runtime(), Published(Told())
    runtime.containers = None
    watch = NamesWatch(runtime, lambda: (), told, log=get_logger())
    someone = Accounting(1.0, 1.0, containers=(CONTAINER,))
    assert await watch.introduce(someone)
    for _ in range(3):
        assert not await watch.introduce(someone)
    assert runtime.asked == 1
