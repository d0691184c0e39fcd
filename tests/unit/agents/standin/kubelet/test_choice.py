# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agents.standin.kubelet.choice import choose, near_node

FREE = [f"d{number}" for number in range(8)]


@given(
    free=st.sets(st.integers(0, 30), min_size=1).map(lambda ids: {f"d{n}" for n in ids}),
    answer=st.lists(st.integers(0, 40).map(lambda n: f"d{n}")),
    aligned=st.sets(st.integers(0, 30).map(lambda n: f"d{n}")),
    seed=st.integers(),
    data=st.data(),
)
def test_the_choice_is_always_free_ids_of_the_right_number(
    free: set[str], answer: list[str], aligned: set[str], seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(free)))
    chosen = choose(free, size, lambda *_: answer, rng=random.Random(seed), aligned=aligned)
    assert len(chosen.ids) == len(set(chosen.ids)) == size
    assert set(chosen.ids) <= free
    near = aligned & free
    assert len(near & set(chosen.ids)) == min(len(near), size)
    if not near:
        # Everything offered that the plugin named is taken, as far as there is room.
        assert len(set(answer) & free & set(chosen.ids)) == min(size, len(set(answer) & free))


def test_a_whole_answer_is_taken_without_a_word() -> None:
    chosen = choose(FREE, 2, lambda *_: ["d3", "d1"], rng=random.Random(1))
    assert set(chosen.ids) == {"d1", "d3"}
    assert chosen.repaired is None


def test_a_short_answer_is_completed_at_random() -> None:
    completed = {
        frozenset(choose(FREE, 3, lambda *_: ["d3"], rng=random.Random(seed)).ids)
        for seed in range(50)
    }
    assert all("d3" in ids for ids in completed)
    assert len(completed) > 5
    repaired = choose(FREE, 3, lambda *_: ["d3"], rng=random.Random(1)).repaired
    assert repaired == "preferred 1 ids where 3 were asked; the rest is chosen at random"


def test_ids_that_were_not_offered_do_not_count() -> None:
    chosen = choose(FREE, 2, lambda *_: ["x", "d1"], rng=random.Random(1))
    assert "x" not in chosen.ids
    assert "d1" in chosen.ids
    assert chosen.repaired == "preferred 1 ids that were not offered, such as 'x'"


def test_without_preference_the_order_is_arbitrary() -> None:
    orders = {choose(FREE, 8, None, rng=random.Random(seed)).ids for seed in range(20)}
    assert len(orders) > 10


def test_the_plugin_is_asked_even_if_all_that_is_free_is_needed() -> None:
    questions: list[int] = []

    def prefer(offered: Sequence[str], included: Sequence[str], size: int) -> Sequence[str]:
        questions.append(size)
        return offered

    choose(FREE, 8, prefer, rng=random.Random(1))
    assert questions == [8]


def test_alignment_with_more_than_enough_offers_the_aligned_ids_alone() -> None:
    questions: list[tuple[list[str], list[str], int]] = []

    def prefer(offered: Sequence[str], included: Sequence[str], size: int) -> Sequence[str]:
        questions.append((sorted(offered), list(included), size))
        return ["d2", "d1"]

    chosen = choose(FREE, 2, prefer, rng=random.Random(1), aligned=["d0", "d1", "d2"])
    assert questions == [(["d0", "d1", "d2"], [], 2)]
    assert set(chosen.ids) == {"d1", "d2"}


def test_alignment_that_is_exactly_enough_asks_nobody() -> None:
    def prefer(*_: object) -> Sequence[str]:
        raise AssertionError("asked")

    chosen = choose(FREE, 2, prefer, rng=random.Random(1), aligned=["d0", "d1"])
    assert set(chosen.ids) == {"d0", "d1"}


def test_alignment_that_is_too_small_is_included_by_force() -> None:
    questions: list[tuple[list[str], list[str], int]] = []

    def prefer(offered: Sequence[str], included: Sequence[str], size: int) -> Sequence[str]:
        questions.append((sorted(offered), list(included), size))
        return ["d0", "d6", "d7"]

    chosen = choose(FREE, 3, prefer, rng=random.Random(1), aligned=["d0"])
    assert questions == [(FREE, ["d0"], 3)]
    assert set(chosen.ids) == {"d0", "d6", "d7"}


def test_near_node() -> None:
    numa = {"d0": (0,), "d1": (0, 1), "d2": (1,)}
    assert near_node(["d0", "d1", "d2", "d3"], numa, 1) == ["d1", "d2"]
    assert near_node(["d0", "d1"], numa, None) == []


def test_the_order_is_arbitrary_also_after_an_answer() -> None:
    orders = {
        choose(FREE, 8, lambda offered, *_: sorted(offered), rng=random.Random(seed)).ids
        for seed in range(20)
    }
    assert len(orders) > 10
