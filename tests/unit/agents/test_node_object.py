# SPDX-License-Identifier: Apache-2.0
"""The node object follows the agent: taint and annotations, next to other writers and faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from agents import kube
from agents.agent import Readiness
from agents.kube import NodeState
from agents.node_object import Annotations, NodeKeeper, Timing, operations
from agents.published import Published
from tests.fakes import api_server
from tests.fakes.api_server import ApiServer

TAINT = "nodeshare/gpu-not-ready"
BLOCK = "nodeshare/largest-free-block"
QUICK = Timing(
    tick_s=0.01, rest_s=0.05, look_s=0.3, limit_s=5.0, first_pause_s=0.02, longest_pause_s=0.1
)

keys = st.sampled_from([TAINT, "other/taint", "node.kubernetes.io/not-ready"])
taints = st.lists(st.builds(lambda key, effect: {"key": key, "effect": effect}, keys, st.text()))
texts = st.dictionaries(st.sampled_from([BLOCK, "a~/b~1", "c"]), st.text())
wishes = st.dictionaries(st.sampled_from([BLOCK, "a~/b~1", "c"]), st.none() | st.text())


@settings(deadline=None)
@given(taints, st.none() | texts, st.none() | texts, st.none() | st.just(TAINT), wishes, wishes)
def test_a_patch_does_what_is_wanted_and_touches_nothing_else(
    before: list[dict[str, str]],
    annotations: dict[str, str] | None,
    labels: dict[str, str] | None,
    taint: str | None,
    annotated: Any,
    labelled: Any,
) -> None:
    document: dict[str, Any] = {"metadata": {"resourceVersion": "7"}, "spec": {"taints": before}}
    known = {"annotations": annotations, "labels": labels}
    document["metadata"] |= {key: dict(each) for key, each in known.items() if each is not None}
    node = NodeState("a", "7", tuple(before), annotations, labels)
    patch = operations(node, taint, annotated, labelled)
    for operation in patch:
        api_server.apply(document, dict(operation))
    assert document["spec"]["taints"] == [t for t in node.taints if t["key"] != taint]
    after = {}
    for key, wanted in (("annotations", annotated), ("labels", labelled)):
        after[key] = document["metadata"].get(key, {})
        expected = {**(known[key] or {}), **wanted}
        assert after[key] == {name: each for name, each in expected.items() if each is not None}
    again = NodeState("a", "8", tuple(document["spec"]["taints"]), **after)
    assert operations(again, taint, annotated, labelled) == [], "then nothing is left to do"


class Case:
    """A keeper at work on node `a` of a real API server."""

    def __init__(self, directory: Path, server: ApiServer) -> None:
        self.server = server
        self.readiness = Readiness()
        self.annotations = Published[Annotations]({})
        self.labels = Published[Annotations]({})
        self.registry = CollectorRegistry()
        kubeconfig = server.kubeconfig(directory / "kubeconfig")
        self.keeper = NodeKeeper(
            "a",
            TAINT,
            connect=lambda: kube.connect(kubeconfig),
            readiness=self.readiness,
            annotations=self.annotations,
            labels=self.labels,
            errors=Counter("errors", "Text.", registry=self.registry),
            timing=QUICK,
        )

    @property
    def errors(self) -> float:
        return self.registry.get_sample_value("errors_total") or 0.0

    @property
    def patches(self) -> int:
        return sum(line.startswith("PATCH") for line in self.server.requests)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keeper.run)
            yield
            nursery.cancel_scope.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():
                await trio.sleep(0.01)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with ApiServer() as server:
        yield Case(tmp_path, server)


async def test_the_taint_goes_when_the_agent_is_ready_and_not_before(case: Case) -> None:
    case.server.add_node("a", "other/first", TAINT, "other/last")
    async with case.running():
        await case.until(lambda: len(case.server.requests) > 1)
        assert case.server.taints("a") == ["other/first", TAINT, "other/last"]
        case.readiness.ready()
        await case.until(lambda: case.server.taints("a") == ["other/first", "other/last"])
    assert case.patches == 1


async def test_a_taint_that_comes_back_goes_again(case: Case) -> None:
    case.server.add_node("a")
    case.readiness.ready()
    async with case.running():
        await case.until(lambda: len(case.server.requests) > 0)
        case.server.add_node("a", TAINT)  # a node object that was made anew
        await case.until(lambda: case.server.taints("a") == [])


async def test_a_taint_that_somebody_adds_meanwhile_is_not_lost(case: Case) -> None:
    case.server.add_node("a", TAINT)
    case.readiness.ready()

    def compete() -> None:
        case.server.before_patch = lambda: None
        case.server.write(
            lambda node: node["spec"]["taints"].insert(0, {"key": "x/y", "effect": "NoExecute"}),
            "a",
        )

    case.server.before_patch = compete
    async with case.running():
        await case.until(lambda: case.server.taints("a") == ["x/y"])
    assert case.patches == 2
    assert case.errors == 0, "a conflict is no error"


async def test_annotations_are_written_on_change_alone_and_not_often(case: Case) -> None:
    case.server.add_node("a", annotations={"other": "stays"})
    async with case.running():
        case.annotations.set({BLOCK: "1"})
        await case.until(lambda: case.server.annotations("a").get(BLOCK) == "1")
        started, before = trio.current_time(), case.patches
        for number in range(2, 40):
            case.annotations.set({BLOCK: str(number)})
            await trio.sleep(0.005)
        await case.until(lambda: case.server.annotations("a")[BLOCK] == "39")
        # Never two within the rest.
        assert case.patches - before <= (trio.current_time() - started) / QUICK.rest_s + 1
        written = case.patches
        await trio.sleep(2 * QUICK.look_s)
        assert case.patches == written, "a steady agent writes nothing"
        case.annotations.set({BLOCK: None})
        await case.until(lambda: case.server.annotations("a") == {"other": "stays"})


async def test_labels_come_and_go_with_what_they_say(case: Case) -> None:
    case.server.add_node("a")
    async with case.running():
        case.labels.set({"nodeshare/affinity-ready": "true"})
        await case.until(lambda: case.server.labels("a") == {"nodeshare/affinity-ready": "true"})
        case.labels.set({"nodeshare/affinity-ready": None})
        await case.until(lambda: case.server.labels("a") == {})


@pytest.mark.loud
@pytest.mark.parametrize("fault", [403, 500, "no JSON"])
async def test_faults_are_said_once_and_outlived(
    case: Case, fault: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    case.server.add_node("a", TAINT)
    case.server.faults += [fault] * 4
    case.readiness.ready()
    async with case.running():
        await case.until(lambda: case.server.taints("a") == [])
        await case.until(lambda: case.keeper.problem is None)
    assert case.errors == 4
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["node object not up to date"]


@pytest.mark.loud
async def test_a_conflict_without_end_is_a_problem(case: Case) -> None:
    case.server.add_node("a", TAINT)
    case.readiness.ready()
    async with case.running():
        case.server.faults += [422] * 1000
        await case.until(lambda: case.keeper.problem is not None)
        assert "422" in str(case.keeper.problem)
        case.server.faults.clear()
        await case.until(lambda: case.server.taints("a") == [])


@pytest.mark.loud
async def test_a_server_that_hangs_stops_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "_TIMEOUT_S", (1.0, 0.1))
    case.server.add_node("a", TAINT)
    case.server.hang.clear()
    case.readiness.ready()
    async with case.running():
        await case.until(lambda: case.errors >= 2)
        case.server.hang.set()
        await case.until(lambda: case.server.taints("a") == [])
