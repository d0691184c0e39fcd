# SPDX-License-Identifier: Apache-2.0
"""What the node object says of the GPUs."""

from __future__ import annotations

from dataclasses import replace

from gpu_plugin.node_annotation import LARGEST_FREE_BLOCK, node_annotations
from gpu_plugin.resources import plan
from gpu_plugin.status import EMPTY, NodeStatus, build
from tests.fakes.gpus import gpu, machine, rule


def status(**blocks: int | None) -> NodeStatus:
    """Of resources with these largest free blocks."""
    found = machine(gpu(0))
    decided = plan([rule("a/x")], found)
    built = build(found, decided, usage={}, holders=None, registration={})
    (one,) = built.resources
    resources = [replace(one, name=f"a/{n}", largest_free_block=b) for n, b in blocks.items()]
    return replace(built, resources=tuple(resources))


def test_units_by_resource_as_json_in_one_order() -> None:
    assert node_annotations(status(z=32, b=0)) == {LARGEST_FREE_BLOCK: '{"a/b":0,"a/z":32}'}
    assert node_annotations(status(b=0, z=32)) == node_annotations(status(z=32, b=0))


def test_what_is_not_known_is_not_claimed() -> None:
    assert node_annotations(status(b=3, z=None)) == {LARGEST_FREE_BLOCK: '{"a/b":3}'}
    assert node_annotations(status(b=None)) == {LARGEST_FREE_BLOCK: None}
    assert node_annotations(EMPTY) == {LARGEST_FREE_BLOCK: None}
