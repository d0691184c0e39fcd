# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from agents.errors import AgentError
from agents.standin.kubelet import checkpoint
from agents.standin.kubelet.allocations import NO_NUMA, Allocation, Allocations, by_numa

NAME = "nodeshare/test"


def allocation(uid: str = "u1", container: str = "main") -> Allocation:
    return Allocation(uid, container, NAME, {NO_NUMA: ("d1",), 0: ("d2", "d3")}, b"\x0a\x00\xff")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.write(path, [allocation()], {NAME: ["d1", "d2"]})
    found = checkpoint.read(path)
    assert found.allocations == (allocation(),)
    assert found.resources == (NAME,)


def test_the_file_has_the_kubelets_shape(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.write(path, [allocation()], {NAME: ["d1"]})
    document = json.loads(path.read_text())
    assert isinstance(document["Checksum"], int)
    assert document["Data"] == {
        "PodDeviceEntries": [
            {
                "PodUID": "u1",
                "ContainerName": "main",
                "ResourceName": NAME,
                "DeviceIDs": {"-1": ["d1"], "0": ["d2", "d3"]},
                "AllocResp": base64.b64encode(b"\x0a\x00\xff").decode(),
            }
        ],
        "RegisteredDevices": {NAME: ["d1"]},
    }
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_is_an_empty_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path / "none") == checkpoint.Checkpoint()


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.write(path, [allocation()], {NAME: ["d1"]})
    path.write_text(path.read_text().replace("u1", "u2"))
    with pytest.raises(AgentError, match="checksum"):
        checkpoint.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"Data": {}, "Checksum": 2745614147}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / checkpoint.FILE_NAME
    path.write_text(text)
    with pytest.raises(AgentError, match="checkpoint"):
        checkpoint.read(path)


def test_ids_near_two_nodes_are_under_both_and_counted_once() -> None:
    found = by_numa(["d0", "d1"], {"d0": (0, 1)})
    assert found == {0: ("d0",), 1: ("d0",), NO_NUMA: ("d1",)}
    assert Allocation("u", "c", NAME, found, b"").ids == {"d0", "d1"}


def test_who_holds_what() -> None:
    held = Allocations([allocation("u1"), allocation("u2", "side")])
    assert held.in_use(NAME) == {"d1", "d2", "d3"}
    assert held.in_use("nodeshare/other") == set()
    assert held.of_container("u2", "side") == (allocation("u2", "side"),)
    assert held.keep_pods(["u2"])
    assert not held.keep_pods(["u2"])
    assert held.free_pod("u2")
    assert held.all() == ()
