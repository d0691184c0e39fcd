# SPDX-License-Identifier: Apache-2.0
"""Random sequences of everything that happens to units: nothing leaks, nothing is sold twice."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from gpu_plugin import capacity
from gpu_plugin.placement import Refused
from gpu_plugin.resources import plan
from tests.fakes.gpus import gpu, machine, rule
from tests.fakes.kubelet_model import Node

STEPS = 60
RULES: dict[str, dict[str, Any]] = {
    "units": {},
    "units that may span devices": {"split": True, "placement": "spread"},
    "honest capacity": {"honest_capacity": {"sizes": [5, 12]}},
    "size classes": {"blocks": {"3g": "3GiB", "8g": "8GiB", "20g": "20GiB"}},
    "size classes that may span": {"blocks": {"5g": "5GiB", "12g": "12GiB"}, "split": True},
}


def node(fields: dict[str, Any], rng: random.Random) -> Node:
    found = plan([rule(**fields)], machine(*(gpu(index) for index in range(3))))
    made = Node(found.resources, rng)
    made.settle()
    for name in made.plan:
        made.deliver(name)
    return made


def admit(node: Node) -> None:
    """One container, with one resource or two."""
    rng, names = node.rng, list(node.plan)
    wanted = rng.sample(names, rng.choice([1, 1, min(2, len(names))]))
    most = 1 if node.plan[names[0]].classes and rng.random() < 0.8 else 14
    asks = {name: rng.randint(1, most) for name in wanted}
    node.admit(asks, ask_preferred=rng.random() < 0.8)


def finish(node: Node) -> None:
    if node.pods:
        node.pods.pop(node.rng.randrange(len(node.pods)))


def give_again(node: Node) -> None:
    """The main container gets the units of the init container."""
    if node.pods:
        pod = node.rng.choice(node.pods)
        name, ids = node.rng.choice(list(pod.holds.items()))
        with contextlib.suppress(Refused):
            pod.names.append(node.allocate(name, ids))


def flip_health(node: Node) -> None:
    resource = next(iter(node.plan.values()))
    node.sick ^= {node.rng.choice([served.device.uuid for served in resource.devices])}


def flip_podresources(node: Node) -> None:
    """A kubelet that has just started lists no pods; some time later it does."""
    node.knows_pods = not node.knows_pods


def pass_time(node: Node) -> None:
    node.now += node.rng.choice([0.1, 1.0, 15.0])


def deliver(node: Node) -> None:
    node.deliver(node.rng.choice(list(node.plan)))


#: What may happen, and how often it does.
STEPS_BY_WEIGHT: dict[Callable[[Node], None], int] = {
    admit: 30,
    finish: 20,
    deliver: 20,
    Node.settle: 12,
    pass_time: 6,
    give_again: 4,
    flip_health: 3,
    Node.restart_agent: 3,
    flip_podresources: 2,
}


def step(node: Node) -> None:
    """One thing that happens, most often a pod that comes or goes."""
    (chosen,) = node.rng.choices(list(STEPS_BY_WEIGHT), list(STEPS_BY_WEIGHT.values()))
    chosen(node)


@pytest.mark.parametrize("fields", RULES.values(), ids=list(RULES))
def test_nothing_is_sold_twice_and_nothing_leaks(fields: dict[str, Any], soak: bool) -> None:
    for seed in range(2000 if soak else 25):
        rng = random.Random(seed)
        made = node(fields, rng)
        for _ in range(STEPS):
            step(made)
            made.check()
        # All comes to rest: every list delivered, every pod known.
        made.knows_pods = True
        made.now += 60
        made.settle()
        made.check_settled()
        for name in made.plan:
            made.deliver(name)
        for resource in made.offered().values():
            free = capacity.free(resource, made.ledger.in_use)
            assert free is not None
            assert len(made.free(resource.name)) == sum(free.values())
        made.pods.clear()
        made.sick.clear()
        made.settle()
        assert made.ledger.in_use == {}


@pytest.mark.parametrize("placement", ["pack", "spread", "numa"])
def test_what_the_node_shows_of_size_classes_is_exact(placement: str, soak: bool) -> None:
    """With every list delivered, a pod is admitted if and only if the scheduler sees a block."""
    for seed in range(500 if soak else 10):
        rng = random.Random(seed)
        made = node({"blocks": {"3g": "3GiB", "8g": "8GiB"}, "placement": placement}, rng)
        for _ in range(STEPS):
            if made.pods and rng.random() < 0.4:
                made.pods.pop(rng.randrange(len(made.pods)))
                made.settle()
            for name in made.plan:
                made.deliver(name)
            name = rng.choice(list(made.plan))
            shown = made.allocatable(name) - len(made.used(name))
            admitted = made.admit({name: 1}) is not None
            assert admitted == (shown > 0)
            made.check()


def test_one_size_makes_the_node_total_exact_without_blocks(soak: bool) -> None:
    for seed in range(500 if soak else 10):
        rng = random.Random(seed)
        made = node({"honest_capacity": {"sizes": [7]}}, rng)
        for _ in range(STEPS):
            if made.pods and rng.random() < 0.4:
                made.pods.pop(rng.randrange(len(made.pods)))
                made.settle()
            made.deliver("nodeshare/gpu-memory")
            shown = len(made.free("nodeshare/gpu-memory"))
            assert (made.admit({"nodeshare/gpu-memory": 7}) is not None) == (shown >= 7)
