# SPDX-License-Identifier: Apache-2.0
"""Shares, and what a container may know of them."""

from __future__ import annotations

from gpu_plugin.allocation import share_document, share_of, share_text
from gpu_plugin.placement import check
from gpu_plugin.resources import plan
from tests.fakes.gpus import A100_SLICES, GIB, MIB, gpu, machine, mig_gpu, rule


def test_an_exclusive_unit_is_the_whole_slice() -> None:
    found = machine(gpu(0), mig_gpu(2, A100_SLICES))
    resource = plan([rule(exclusive=True, select={"mig": ["1g.10gb"]})], found).resources[0]
    slice_uuid = resource.devices[0].device.uuid
    share = share_of(resource, check(resource, [f"{slice_uuid}::0"]))
    assert (share.units, share.memory, share.exclusive) == (1, 9728 * MIB, True)


def test_what_programs_see_as_the_device_is_without_the_drivers_part() -> None:
    resource = plan([rule()], machine(gpu(0, reserved=GIB // 2))).resources[0]
    (device,) = share_of(resource, check(resource, [f"{gpu(0).uuid}::0"])).devices
    assert (device.memory, device.usable) == (GIB, 32 * GIB - GIB // 2)


def test_what_the_container_may_know_of_its_share() -> None:
    resource = plan([rule()], machine(gpu(0), simulated=True)).resources[0]
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
        "What is used of it was not measured yet.",
    ]
