# SPDX-License-Identifier: Apache-2.0
"""What the driver told of each device at one moment. Values; knows no NVML, container or rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpu_plugin.devices import GpuProcess, Memory


@dataclass(frozen=True, slots=True)
class Reading:
    """One device: a GPU outside MIG, or a slice. `processes` None: the driver cannot tell (that is
    not "none"). `utilisation` is a share of 1; None: not available (MIG).

    `asked_at` is in seconds after boot, taken before the driver was asked: a process that started
    later is none of those that it listed, even if it has the pid of one.
    """

    device: str
    memory: Memory
    processes: tuple[GpuProcess, ...] | None
    utilisation: float | None
    asked_at: float


#: By device; those that did not answer are absent.
Readings = Mapping[str, Reading]
