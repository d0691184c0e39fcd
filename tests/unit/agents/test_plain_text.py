# SPDX-License-Identifier: Apache-2.0
"""Other people's words as one harmless line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.plain_text import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jupyter-ada", "jupyter-ada"),
        ("Ärger mit dem Mount, 東京, שלום", "Ärger mit dem Mount, 東京, שלום"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("half \ud800", r"half \ud800"),
        ("", ""),
    ],
)
def test_what_does_more_than_be_read_is_spelt_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text(st.characters(exclude_categories=()), max_size=400), st.integers(1, 350))
def test_it_is_one_line_of_bounded_length_that_can_be_encoded(text: str, longest: int) -> None:
    shown = plain(text, longest)
    assert len(shown) <= longest
    assert shown.isprintable()
    shown.encode()


def test_a_long_one_is_cut() -> None:
    assert plain("x" * 10_000, 5) == "xxxx…"
    assert plain("xxxxx", 5) == "xxxxx"
    assert plain("\n" * 5, 5) == "\\n\\n…"
