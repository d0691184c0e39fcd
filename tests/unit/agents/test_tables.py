# SPDX-License-Identifier: Apache-2.0
"""Tables as plain text and as the page."""

from __future__ import annotations

from agents.page import render_page
from agents.tables import UNKNOWN, Table, lines, size, text

TABLE = Table(
    "GPUs", ("name", "used"), [("V100", "1.0"), ("<b>A100</b>", "40.0")], note="simulated"
)


def test_lines_align_their_columns() -> None:
    assert lines([TABLE]) == [
        "GPUs",
        "  name         used",
        "  V100         1.0",
        "  <b>A100</b>  40.0",
        "  simulated",
        "",
    ]


def test_unknown_is_not_zero() -> None:
    assert (size(None), size(0), size(256 << 20), size(3 << 29)) == (
        UNKNOWN, "0 MiB", "256 MiB", "1.5 GiB",
    )  # fmt: skip
    assert (text(None), text(False), text(0)) == (UNKNOWN, "no", "0")


def test_page_escapes_what_pods_are_called() -> None:
    page = render_page(agent="gpu_plugin", node="n<1>", reason="no <driver>", tables=[TABLE])
    assert "<b>A100" not in page
    assert "&lt;b&gt;A100&lt;/b&gt;" in page
    assert "not ready: no &lt;driver&gt;" in page
    assert "n&lt;1&gt;" in page
    assert "<script" not in page


def test_empty_table_says_so() -> None:
    page = render_page(agent="a", node="n", reason=None, tables=[Table("Pods", ("pod",), [])])
    assert "none" in page
    assert "class=ready" in page


def test_a_note_of_several_lines_is_drawn_as_lines() -> None:
    table = Table("GPUs", ("name",), [["V100"]], note="one problem\nanother")
    assert lines([table])[3:] == ["  one problem", "  another", ""]
    page = render_page(agent="a", node="n", reason=None, tables=[table])
    assert "<p>one problem</p><p>another</p>" in page
