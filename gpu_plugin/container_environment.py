# SPDX-License-Identifier: Apache-2.0
"""The environment of a container with units. Pure; knows no mount and no device node.

Of two resources in one container the kubelet keeps the first value of a name. So what each
resource says is also there under names of its own (`resource_prefix`), which nobody else sets.
Unit ids never go into a variable: Linux ends one at 128 KiB.
"""

from __future__ import annotations

from agents import hostfs
from gpu_plugin.allocation import Share
from gpu_plugin.container_config import Alias, ContainerConfig, DeviceList, resource_prefix
from gpu_plugin.hints import hints

_MIB = 1 << 20
#: NVIDIA's runtime then does what runc does: without it the `all` of CUDA images would count.
_NOTHING = "void"


def environment(share: Share, config: ContainerConfig, *, limits_memory: bool) -> dict[str, str]:
    """All variables, by name. `limits_memory`: this node's driver can limit the memory of a
    cgroup.
    """
    limit = limits_memory if config.toolkit_limit == "auto" else config.toolkit_limit
    return {
        "NVIDIA_VISIBLE_DEVICES": visible_devices(share, config.device_list),
        **own(share),
        **(toolkit_limit(share) if limit else {}),
        **hints(share, config),
        **aliases(share, config.aliases),
    }


def own(share: Share) -> dict[str, str]:
    """What a program can read of its share without parsing `share.json`; bytes, units, UUIDs."""
    prefix = resource_prefix(share.resource)
    uuids = ",".join(device.uuid for device in share.devices)
    return {
        "NODESHARE_GPU_UNITS": str(share.units),
        "NODESHARE_GPU_MEMORY_BYTES": str(share.memory),
        f"{prefix}_DEVICES": uuids,
        f"{prefix}_UNITS": str(share.units),
        f"{prefix}_MEMORY_BYTES": str(share.memory),
    }


def visible_devices(share: Share, told: DeviceList) -> str:
    """The value of NVIDIA_VISIBLE_DEVICES, which is never left to the image: CUDA's say `all`."""
    if told is DeviceList.ENV:
        return ",".join(device.uuid for device in share.devices)
    return hostfs.CONTAINER_DEVICE_LIST_DIR if told is DeviceList.MOUNTS else _NOTHING


def toolkit_limit(share: Share) -> dict[str, str]:
    """For the hook `apply-cuda-memory-limits` of NVIDIA's container toolkit (1.20.1): whole MiB of
    each GPU. It needs both, and fails the container where the driver does not do it. Nothing for
    whole devices, nor for MIG slices, which the driver cannot limit, nor for unequal parts of
    several, which one number cannot say.
    """
    parts = {device.memory // _MIB for device in share.devices}
    sliced = any(device.profile is not None for device in share.devices)
    if share.exclusive or sliced or len(parts) != 1:
        return {}
    text = str(parts.pop())
    return {"NVIDIA_GPU_MEMORY_REQUEST": text, "NVIDIA_GPU_MEMORY_LIMIT": text}


def aliases(share: Share, wanted: tuple[Alias, ...]) -> dict[str, str]:
    """Names of other plugins that say the same; their id lists, addresses and tokens are left out.

    METAGPU_MAX_MEM is MetaGPU's (and MortalGPU's) allowance of the container in MiB.
    """
    if Alias.METAGPU not in wanted:
        return {}
    return {"METAGPU_MAX_MEM": str(share.memory // _MIB)}
