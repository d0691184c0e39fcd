# SPDX-License-Identifier: Apache-2.0
"""Variables that keep machine-learning frameworks inside a share. Pure; enforces nothing.

Several of them take (nearly) a whole card when they start, whatever a container was promised, and
would be ended for it at import. A program can overrule every one of these in its own environment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import assert_never

from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.container_config import ContainerConfig, Framework

#: A CUDA context (100 to 500 MB a process) is not in a framework's own pool, but counts.
_CONTEXT = 512 << 20


def hints(share: Share, config: ContainerConfig) -> dict[str, str]:
    """The variables for a share; none when they are off or when nothing limits it but hardware."""
    wanted = not share.exclusive if config.hints == "auto" else config.hints
    if not wanted:
        return {}
    part = pool_fraction(share.devices)
    text = None if part is None else f"{part:.4f}"
    found = {} if text is None else {"NODESHARE_GPU_MEMORY_FRACTION": text}
    for framework in config.frameworks:
        found |= _of_framework(framework, text)
    return found


def pool_fraction(devices: Iterable[SharedDevice]) -> float | None:
    """The part of each device's memory that one process may pool so that its context fits into
    the share too: (share - context) / what CUDA calls the total, rounded down. The least of
    several devices, as frameworks take one number for all. None: a device's memory is unknown.

    The context is taken as 512 MiB, and as a quarter of a share that is smaller than 2 GiB.
    """
    parts = []
    for device in devices:
        if not device.usable:
            return None
        share = min(device.memory, device.usable)
        parts.append((share - min(_CONTEXT, share // 4)) / device.usable)
    return math.floor(min(parts) * 10_000) / 10_000 if parts else None


def _of_framework(framework: Framework, fraction: str | None) -> dict[str, str]:
    match framework:
        case Framework.JAX:
            # The older of two names: newer releases read it too, and refuse to see both.
            limit = {} if fraction is None else {"XLA_PYTHON_CLIENT_MEM_FRACTION": fraction}
            return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **limit}
        case Framework.TENSORFLOW:
            return {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        case Framework.PYTORCH:
            if fraction is None:
                return {}
            return {"PYTORCH_CUDA_ALLOC_CONF": f"per_process_memory_fraction:{fraction}"}
        case _:
            assert_never(framework)
