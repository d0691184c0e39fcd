# SPDX-License-Identifier: Apache-2.0
"""Where the kubelet and the node differ, and how it is counted."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from gpu_plugin.identity import Allocation, digest
from gpu_plugin.metrics import Counters
from gpu_plugin.mismatch import Mismatch, MismatchKind, mismatches

NAME, OTHER = "nodeshare/gpu-memory", "nodeshare/small"


def allocation(resource: str, *numbers: int) -> Allocation:
    given = {"GPU-1": numbers}
    name = f"{digest(resource, given)}.00000000"
    return Allocation(name, resource, given, 0, {}, (1, 1))


def ids(*numbers: int) -> frozenset[str]:
    return frozenset(f"GPU-1::{number}" for number in numbers)


def test_nothing_differs_when_each_listed_container_carries_its_directory() -> None:
    mine = allocation(NAME, 0, 1)
    assert mismatches([mine], {mine.name}, {NAME: [ids(1, 0)]}) == frozenset()


def test_ids_of_another_form_are_another_plugins() -> None:
    held = {NAME: [ids(0) | {"nvidia0"}]}
    mine = allocation(NAME, 0)
    assert mismatches([mine], {mine.name}, held) == frozenset()


def test_a_former_pods_directory_is_no_difference() -> None:
    assert mismatches([allocation(NAME, 0)], set(), {}) == frozenset()


def test_each_kind_is_counted_by_resource_and_forgotten_when_unknown() -> None:
    registry = CollectorRegistry()
    counters = Counters(registry)

    def shown(resource: str, kind: str) -> float | None:
        labels = {"resource": resource, "kind": kind}
        return registry.get_sample_value("nodeshare_gpu_kubelet_mismatch", labels)

    found = frozenset(Mismatch(MismatchKind.UNLISTED, NAME, one) for one in ("a", "b"))
    counters.set_mismatches([NAME, OTHER], found)
    assert shown(NAME, "unlisted") == 2
    assert shown(NAME, "unmounted") == 0
    assert shown(OTHER, "unlisted") == 0
    counters.set_mismatches([NAME, OTHER], None)
    assert shown(NAME, "unlisted") is None
