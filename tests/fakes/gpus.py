# SPDX-License-Identifier: Apache-2.0
"""GPUs, slices, rules and a whole machine in few words, for tests of what is decided about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_plugin.config import ResourceRule
from gpu_plugin.devices import Gpu, LostGpu, Machine, Memory, MigSlice

GIB = 1 << 30
MIB = 1 << 20


def gpu(
    index: int, *, model: str = "Tesla V100-PCIE-32GB", total: int = 32 * GIB, **more: Any
) -> Gpu:
    """`GPU-<index>…`, whole, without anything reserved unless `reserved` says so."""
    reserved = more.pop("reserved", 0)
    fields: dict[str, Any] = {
        "uuid": f"GPU-{index:08d}-0000-0000-0000-000000000000",
        "index": index,
        "minor": index,
        "model": model,
        "pci_bus_id": f"0000:{index:02x}:00.0",
        "numa_node": None,
        "memory": Memory(total, reserved, 0, total - reserved),
        "mig_enabled": None,
    }
    return Gpu(**(fields | more))


def mig_gpu(index: int, profiles: Mapping[int, tuple[str, int]], **more: Any) -> Gpu:
    """An A100 in MIG mode: GPU instance → (profile, memory)."""
    uuid = f"GPU-{index:08d}-0000-0000-0000-000000000000"
    slices = tuple(
        MigSlice(
            uuid=f"MIG-{index:08d}-{instance:04d}-0000-0000-000000000000",
            parent_uuid=uuid,
            profile=profile,
            gpu_instance=instance,
            compute_instance=0,
            memory=Memory(memory, 0, 0, memory),
        )
        for instance, (profile, memory) in profiles.items()
    )
    model = "NVIDIA A100-SXM4-80GB"
    return gpu(index, model=model, total=80 * GIB, mig_enabled=True, slices=slices, **more)


A100_SLICES = {
    2: ("3g.40gb", 40192 * MIB),
    3: ("2g.20gb", 19968 * MIB),
    9: ("1g.10gb", 9728 * MIB),
    10: ("1g.10gb", 9728 * MIB),
}


def machine(*gpus: Gpu, lost: tuple[LostGpu, ...] = (), simulated: bool = False) -> Machine:
    return Machine("580.95.05", gpus, lost, simulated)


def rule(name: str = "nodeshare/gpu-memory", **fields: Any) -> ResourceRule:
    """A rule as the configuration file would say it."""
    return ResourceRule.model_validate({"name": name, **fields})
