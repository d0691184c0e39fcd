# SPDX-License-Identifier: Apache-2.0
"""Containers that the runtime tells of: who is covered, how they are answered, when they may go."""

from __future__ import annotations

import time

import pytest
import trio

from agents.cgroup_formats import CgroupPaths
from agents.containers import Container, Pod
from agents.errors import Unavailable
from agents.seccomp_connection import Arrival, SeccompState
from lxcfs_helper.affinity import first_views
from lxcfs_helper.affinity.first_views import FirstViews
from lxcfs_helper.affinity.tally import Outcome
from lxcfs_helper.affinity.values import Terms

ID = "0123456789abcdef" * 4


class Nothing:
    """What a container and its node are like before anything was read."""

    facts = host_facts = None


TERMS = Terms(CgroupPaths("/pods/one"), Nothing(), Nothing())
SAID = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-id": "sandbox-1",
    "io.kubernetes.cri.sandbox-namespace": "jupyter",
}
POD = Pod("jupyter-ada", "jupyter", "uid-1", {"component": "singleuser-server"})


def arrival(container_id: str = ID, **annotations: str) -> Arrival:
    said = {**SAID, **{key.replace("_", "."): value for key, value in annotations.items()}}
    return Arrival(1, 9, SeccompState(container_id, 77, annotations=said, container_pid=77), True)


class World:
    """Takes containers in, and notes what is said of them; and a runtime that knows a pod."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []
        self.covered: list[Container] = []
        self.terms_now: Terms | None = None
        self.will_have: Terms | None = TERMS
        self.complete = True
        self.asked: list[str] = []
        self.runtime_away = self.runtime_hangs = False

    def cover(self, container: Container) -> Terms | None:
        self.covered.append(container)
        self.terms_now = self.will_have
        return self.terms_now

    def terms(self, container_id: str) -> Terms | None:
        return self.terms_now

    async def attach(self, container_id: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.said.append(("attached",))
        return self.complete

    def tell(self, container_id: str, terms: Terms | None) -> None:
        self.said.append(("tell", terms))

    def hold(self, container_id: str) -> None:
        self.said.append(("hold",))

    def let_go(self, container_id: str, outcome: Outcome) -> None:
        self.said.append(("let go", outcome))

    def pod(self, sandbox_id: str) -> Pod | None:
        self.asked.append(sandbox_id)
        if self.runtime_hangs:
            time.sleep(0.3)  # of a real thread
        if self.runtime_away:
            raise Unavailable("away")
        return POD


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def views(world: World) -> FirstViews:
    return FirstViews(world, world, world)


async def test_a_new_container_is_covered_as_its_pod_says_and_answered_before_it_may_go(
    world: World, views: FirstViews
) -> None:
    await views.take(arrival())
    (container,) = world.covered
    assert (container.id, container.pid, container.pod) == (ID, 77, POD)
    assert world.said == [("tell", TERMS), ("attached",), ("let go", Outcome.ATTACHED)]
    assert views.answered() == [ID]


async def test_an_exec_is_looked_after_and_its_pod_is_not_asked_for_again(
    world: World, views: FirstViews
) -> None:
    await views.take(arrival())
    world.said.clear()
    await views.take(arrival())
    assert world.said == [("attached",), ("let go", Outcome.ATTACHED)]
    assert ([one.pod for one in world.covered], world.asked) == ([POD, POD], ["sandbox-1"])


async def test_views_that_cannot_be_attached_hold_up_nobody(
    world: World, views: FirstViews
) -> None:
    world.complete = False
    await views.take(arrival())
    assert world.said[-1] == ("let go", Outcome.FAILED)


async def test_who_is_left_out_is_not_answered_and_may_go(world: World, views: FirstViews) -> None:
    world.will_have = None
    await views.take(arrival())
    assert world.said == [("tell", None), ("let go", Outcome.EXCLUDED)]
    assert not views.answered()


@pytest.mark.parametrize(
    "one", [arrival(io_kubernetes_cri_container_type="sandbox"), arrival("")], ids=["pod", "nobody"]
)
async def test_what_runs_no_program_is_let_go(
    world: World, views: FirstViews, one: Arrival
) -> None:
    said = {**SAID, "io.kubernetes.cri.container-type": "sandbox"} if one.state.container_id else {}
    await views.take(Arrival(1, 9, SeccompState(one.state.container_id, annotations=said), True))
    assert world.said == [("let go", Outcome.EXCLUDED)]
    assert not world.covered


@pytest.mark.parametrize("hangs", [False, True], ids=["away", "hangs"])
async def test_a_runtime_that_does_not_answer_costs_what_only_it_knows(
    world: World, views: FirstViews, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    monkeypatch.setattr(first_views, "_RUNTIME_LIMIT_S", 0.05)
    world.runtime_away, world.runtime_hangs = not hangs, hangs
    await views.take(arrival())
    (container,) = world.covered
    assert (container.pod.namespace, container.pod.labels) == ("jupyter", {})
    assert world.said[-1] == ("let go", Outcome.ATTACHED)


async def test_who_is_left_out_or_taken_in_later_is_told(world: World, views: FirstViews) -> None:
    world.will_have = None
    await views.take(arrival())
    world.said.clear()
    views.look()
    assert not world.said
    world.terms_now = TERMS
    views.look()
    world.terms_now = None
    views.look()
    assert world.said == [("tell", TERMS), ("tell", None)]


async def test_programs_wait_while_something_is_put_right_where_calls_are_told(
    world: World, views: FirstViews
) -> None:
    views.attaching(ID)
    views.attached(ID, complete=True)
    assert not world.said
    await views.take(arrival())
    world.said.clear()
    views.attaching(ID)
    views.attached(ID, complete=False)
    assert world.said == [("hold",), ("let go", Outcome.FAILED)]
    views.forget(ID)
    views.attaching(ID)
    assert len(world.said) == 2
