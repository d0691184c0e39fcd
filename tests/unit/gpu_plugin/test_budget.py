# SPDX-License-Identifier: Apache-2.0
"""Sizes, against what a kubelet measured and what the libraries make of the same values."""

from __future__ import annotations

import json

import pytest

from agents._pb.podresources import v1_pb2
from gpu_plugin import budget, units

UUID = "GPU-8f0b8e42-7c1f-4a3e-9d52-3a6c1c5b7e10"
NAME = "example.com/gpu-x"


@pytest.mark.parametrize(
    ("devices", "kilobytes"),
    [pytest.param(10_000, 500, id="10,000"), pytest.param(69_904, 3500, id="69,904")],
)
def test_the_checkpoint_grows_as_a_kubelet_s_did(devices: int, kilobytes: int) -> None:
    # Measured without a pod: each id once. Ours counts every unit as held too.
    found = budget.sizes(NAME, [(UUID, devices, None)], split=False)
    assert found.checkpoint / 2 / 1000 == pytest.approx(kilobytes, rel=0.05)


def test_the_status_of_a_pod_has_an_entry_for_each_unit() -> None:
    entries = [{"resourceID": id_, "health": "Unhealthy"} for id_ in units.unit_ids(UUID, 1200)]
    written = len(json.dumps(entries, separators=(",", ":"))) - len("[]") + len(",")
    found = budget.sizes(NAME, [(UUID, 1200, None), (UUID, 7, None)], split=False)
    assert found.pod_status == written
    split = budget.sizes(NAME, [(UUID, 1200, None), (UUID, 7, None)], split=True)
    assert split.pod_status == pytest.approx(written + 7 * 83, abs=10)


@pytest.mark.parametrize("node", [None, 0, 1])
def test_podresources_as_protobuf_makes_it(node: int | None) -> None:
    topology = None if node is None else v1_pb2.TopologyInfo(nodes=[v1_pb2.NUMANode(ID=node)])
    answer = v1_pb2.ContainerResources(
        devices=[
            v1_pb2.ContainerDevices(resource_name=NAME, device_ids=[id_], topology=topology)
            for id_ in units.unit_ids(UUID, 1234)
        ]
    )
    found = budget.sizes(NAME, [(UUID, 1234, node)], split=False)
    assert found.podresources == answer.ByteSize()


def test_podresources_costs_what_was_measured() -> None:
    """4.89 MB for 69,904 ids of 47 bytes."""
    found = budget.sizes(NAME, [(UUID, 69_904, None)], split=False)
    assert found.podresources == pytest.approx(4.89e6, rel=0.01)


def test_the_environment_holds_uuids_and_no_unit() -> None:
    devices = [(UUID, 60_000, None)] * 16
    one, all_of_them = (budget.sizes(NAME, devices, split=split) for split in (False, True))
    assert one.environment == len(f"NVIDIA_VISIBLE_DEVICES={UUID}") + 1
    assert all_of_them.environment == len("NVIDIA_VISIBLE_DEVICES=" + ",".join([UUID] * 16)) + 1
    assert all_of_them.environment < budget.ENVIRONMENT_LIMIT / 100


def test_without_devices_there_is_nothing() -> None:
    found = budget.sizes(NAME, [], split=True)
    assert (found.message, found.checkpoint, found.pod_status, found.podresources) == (0, 0, 0, 0)
