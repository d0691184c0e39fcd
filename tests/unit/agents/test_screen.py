# SPDX-License-Identifier: Apache-2.0
"""Tables in a terminal of any size, and as lines for whoever reads a pipe."""

from __future__ import annotations

import errno
import io
import sys

import pytest
from rich.console import Console

from agents.screen import Screen, _Fitted
from agents.tables import Table

TALL = Table("Pods", ("pod",), [(f"pod {number}",) for number in range(50)])


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (20, 5), (1, 1)])
def test_what_is_shown_fits_the_terminal(width: int, height: int) -> None:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True)
    lines = console.render_lines(_Fitted([TALL], ["try this"]))
    steps = -(-len("try this") // width)
    assert len(lines) <= max(height, steps + 2)


def test_what_is_cut_is_said_and_the_steps_stay() -> None:
    console = Console(width=80, height=24, file=io.StringIO())
    console.print(_Fitted([TALL], ["try this"]))
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    assert shown[-1] == "try this"
    assert shown[-2].startswith("… 32 more lines")
    assert "pod 0" in "".join(shown)


def test_lines_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(plain=True)
    with screen:
        screen.show([Table("Pods", ("pod", "n"), [("a", "1"), ("b", "1")])], ["try this"])
        screen.show([Table("Pods", ("pod", "n"), [("a", "2"), ("b", "1")])], ["try this"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["Pods", "pod  n", "a    1", "b    1", "try this", "a    2"]


def test_a_line_whose_measured_numbers_alone_have_changed_is_not_printed_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pods(used: str, state: str) -> Table:
        columns = ("pod", "used", "state")
        return Table("Pods", columns, [("a", used, state)], measured=frozenset({"used"}))

    with Screen(plain=True) as screen:
        screen.show([pods("1 MiB", "Running")])
        screen.show([pods("1024 MiB", "Running")])
        screen.show([pods("2 MiB", "Failed")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [["a", "1", "MiB", "Running"], ["a", "2", "MiB", "Failed"]]


def test_a_dumb_terminal_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes rich believe in a terminal
    with Screen() as screen:
        screen.show([TALL])
        assert "pod 49" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "unread"), [(errno.EPIPE, True), (errno.ENOSPC, False)])
def test_output_that_cannot_be_written_raises_nothing(
    number: int, unread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(number, "broken")

    screen = Screen(plain=True)
    monkeypatch.setattr(sys, "stdout", Broken())
    screen.show([TALL])
    assert screen.unread is unread
