# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import random

import pytest

from agents.processes import ProcessKey
from gpu_plugin.process_choice import Holder, fewest, freed, settle


def holders(*sizes: int | None, main: int | None = None) -> list[Holder]:
    """Process 1, 2, ... (the older the smaller)."""
    return [
        Holder(ProcessKey(number, 10 * number), size, number == main)
        for number, size in enumerate(sizes, 1)
    ]


def pids(chosen: tuple[Holder, ...]) -> list[int]:
    return [holder.process.pid for holder in chosen]


@pytest.mark.parametrize(
    ("sizes", "required", "expected"),
    [
        pytest.param([1] * 8, 4, [8, 7, 6, 5], id="the newest of equals"),
        pytest.param([9, 1, 1], 1, [3], id="the newest that is enough"),
        pytest.param([9, 1, 1], 2, [1], id="one rather than two"),
        pytest.param([5, 4, 3, 3], 8, [1, 4], id="the largest, then the newest that is enough"),
        pytest.param([None, 2, None], 1, [2], id="what is unknown frees nothing"),
        pytest.param([None, 2], 5, [2], id="as much as can be"),
        pytest.param([3, 3], 0, [], id="nothing"),
        pytest.param([0, 0], 1, [], id="nobody holds anything"),
    ],
)
def test_who_has_to_go(sizes: list[int | None], required: int, expected: list[int]) -> None:
    assert pids(fewest(holders(*sizes), required)) == expected


@pytest.mark.parametrize("seed", range(200))
def test_no_smaller_number_would_do(seed: int) -> None:
    rng = random.Random(seed)
    found = holders(*(rng.randint(0, 9) for _ in range(rng.randint(1, 7))))
    required = rng.randint(1, 1 + freed(found))
    chosen = fewest(found, required)
    if freed(found) < required:
        assert freed(chosen) == freed(found)
        return
    assert freed(chosen) >= required
    for fewer in itertools.combinations(found, len(chosen) - 1):
        assert freed(fewer) < required


def test_the_first_process_goes_only_when_the_others_are_not_enough() -> None:
    """A kernel of Jupyter is a child of its server: the server lives on."""
    assert pids(settle(holders(9, 1, 1, main=1), 2)) == [3, 2]
    assert pids(settle(holders(9, 1, 1, main=1), 3)) == [1]
    assert pids(settle(holders(None, 1, 1, main=1), 3)) == [3, 2], "it frees nothing that we know"


def test_whose_end_was_begun_comes_first() -> None:
    found = holders(4, 4, 4, 4)
    first = found[0].process
    assert pids(settle(found, 4, begun=[first])) == [1]
    assert pids(settle(found, 8, begun=[first])) == [1, 4]
    assert pids(settle(found, 4, begun=[one.process for one in found])) == [4]
    assert settle(found, 0, begun=[first]) == ()


def test_a_large_one_makes_others_unnecessary() -> None:
    found = holders(1, 1, 9)
    begun = [holder.process for holder in found[:2]]
    assert pids(settle(found, 2, begun=begun)) == [2, 1]
    assert pids(settle(found, 3, begun=begun)) == [3]


def test_who_is_killed_frees_memory_whatever_else_is_needed() -> None:
    found = holders(4, 4)
    killed = [found[0].process]
    assert pids(settle(found, 0, begun=killed, killed=killed)) == [1]
    assert pids(settle(found, 4, begun=killed, killed=killed)) == [1]
    assert pids(settle(found, 5, begun=killed, killed=killed)) == [1, 2]


def test_nobody_else_goes_while_the_first_process_ends() -> None:
    found = holders(2, 4, 4, main=1)
    assert pids(settle(found, 10, begun=[found[0].process])) == [1]
