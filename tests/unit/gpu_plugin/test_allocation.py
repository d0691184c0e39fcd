# SPDX-License-Identifier: Apache-2.0
"""What a container gets with its units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_plugin import units
from gpu_plugin.allocation import DeviceNode, Mount, answer, share_document, share_of, share_text
from gpu_plugin.placement import check
from gpu_plugin.resources import Resource, plan
from tests.fakes.gpus import A100_SLICES, GIB, MIB, gpu, machine, mig_gpu, rule

DIRECTORY = Path("/state/gpu/containers/x.1")


def offered(simulated: bool = False, **fields: Any) -> Resource:
    found = machine(gpu(0), gpu(1), mig_gpu(2, A100_SLICES), simulated=simulated)
    return plan([rule(**fields)], found).resources[0]


def test_a_uuid_and_counts_never_lists_of_ids() -> None:
    resource = offered(chunk="1MiB", select={"mig": "none"})
    ids = list(units.unit_ids(gpu(0).uuid, 20_000))
    given = answer(share_of(resource, check(resource, ids)), ["nvidia0", "nvidiactl"], DIRECTORY)
    assert given.env == {
        "NVIDIA_VISIBLE_DEVICES": gpu(0).uuid,
        "NODESHARE_GPU_UNITS": "20000",
        "NODESHARE_GPU_MEMORY_BYTES": str(20_000 * MIB),
    }
    assert given.devices == (DeviceNode("/dev/nvidia0"), DeviceNode("/dev/nvidiactl"))


def test_the_directory_is_mounted_by_resource_and_where_people_look() -> None:
    resource = offered()
    share = share_of(resource, check(resource, [f"{gpu(0).uuid}::3"]))
    assert answer(share, [], DIRECTORY).mounts == (
        Mount(DIRECTORY, "/run/nodeshare/allocations/nodeshare_gpu-memory"),
        Mount(DIRECTORY, "/run/nodeshare/gpu"),
    )


def test_an_exclusive_unit_is_the_whole_slice() -> None:
    resource = offered(exclusive=True, select={"mig": ["1g.10gb"]})
    slice_uuid = resource.devices[0].device.uuid
    share = share_of(resource, check(resource, [f"{slice_uuid}::0"]))
    assert (share.units, share.memory) == (1, 9728 * MIB)
    assert answer(share, [], DIRECTORY).env["NVIDIA_VISIBLE_DEVICES"] == slice_uuid


def test_several_devices_when_a_request_may_span() -> None:
    resource = offered(split=True)
    share = share_of(resource, check(resource, [f"{gpu(1).uuid}::0", f"{gpu(0).uuid}::0"]))
    visible = answer(share, [], DIRECTORY).env["NVIDIA_VISIBLE_DEVICES"]
    assert visible == f"{gpu(0).uuid},{gpu(1).uuid}"


def test_what_the_container_may_know_of_its_share() -> None:
    resource = offered(simulated=True)
    share = share_of(resource, check(resource, [f"{gpu(0).uuid}::{n}" for n in range(8)]))
    assert share_document(share) == {
        "resource": "nodeshare/gpu-memory",
        "units": 8,
        "memory_bytes": 8 * GIB,
        "simulated": True,
        "devices": [
            {
                "uuid": gpu(0).uuid,
                "model": "Tesla V100-PCIE-32GB",
                "profile": None,
                "units": 8,
                "memory_bytes": 8 * GIB,
            }
        ],
    }
    assert share_text(share).splitlines() == [
        "nodeshare/gpu-memory: 8 units, 8GiB of GPU memory",
        f"  8GiB on Tesla V100-PCIE-32GB ({gpu(0).uuid})",
        "SIMULATED: this machine has no such GPU; nothing can be computed on it",
    ]
