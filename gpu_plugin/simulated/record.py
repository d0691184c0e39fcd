# SPDX-License-Identifier: Apache-2.0
"""A machine as the description that stands for it elsewhere: `nodeshare gpu describe`. Pure.

The other way round is `description`: what it makes of this text is the same machine, idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from gpu_plugin.devices import Gpu, Machine, MigSlice
from gpu_plugin.resources import size_text
from gpu_plugin.simulated.description import MigMode


def describe(machine: Machine, name: str) -> str:
    """YAML with comments. A lost GPU is not described; the indices after it are not kept."""
    section = {
        "name": name,
        "driver_version": machine.driver_version,
        "gpus": [_gpu(gpu) for gpu in sorted(machine.gpus, key=lambda gpu: gpu.index)],
    }
    source = "a simulated machine" if machine.simulated else "the GPU driver"
    comments = [
        f"# As {source} tells it. Use it with --machine FILE, or as gpu_plugin.simulate.",
        *(
            f"# Not described: GPU {gpu.index} ({gpu.uuid or 'unknown UUID'}) is lost: {gpu.reason}"
            for gpu in machine.lost
        ),
    ]
    written = yaml.safe_dump(
        {"machine": section}, sort_keys=False, default_flow_style=None, width=100
    )
    return "\n".join([*comments, written])


def _gpu(gpu: Gpu) -> dict[str, Any]:
    modes = {None: MigMode.UNSUPPORTED, True: MigMode.ENABLED, False: MigMode.DISABLED}
    return _without_defaults(
        {
            "model": gpu.model,
            "memory": _size(gpu.memory.total),
            "reserved": _size(gpu.memory.reserved),
            "uuids": [gpu.uuid],
            "numa": [] if gpu.numa_node is None else [gpu.numa_node],
            "pci": [gpu.pci_bus_id],
            "minors": [gpu.minor],
            "mig": modes[gpu.mig_enabled].value,
            "slices": [_slice(each) for each in gpu.slices],
        }
    )


def _slice(each: MigSlice) -> dict[str, Any]:
    return _without_defaults(
        {
            "profile": each.profile,
            "gpu_instance": each.gpu_instance,
            "compute_instance": each.compute_instance or None,
            "memory": _size(each.memory.total),
            "reserved": _size(each.memory.reserved),
            "uuid": each.uuid,
        }
    )


def _size(size: int) -> str | None:
    """Exact, in the largest unit that is; None: nothing."""
    if not size:
        return None
    text = size_text(size)
    mebibytes, rest = divmod(size, 1 << 20)
    if rest:
        return f"{size}B"
    return text if "." not in text else f"{mebibytes}MiB"


def _without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, [])}
