# SPDX-License-Identifier: Apache-2.0
"""Who may choose what, and what counts as a choice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from nodeshare_hub import choice
from nodeshare_hub.choice import Refused
from nodeshare_hub.settings import Gpu, Instance, Settings


def keys(settings: Settings, *groups: str) -> list[str]:
    return [one.key for one in choice.offers(settings.instances, groups)]


def test_offers_go_by_groups(settings: Settings) -> None:
    assert keys(settings) == ["small"]
    assert keys(settings, "physics") == ["small", "gpu/4", "gpu/8", "gpu/16"]
    assert keys(settings, "gpu", "other") == ["small", "gpu/4", "gpu/8", "gpu/16", "slice"]
    assert keys(settings, "phys", "physicss", "Physics") == ["small"]


def test_who_says_nothing_gets_the_default_that_he_may_have(settings: Settings) -> None:
    assert choice.chosen({}, choice.offers(settings.instances, ["gpu"])).key == "gpu/4"
    assert choice.chosen(None, choice.offers(settings.instances, [])).key == "small"
    assert choice.chosen({"profile": "x"}, choice.offers(settings.instances, [])).key == "small"
    with pytest.raises(Refused, match="groups that you are not in"):
        choice.chosen({}, ())


FORGED = ["slice", "gpu/8", "gpu", "gpu/64", "gpu/8/../16", "", "small/0", "Small", 8, None, True]


@pytest.mark.parametrize("forged", [*FORGED, ["small"], {"instance": "small"}, "x" * 10_000])
def test_what_is_not_offered_is_refused_whatever_was_sent(settings: Settings, forged: Any) -> None:
    offered = choice.offers(settings.instances, [])
    if forged is None:
        assert choice.chosen({"instance": forged}, offered).key == "small"
        return
    with pytest.raises(Refused) as caught:
        choice.chosen({"instance": forged}, offered)
    text = str(caught.value)
    assert "Choose one of: small" in text
    assert len(text) < 300
    assert not text.endswith("slice"), "what exists for others is not told"


@bounded(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), st.lists(st.text())))
def test_any_form_makes_options_and_no_error(form: dict[str, list[str]]) -> None:
    options = choice.from_form(form)
    assert set(options) <= {"instance"}


def test_the_form_sends_the_key() -> None:
    assert choice.from_form({"nodeshare-instance": ["gpu/8"]}) == {"instance": "gpu/8"}
    assert choice.from_form({"nodeshare-instance": [""], "other": ["x"]}) == {}


@bounded(max_examples=50, deadline=None)
@given(
    st.integers(1, 1000),
    st.floats(1, 8),
    st.none() | st.integers(1, 2000),
    st.sampled_from([1 << 20, 1 << 30, 512 << 20]),
)
def test_a_limit_is_never_below_the_request_nor_above_the_cap(
    units: int, ratio: float, most: int | None, chunk: int
) -> None:
    gpu = Gpu("a/b", (units,), "", chunk, ratio, None if most is None else most << 30)
    limit, request = gpu.limit(units), units * chunk
    assert limit is not None
    assert request <= limit <= max(request, int(request * ratio))
    assert most is None or limit <= max(request, most << 30)
    assert limit % (1 << 20) == 0, "as annotations are written"


def test_without_a_ratio_the_nodes_rule_decides() -> None:
    assert Gpu("a/b", (1,), "", 1 << 30).limit(1) is None
    assert Gpu("a/b", (1,), "slice").limit(1) is None


def test_keys_are_apart_for_all_instances() -> None:
    gpu = Gpu("a/b", (1, 2), "")
    offered = choice.offers([Instance("a", "A", gpu=gpu), Instance("a-1", "B")], [])
    assert len({one.key for one in offered}) == 3
