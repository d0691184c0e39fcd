# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.standin.kubelet import quantities


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (8, "8"),
        (69_904, "69904"),
        (10_000, "10k"),
        (80_000, "80k"),
        (1_000_000, "1M"),
        (1_001_000, "1001k"),
    ],
)
def test_canonical(count: int, text: str) -> None:
    assert quantities.canonical(count) == text


@given(st.integers(min_value=0, max_value=10**20))
def test_what_is_written_is_read_again(count: int) -> None:
    assert quantities.parse(quantities.canonical(count)) == count


@pytest.mark.parametrize("text", ["", "k", "1.5", "1Ki", "-1", "1k0", "8 "])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a whole quantity"):
        quantities.parse(text)
