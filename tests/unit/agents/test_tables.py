# SPDX-License-Identifier: Apache-2.0
"""Tables as plain text."""

from __future__ import annotations

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


def test_a_note_of_several_lines_is_drawn_as_lines() -> None:
    table = Table("GPUs", ("name",), [["V100"]], note="one problem\nanother")
    assert lines([table])[3:] == ["  one problem", "  another", ""]


def test_nothing_in_a_table_is_obeyed_by_a_terminal() -> None:
    table = Table("Pods", ("pod",), [["\x1b[2Jevil\n\u202erow"]], note="\x1b]0;title\x07")
    shown = lines([table])
    assert shown[2:] == ["  \\x1b[2Jevil\\n\\u202erow", "  \\x1b]0;title\\x07", ""]
