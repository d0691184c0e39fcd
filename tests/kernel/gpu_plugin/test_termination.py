# SPDX-License-Identifier: Apache-2.0
"""The termination message: left in the kubelet's own file, and nowhere else."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.errors import Unavailable
from agents.hostfs import PROC, HostFs
from agents.processes import ProcessKey, identify
from agents.standin.leftovers import sweep
from agents.standin.pods import RunningContainer, Volume
from agents.standin.runtime import ContainerRunner
from gpu_plugin import termination
from gpu_plugin.termination import LastWords, leave_message, withdraw_message
from tests.fakes.containers import container

UID = "11111111-2222-3333-4444-555555555555"
TEXT = "nodeshare ended this container\n"
Start = Callable[..., RunningContainer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    parent, host = f"nodeshare-test-{secrets.token_hex(4)}", HostFs()
    runner = ContainerRunner(tmp_path / "run", parent, host)
    try:
        yield lambda *command, **fields: runner.start(container(*command, **fields))
        runner.close()
    finally:
        sweep(tmp_path / "run", parent, host)


@pytest.fixture
def kubelets(tmp_path: Path) -> Path:
    """The kubelet's file for a container of the pod."""
    path = tmp_path / "kubelet/pods" / UID / "containers/notebook/0123abcd"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def key(running: RunningContainer) -> ProcessKey:
    found = identify(PROC, running.pid)
    assert found is not None
    return found


def mounted(path: Path, *, at: str = "/dev/termination-log", read_only: bool = False) -> Volume:
    return Volume(path, at, read_only=read_only)


@pytest.mark.parametrize("place", ["/dev/termination-log", "/var/tmp/why it ended"])
def test_it_is_left_where_the_pod_wants_it(start: Start, kubelets: Path, place: str) -> None:
    running = start(volumes=[mounted(kubelets, at=place)])
    assert leave_message(PROC, key(running), UID, TEXT + "x" * 5000)
    assert len(kubelets.read_text()) == 4096
    assert kubelets.read_text().startswith(TEXT)


def test_it_is_taken_back_when_the_process_goes_on(start: Start, kubelets: Path) -> None:
    main = key(start(volumes=[mounted(kubelets)]))
    assert leave_message(PROC, main, UID, TEXT)
    assert not withdraw_message(PROC, main, UID, "another beginning")
    assert withdraw_message(PROC, main, UID, TEXT[:20])
    assert kubelets.read_text() == ""
    kubelets.write_text("the program's own")
    assert not withdraw_message(PROC, main, UID, TEXT[:20])
    assert kubelets.read_text() == "the program's own"


def test_what_the_program_left_stays(start: Start, kubelets: Path) -> None:
    kubelets.write_text("the program's own")
    assert not leave_message(PROC, key(start(volumes=[mounted(kubelets)])), UID, TEXT)
    assert kubelets.read_text() == "the program's own"


def test_only_the_kubelets_file_of_this_pod_will_do(
    start: Start, kubelets: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert not leave_message(PROC, key(start(volumes=[mounted(plain)])), UID, TEXT)
    volume = tmp_path / f"kubelet/pods/{UID}/volumes/x/pods/{UID}/containers/notebook/0123abcd"
    volume.parent.mkdir(parents=True)
    volume.touch()
    assert not leave_message(PROC, key(start(volumes=[mounted(volume)])), UID, TEXT)
    ours = key(start(volumes=[mounted(kubelets)]))
    assert not leave_message(PROC, ours, UID.replace("1", "9"), TEXT)
    read_only = key(start(volumes=[mounted(kubelets, read_only=True)]))
    assert not leave_message(PROC, read_only, UID, TEXT)
    twice = start(volumes=[mounted(kubelets), mounted(kubelets, at="/tmp/again")])
    assert not leave_message(PROC, key(twice), UID, TEXT), "in doubt, nothing"
    assert {plain.read_text(), volume.read_text(), kubelets.read_text()} == {""}


def test_a_process_whose_pid_is_anothers_by_now_is_left_alone(start: Start, kubelets: Path) -> None:
    running = key(start(volumes=[mounted(kubelets)]))
    former = ProcessKey(running.pid, running.start_ticks - 1)
    assert not leave_message(PROC, former, UID, TEXT)
    assert kubelets.read_text() == ""


def test_a_place_that_is_a_link_by_now_is_refused(
    start: Start, kubelets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the user had been quicker than whoever read the mount table."""
    running = start(
        "sh",
        "-c",
        "ln -s /dev /tmp/dev; ln -s /dev/termination-log /tmp/log; "
        "touch /tmp/empty; mkfifo /tmp/fifo; exec sleep 1000",
        volumes=[mounted(kubelets)],
    )
    real = termination._place
    deadline = time.monotonic() + 5
    while not (PROC / f"{running.pid}/root/tmp/fifo").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for place in ("/tmp/dev/termination-log", "/tmp/log", "/tmp/empty", "/tmp/fifo", "/tmp/gone"):

        def moved(*arguments: object, place: str = place) -> object:
            found = real(*arguments)  # type: ignore[arg-type] # passed through
            return None if found is None else replace(found, mount_point=place)

        monkeypatch.setattr(termination, "_place", moved)
        assert not leave_message(PROC, key(running), UID, TEXT), place
    assert kubelets.read_text() == ""


def test_nobody_waits_for_a_place_that_never_answers(
    start: Start, kubelets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = key(start(volumes=[mounted(kubelets)]))
    monkeypatch.setattr(termination, "_LIMIT_S", 0.05)
    real = termination.leave_message
    monkeypatch.setattr(termination, "leave_message", lambda *_: time.sleep(0.5))
    words = LastWords(PROC)
    with pytest.raises(Unavailable):
        words.leave(running, UID, TEXT)
    with pytest.raises(Unavailable, match="has not answered"):
        words.leave(running, UID, TEXT)
    monkeypatch.setattr(termination, "leave_message", real)
    assert not words.leave(running, "another-pod", TEXT), "that costs its own pod alone"
