# SPDX-License-Identifier: Apache-2.0
"""pynvml itself, called in the process that has the simulated library (`DriverProcess.apply`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def loaded(module: str) -> bool:
    """Whether this process has imported it."""
    return module in sys.modules


def use(machine: Path, state: Path) -> None:
    """Which machine the library is, from its next initialisation on."""
    os.environ["NODESHARE_NVML_MACHINE"] = str(machine)
    os.environ["NODESHARE_NVML_STATE"] = str(state)


def outcome(name: str, *arguments: object) -> Any:
    """What a function of pynvml returns, or the name of the error that it raises."""
    import pynvml

    try:
        return getattr(pynvml, name)(*arguments)
    except pynvml.NVMLError as error:
        return type(error).__name__


def tour(gpu_index: int, slice_index: int) -> dict[str, Any]:
    """Functions that our driver does not call, on a GPU and on one of its slices."""
    import pynvml

    pynvml.nvmlInit()
    try:
        gpu = pynvml.nvmlDeviceGetHandleByIndex(gpu_index)
        each = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slice_index)
        parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(each)
        pci = pynvml.nvmlDeviceGetPciInfo_v3(gpu)
        by_pci = pynvml.nvmlDeviceGetHandleByPciBusId(pci.busId)
        by_uuid = pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(each))
        return {
            "nvml": pynvml.nvmlSystemGetNVMLVersion(),
            "pci": (pci.busId, pci.busIdLegacy, pci.domain, pci.bus, pci.device),
            "index": (pynvml.nvmlDeviceGetIndex(gpu), pynvml.nvmlDeviceGetIndex(each)),
            "is slice": [pynvml.nvmlDeviceIsMigDeviceHandle(h).value for h in (gpu, each)],
            "same": [
                pynvml.nvmlDeviceGetUUID(first) == pynvml.nvmlDeviceGetUUID(second)
                for first, second in ((gpu, parent), (gpu, by_pci), (each, by_uuid))
            ],
            "slice": (
                pynvml.nvmlDeviceGetName(each),
                pynvml.nvmlDeviceGetAttributes_v2(each).memorySizeMB,
            ),
            "events": pynvml.nvmlDeviceGetSupportedEventTypes(gpu),
            "hole": outcome("nvmlDeviceGetMigDeviceHandleByIndex", gpu, slice_index + 1),
            "numa of its memory": outcome("nvmlDeviceGetNumaNodeId", gpu),
            "slice's minor": outcome("nvmlDeviceGetMinorNumber", each),
            "no index": outcome("nvmlDeviceGetHandleByIndex", 64),
            "no pci": outcome("nvmlDeviceGetHandleByPciBusId", "00000000:FF:00.0"),
        }
    finally:
        pynvml.nvmlShutdown()


def stale_handle(state: Path) -> list[Any]:
    """A handle from before a reload of the driver, before and after NVML is initialised again."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    with state.open("a") as lines:
        lines.write("reload\n")
    before = outcome("nvmlDeviceGetUUID", handle)
    pynvml.nvmlShutdown()
    closed = outcome("nvmlDeviceGetUUID", handle)
    pynvml.nvmlInit()
    after = outcome("nvmlDeviceGetUUID", handle)
    pynvml.nvmlShutdown()
    return [before, closed, after, outcome("nvmlShutdown")]
