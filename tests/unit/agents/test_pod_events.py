# SPDX-License-Identifier: Apache-2.0
"""Events about pods at a real (small) API server: told, counted up, held to a rate, dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry, Counter

from agents import kube
from agents.pod_event import PodEvent
from agents.pod_events import PodEvents, Timing
from tests.fakes.api_server import ApiServer

QUICK = Timing(tick_s=0.01, first_pause_s=0.02, longest_pause_s=0.05, burst=4, refill_s=1000.0)
EVENT = PodEvent("jupyterhub", "ada", "uid-1", "notebook", "GpuMemoryWarning", "free 2 GiB", 1e9)


class Case:
    def __init__(self, directory: Path, server: ApiServer) -> None:
        self.server, self.registry = server, CollectorRegistry()
        kubeconfig = server.kubeconfig(directory / "kubeconfig")
        self.events = PodEvents(
            "node-a",
            "nodeshare-gpu",
            connect=lambda: kube.connect(kubeconfig),
            errors=Counter("errors", "Text.", registry=self.registry),
            dropped=Counter("dropped", "Text.", registry=self.registry),
            timing=QUICK,
        )

    def count(self, name: str) -> float:
        return self.registry.get_sample_value(f"{name}_total") or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.events.run)
            yield
            nursery.cancel_scope.cancel()

    async def until(self, requests: int) -> None:
        with trio.fail_after(10):
            while len(self.server.requests) < requests:
                await trio.sleep(0.01)
            await trio.sleep(0.05)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with ApiServer() as server:
        yield Case(tmp_path, server)


async def test_it_is_what_kubectl_describe_shows(case: Case) -> None:
    async with case.running():
        case.events.tell(EVENT)
        await case.until(1)
    (told,) = case.server.events.values()
    assert told["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "jupyterhub",
        "name": "ada",
        "uid": "uid-1",
        "fieldPath": "spec.containers{notebook}",
    }
    assert (told["type"], told["reason"], told["message"], told["count"]) == (
        "Warning",
        "GpuMemoryWarning",
        "free 2 GiB",
        1,
    )
    assert told["firstTimestamp"] == told["lastTimestamp"] == "2001-09-09T01:46:40Z"
    assert told["source"] == {"component": "nodeshare-gpu", "host": "node-a"}


async def test_the_same_again_counts_up_one_that_was_deleted_is_made_anew(case: Case) -> None:
    async with case.running():
        case.events.tell(EVENT)
        case.events.tell(replace(EVENT, message="free 3 GiB", wall=1e9 + 5))
        case.events.tell(replace(EVENT, reason="GpuMemoryEnded"))
        await case.until(3)
        first, second = case.server.events.values()
        assert (first["count"], first["message"]) == (2, "free 3 GiB")
        assert first["lastTimestamp"] == "2001-09-09T01:46:45Z"
        assert (second["count"], second["reason"]) == (1, "GpuMemoryEnded")
        case.server.events.clear()
        case.events.tell(replace(EVENT, wall=1e9 + 9))
        await case.until(5)
    (anew,) = case.server.events.values()
    assert anew["count"] == 1


async def test_a_pod_that_has_much_to_tell_is_held_to_a_rate(case: Case) -> None:
    async with case.running():
        for number in range(10):
            case.events.tell(replace(EVENT, reason=f"R{number}"))
        case.events.tell(replace(EVENT, pod_uid="uid-2", pod="emmy"))
        await case.until(5)
    assert sorted(one["involvedObject"]["name"] for one in case.server.events.values()) == [
        *["ada"] * 4,
        "emmy",
    ]
    assert case.count("dropped") == 6


async def test_without_a_name_nothing_can_be_told(case: Case) -> None:
    case.events.tell(replace(EVENT, pod=""))
    for _ in range(250):
        case.events.tell(EVENT)
    assert case.count("dropped") == 51, "nobody waits, and no more than 200 are kept"


@pytest.mark.loud
async def test_a_server_that_refuses_is_said_once_and_tried_again(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    case.server.faults = [403, 500]
    async with case.running():
        for number in range(3):
            case.events.tell(replace(EVENT, reason=f"R{number}"))
        await case.until(3)
    assert [one["reason"] for one in case.server.events.values()] == ["R2"]
    assert (case.count("errors"), case.count("dropped")) == (2, 2)
    assert caplog.text.count("events about pods cannot be told") == 1
    assert any("create and patch of events" in str(vars(one)) for one in caplog.records)
    assert "events about pods can be told again" in caplog.text
