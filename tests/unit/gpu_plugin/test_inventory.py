# SPDX-License-Identifier: Apache-2.0
"""What of a machine can be selected."""

from __future__ import annotations

from dataclasses import replace

from gpu_plugin.inventory import DeviceKind, devices_of, without_devices
from tests.fakes.gpus import A100_SLICES, MIB, gpu, machine, mig_gpu


def test_whole_gpus_and_slices_in_the_order_of_the_machine() -> None:
    found = devices_of(machine(mig_gpu(1, A100_SLICES), gpu(0)))
    assert [device.kind for device in found] == [DeviceKind.GPU, *[DeviceKind.MIG] * 4]
    assert [device.gpu_instance for device in found] == [None, 2, 3, 9, 10]
    assert {device.gpu_uuid for device in found[1:]} == {mig_gpu(1, {}).uuid}


def test_a_slice_has_its_own_memory_not_that_of_its_name() -> None:
    found = devices_of(machine(mig_gpu(0, A100_SLICES)))
    assert found[0].memory_total == 40192 * MIB


def test_a_gpu_in_mig_mode_is_no_device_itself() -> None:
    empty = mig_gpu(0, {})
    assert devices_of(machine(empty)) == ()
    assert without_devices(machine(empty, gpu(1))) == (empty,)


def test_used_memory_does_not_change_a_device() -> None:
    before = gpu(0)
    after = replace(before, memory=replace(before.memory, used=5, free=7))
    assert devices_of(machine(before)) == devices_of(machine(after))


def test_slices_of_a_gpu_that_left_mig_mode_are_not_devices() -> None:
    left = replace(mig_gpu(0, A100_SLICES), mig_enabled=False)
    assert [device.kind for device in devices_of(machine(left))] == [DeviceKind.GPU]
