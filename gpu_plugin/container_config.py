# SPDX-License-Identifier: Apache-2.0
"""The `gpu_plugin.container` section: what a container gets beside its units.

What the keys become is in `container_edits` and `container_environment`; knows no device.
"""

from __future__ import annotations

import enum
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from agents import hostfs
from agents.config import HostPath, Section, shown

_CDI_KIND = re.compile(r"[A-Za-z]([-\w.]*[A-Za-z0-9])?/[A-Za-z]([-\w]*[A-Za-z0-9])?", re.ASCII)
#: What the runtime or we put there would vanish behind a mount.
_TAKEN = (hostfs.PROC, hostfs.SYS, hostfs.DEV, PurePosixPath(hostfs.CONTAINER_GPU_DIR).parent)


class DeviceList(enum.Enum):
    """How the container runtime is told which devices to prepare (driver libraries above all).

    `env`: NVIDIA_VISIBLE_DEVICES, which NVIDIA's runtime reads; of two resources in one container
    the first counts. `mounts`: one mount a device, which adds up; the runtime must accept it
    (`accept-nvidia-visible-devices-as-volume-mounts`). `cdi`: CDI names; containerd before 1.7
    ignores them without a word. `none`: it is not told, the image brings the libraries.
    """

    ENV = "env"
    MOUNTS = "mounts"
    CDI = "cdi"
    NONE = "none"


class Framework(enum.Enum):
    """Whose variables are set as hints. `pytorch` only on demand: releases that do not know the
    option refuse to use the GPU at all.
    """

    JAX = "jax"
    TENSORFLOW = "tensorflow"
    PYTORCH = "pytorch"


class Alias(enum.Enum):
    """Whose variable names are set as well, for notebooks that already read them."""

    METAGPU = "metagpu"


def _choice(value: object) -> object:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError(f"{shown(value)} is not auto, true or false")


def _container_path(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
        raise ValueError(f"{value!r} is not an absolute path without '..' below /")
    for taken in _TAKEN:
        if path.is_relative_to(taken):
            raise ValueError(f"{value!r} lies in {str(taken)!r}, which is not to be mounted over")
    return str(path)


def _cdi_kind(value: str) -> str:
    if not _CDI_KIND.fullmatch(value):
        raise ValueError(f"{value!r} is not vendor/class, such as nvidia.com/gpu")
    return value


#: `auto`: where it is right.
Choice = Annotated[Literal["auto"] | bool, BeforeValidator(_choice)]


class ExtraMount(Section):
    """A directory or file of the host that every container with units gets.

    Nobody looks whether it is there: containerd makes an empty directory of what is missing.
    """

    host_path: HostPath
    container_path: Annotated[str, AfterValidator(_container_path)]
    read_only: bool = True


class ContainerConfig(Section):
    """`device_nodes`: name the device nodes to the kubelet, so that a container keeps them when
    its device cgroup is written anew. `toolkit_limit`: set NVIDIA_GPU_MEMORY_REQUEST and _LIMIT,
    which NVIDIA's container toolkit has the driver enforce; `auto` where the driver can, because
    elsewhere the toolkit fails and the container does not start.

    `hints`: variables that keep frameworks inside the share; `auto` where a share is less than a
    device, because there a limit counts that the framework cannot see.
    """

    device_nodes: bool = True
    device_list: DeviceList = DeviceList.ENV
    cdi_kind: Annotated[str, AfterValidator(_cdi_kind)] = "nvidia.com/gpu"
    toolkit_limit: Choice = "auto"
    hints: Choice = "auto"
    frameworks: tuple[Framework, ...] = (Framework.JAX, Framework.TENSORFLOW)
    aliases: tuple[Alias, ...] = ()
    mounts: tuple[ExtraMount, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> ContainerConfig:
        paths = [mount.container_path for mount in self.mounts]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"mounts: two of them go to {twice[0]!r}; keep one")
        if "cdi_kind" in self.model_fields_set and self.device_list is not DeviceList.CDI:
            raise ValueError("cdi_kind means something with device_list: cdi only; drop one of two")
        return self


def resource_prefix(resource: str) -> str:
    """`nodeshare/mig-1g.10gb` to `NODESHARE_RESOURCE_MIG_1G_10GB`."""
    name = resource.rpartition("/")[2]
    return "NODESHARE_RESOURCE_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
