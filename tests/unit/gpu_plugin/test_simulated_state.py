# SPDX-License-Identifier: Apache-2.0
"""The state file of a simulated machine: how it is read, and who may write it at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agents.errors import Unavailable
from gpu_plugin.devices import ProcessKind
from gpu_plugin.simulated.happenings import Hold
from gpu_plugin.simulated.state import SimulatedState, StateReader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_no_file_is_a_machine_on_which_nothing_happens(path: Path) -> None:
    state = StateReader(path).read()
    assert (state.holds, state.lost, state.loaded) == ({}, set(), True)


def test_half_a_line_is_not_there_yet(path: Path) -> None:
    reader = StateReader(path)
    path.write_text("lose GPU-1\nlose GP")
    assert reader.read().lost == {"GPU-1"}
    with path.open("a") as file:
        file.write("U-2\nlose GPU-3")
    assert reader.read().lost == {"GPU-1", "GPU-2"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "hold",
        "hold GPU-1 x - - compute",
        "hold GPU-1 1 - - psychic",
        "hold GPU-1 1 - 5",
        "release GPU-1",
        "utilisation GPU-1 1",
        "xid GPU-1 hard",
        "slow nvmlX soon",
        "limit GPU-1 1 2",
        "invent GPU-1",
        "\udcff",
    ],
)
def test_nonsense_changes_nothing_and_hides_nothing(path: Path, line: str) -> None:
    path.write_bytes(f"lose GPU-1\n{line}\nlose GPU-2\n".encode(errors="surrogateescape"))
    state = StateReader(path).read()
    assert state.lost == {"GPU-1", "GPU-2"}
    assert (state.holds, state.xids, state.limits, state.slow_ms) == ({}, [], {}, {})


def test_a_replaced_or_shortened_file_is_read_anew(path: Path, tmp_path: Path) -> None:
    reader = StateReader(path)
    path.write_text("lose GPU-1\nslow nvmlX 50\n")
    assert reader.read().lost == {"GPU-1"}
    (tmp_path / "new").write_text("lose GPU-2\nlose GPU-3\nlose GPU-4\n")
    (tmp_path / "new").rename(path)
    assert reader.read().lost == {"GPU-2", "GPU-3", "GPU-4"}
    assert reader.read().slow_ms == {}
    path.write_text("lose GPU-5\n")
    assert reader.read().lost == {"GPU-5"}


def test_what_is_written_is_read(path: Path) -> None:
    state, reader = SimulatedState(path), StateReader(path)
    state.hold("GPU-1", os.getpid(), 5, (ProcessKind.COMPUTE, ProcessKind.MPS))
    (hold,) = reader.read().holds.values()
    assert (hold.uuid, hold.pid, hold.used) == ("GPU-1", os.getpid(), 5)
    assert hold.kinds == (ProcessKind.COMPUTE, ProcessKind.MPS)
    assert hold.alive(Path("/proc"))
    state.hold("GPU-1", os.getpid(), None)
    assert next(iter(reader.read().holds.values())).used is None
    state.hold("GPU-2", os.getpid(), 1)
    state.release(os.getpid(), "GPU-1")
    assert [key[0] for key in reader.read().holds] == ["GPU-2"]
    state.release(os.getpid())
    state.limit("GPU-1", "/sys/a b", soft=None, hard=7)
    state.missing("nvmlX")
    state.deny("nvmlY")
    state.xid("GPU-1", 79)
    state.unload_driver()
    read = reader.read()
    assert read.holds == {}
    assert read.limits == {("GPU-1", "/sys/a b"): (None, 7)}
    assert (read.missing, read.denied, read.loaded) == ({"nvmlX"}, {"nvmlY"}, False)
    state.missing("nvmlX", missing=False)
    state.clear()
    read = reader.read()
    assert (read.missing, read.denied, read.limits, read.loaded) == (set(), set(), {}, True)
    assert read.xids == [("GPU-1", 79)]


def test_a_process_that_is_not_there_cannot_hold(path: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no process has the pid 12"):
        SimulatedState(path, proc=tmp_path).hold("GPU-1", 12, 5)
    assert not path.exists()


def test_a_pid_without_a_start_time_is_taken_as_it_is() -> None:
    def alive(start_ticks: int | None) -> bool:
        return Hold("GPU-1", os.getpid(), start_ticks, 1, ()).alive(Path("/proc"))

    assert alive(None)
    assert not alive(1)


def test_one_line_stays_one_line(path: Path) -> None:
    with pytest.raises(ValueError, match="more than one line"):
        SimulatedState(path).limit("GPU-1", "/a\nlose GPU-1", soft=1, hard=2)
    assert not path.exists()


def test_many_writers_lose_no_line(path: Path) -> None:
    def write(writer: int) -> None:
        state = SimulatedState(path)
        for number in range(100):
            state.xid(f"GPU-{writer}", number)

    reader = StateReader(path)
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, writer) for writer in range(8)]
        while not all(each.done() for each in writers):
            reader.read()
        for each in writers:
            each.result()
    xids = reader.read().xids
    assert len(xids) == 800
    for writer in range(8):
        assert [code for uuid, code in xids if uuid == f"GPU-{writer}"] == list(range(100))
