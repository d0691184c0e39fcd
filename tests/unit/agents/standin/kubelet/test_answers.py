# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.standin.kubelet.allocations import Allocation
from agents.standin.kubelet.answers import merged
from agents.standin.pods import DeviceNode, Volume


def answer(resource: str, **fields: object) -> Allocation:
    message = pb.ContainerAllocateResponse(**fields)  # type: ignore[arg-type] # one field a test
    return Allocation("u", "c", resource, {}, message.SerializeToString())


def test_everything_that_a_plugin_can_hand_over() -> None:
    edits = merged(
        [
            answer(
                "r/a",
                envs={"A": "1"},
                mounts=[pb.Mount(container_path="/c", host_path="/h", read_only=True)],
                devices=[
                    pb.DeviceSpec(container_path="/dev/x", host_path="/dev/y", permissions="rw")
                ],
            )
        ]
    )
    assert edits.env == {"A": "1"}
    assert list(edits.volumes.values()) == [Volume(Path("/h"), "/c", read_only=True)]
    assert list(edits.devices.values()) == [DeviceNode(Path("/dev/y"), "/dev/x", "rw")]
    assert edits.ignored == []


def test_the_first_answer_counts() -> None:
    edits = merged(
        [
            answer(
                resource,
                envs={"A": resource},
                mounts=[pb.Mount(container_path="/c", host_path=f"/{resource}")],
                devices=[pb.DeviceSpec(container_path="/dev/x", host_path=f"/dev/{resource}")],
            )
            for resource in ("one", "two")
        ]
    )
    assert edits.env == {"A": "one"}
    assert [volume.host_path for volume in edits.volumes.values()] == [Path("/one")]
    assert [device.host_path for device in edits.devices.values()] == [Path("/dev/one")]
    assert [resource for resource, _ in edits.ignored] == ["two", "two", "two"]


def test_the_same_value_twice_is_no_conflict() -> None:
    assert merged([answer("one", envs={"A": "1"}), answer("two", envs={"A": "1"})]).ignored == []


def test_cdi_names_are_dropped_and_said_so() -> None:
    edits = merged([answer("one", cdi_devices=[pb.CDIDevice(name="v/c=n")])])
    assert edits.ignored == [("one", "CDI devices: this runtime does not know them")]
