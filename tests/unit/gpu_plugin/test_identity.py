# SPDX-License-Identifier: Apache-2.0
"""The directories that say who a container is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agents.errors import Unavailable
from gpu_plugin import container_files, identity
from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.identity import Allocations

GIB = 1 << 30


def share(*numbers: int, uuid: str = "GPU-1") -> Share:
    device = SharedDevice(uuid, "Tesla V100-PCIE-32GB", None, numbers, len(numbers) * GIB)
    return Share("nodeshare/gpu-memory", (device,), simulated=False)


@pytest.fixture
def allocations(tmp_path: Path) -> Allocations:
    made = Allocations(tmp_path / "gpu")
    made.prepare()
    return made


def test_what_is_in_the_directory_and_who_may_read_it(allocations: Allocations) -> None:
    before = os.umask(0o077)
    try:
        directory = allocations.make(share(0, 1, 2))
    finally:
        os.umask(before)
    assert directory.parent == allocations.containers
    assert {path.name for path in directory.iterdir()} == {
        "events",
        "nodeshare-gpu",
        "share.json",
        "status",
        "status.json",
    }
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes.pop("nodeshare-gpu") == 0o755
    assert set(modes.values()) == {0o644}
    assert json.loads((directory / "share.json").read_text())["units"] == 3
    assert "3 units, 3GiB" in (directory / "status").read_text()


def test_the_record_is_beside_it_for_the_host_alone(allocations: Allocations) -> None:
    directory = allocations.make(share(0, 1, 2, 9))
    (record,) = allocations.records.iterdir()
    assert record.name == f"{directory.name}.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(allocations.records.stat().st_mode) == 0o700
    assert "0-2,9" in record.read_text()


def test_a_restarted_agent_reads_back_what_was_given(allocations: Allocations) -> None:
    directory = allocations.make(share(0, 1))
    other = allocations.make(share(5, uuid="MIG-2"))
    first, second = Allocations(allocations.containers.parent).recorded()
    assert (first.name, second.name) == (directory.name, other.name)
    assert first.ids == {"GPU-1::0", "GPU-1::1"}
    assert first.place == (directory.stat().st_dev, directory.stat().st_ino)


def test_the_same_units_get_a_fresh_directory_each_time(allocations: Allocations) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: allocations.make(share(0)), range(64)))
    assert len(set(made)) == 64
    assert len({path.name.partition(".")[0] for path in made}) == 1
    assert allocations.names() == {path.name for path in made}


def test_remove_takes_both_halves_and_may_come_twice(allocations: Allocations) -> None:
    directory = allocations.make(share(0))
    allocations.remove(directory.name)
    allocations.remove(directory.name)
    assert allocations.names() == set()
    assert not directory.exists()


def test_remove_stops_at_what_we_did_not_make(allocations: Allocations) -> None:
    directory = allocations.make(share(0))
    (directory / "folder").mkdir()
    (directory / "folder" / "precious").touch()
    with pytest.raises(OSError, match="folder"):
        allocations.remove(directory.name)
    assert (directory / "folder" / "precious").exists()
    assert allocations.recorded()


def test_a_link_in_the_place_of_a_directory_is_not_followed(
    allocations: Allocations, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    directory = allocations.make(share(0))
    allocations.remove(directory.name)
    directory.symlink_to(precious)
    with pytest.raises(NotADirectoryError):
        allocations.remove(directory.name)
    assert (precious / "file").exists()


def test_what_has_another_name_is_not_ours(allocations: Allocations) -> None:
    made = allocations.make(share(0))
    (allocations.containers / "lost+found").mkdir()
    (allocations.containers / f"{made.name}.bak").mkdir()
    (allocations.records / "notes.json").touch()
    assert allocations.names() == {made.name}


@pytest.mark.parametrize("where", ["records", "containers"])
def test_what_could_not_be_written_whole_leaves_nothing(
    allocations: Allocations, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """On a full disk a pod is tried again and again."""
    write = container_files.create_file

    def full(path: Path, text: str, mode: int) -> None:
        write(path, text[:1], mode)
        if path.is_relative_to(getattr(allocations, where)):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(container_files, "create_file", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        allocations.make(share(0))
    assert list(allocations.containers.iterdir()) == list(allocations.records.iterdir()) == []


def test_a_disk_that_hangs_costs_a_pod_and_not_the_kubelet(
    allocations: Allocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, write = threading.Event(), container_files.create_file

    def slow(path: Path, text: str, mode: int) -> None:
        released.wait(10)
        write(path, text, mode)

    monkeypatch.setattr(container_files, "create_file", slow)
    monkeypatch.setattr(identity, "_DISK_LIMIT_S", 0.05)
    with pytest.raises(Unavailable, match=r"the disk of .* did not answer within 0\.05 s; look at"):
        allocations.make(share(0))
    with pytest.raises(Unavailable, match="has not answered"):
        allocations.make(share(1))
    released.set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            made = allocations.make(share(2))
            break
        except Unavailable:
            time.sleep(0.01)
    # What came too late was taken away: nobody was told of it.
    assert allocations.names() == {made.name}


def test_parents_that_were_taken_away_come_back(allocations: Allocations) -> None:
    shutil.rmtree(allocations.containers)
    shutil.rmtree(allocations.records)
    assert allocations.make(share(0)).is_dir()
    assert len(allocations.recorded()) == 1


@pytest.mark.loud
def test_a_broken_record_is_passed_over(
    allocations: Allocations, caplog: pytest.LogCaptureFixture
) -> None:
    good = allocations.make(share(0))
    record = json.loads((allocations.records / f"{good.name}.json").read_text())
    hardware = {"gpu_uuid": "GPU-0", "gpu_instance": None, "memory": 1, "unit_memory": "much"}
    broken = (
        '{"name": "x"',
        "[]",
        '{"units": {"a": "b"}}',
        json.dumps({**record, "hardware": {"GPU-0": hardware}}),
        json.dumps({**record, "hardware": {"GPU-0": {"memory": 1}}}),
    )
    for number, text in enumerate(broken):
        (allocations.records / f"{number:016x}.00000000.json").write_text(text)
    (allocations.records / f"{len(broken):016x}.00000000.json").mkdir()
    assert [found.name for found in allocations.recorded()] == [good.name]
    assert len(caplog.records) == len(broken) + 1


def test_no_room_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "gpu").write_text("in the way")
    with pytest.raises(Unavailable, match=r"node\.state_dir"):
        Allocations(tmp_path / "gpu").prepare()
    with pytest.raises(Unavailable, match=r"node\.state_dir"):
        Allocations(tmp_path / "gpu").make(share(0))
