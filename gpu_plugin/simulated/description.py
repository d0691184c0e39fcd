# SPDX-License-Identifier: Apache-2.0
"""What a simulated machine is made of, read from YAML. Knows nothing of what happens on it.

A file holds one section `machine`. UUIDs that it does not name are derived from its name and the
place of a device in it, so that they are the same in every run. Shipped descriptions are found by
name, others by path.
"""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from agents import config
from agents.config import Section, Size
from agents.errors import ConfigError

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "nodeshare/simulated")
_PROFILE = re.compile(r"(?:(\d+)c\.)?(\d+)g\.\d+gb(?:[+.][a-z.]+)?")
GPU_SLICES = 7

#: One line of printable text: the state file and the C library are line-based.
Text = Annotated[str, Field(pattern=r"^[ -~]+$", max_length=80)]
PciBusId = Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")]
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
GpuUuid = Annotated[str, Field(pattern=rf"^GPU-{_UUID}$")]
SliceUuid = Annotated[str, Field(pattern=rf"^MIG-{_UUID}$")]
Profile = Annotated[str, Field(pattern=rf"^{_PROFILE.pattern}$")]
Small = Annotated[int, Field(ge=0, le=255)]


class MigMode(enum.Enum):
    """What the GPU says about MIG."""

    UNSUPPORTED = "unsupported"
    DISABLED = "disabled"
    ENABLED = "enabled"


class SliceSection(Section):
    """One MIG device; `index` is its place among those of the GPU (None: the next free one)."""

    profile: Profile
    gpu_instance: Small
    compute_instance: Small = 0
    memory: Size
    reserved: Size = 0
    index: Annotated[int, Field(ge=0, lt=GPU_SLICES)] | None = None
    uuid: SliceUuid | None = None


class GpuSection(Section):
    """`count` equal GPUs. NUMA nodes are spread over them evenly, in order; empty: unknown.
    `uuids`, `pci` and `minors` name all of them or none.
    """

    model: Text
    count: Annotated[int, Field(ge=1, le=64)] = 1
    memory: Size
    reserved: Size = 0
    uuids: tuple[GpuUuid, ...] = ()
    numa: tuple[Small, ...] = ()
    pci: tuple[PciBusId, ...] = ()
    minors: tuple[Small, ...] = ()
    mig: MigMode = MigMode.UNSUPPORTED
    slices: tuple[SliceSection, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("uuids", "pci", "minors"):
            given = getattr(self, name)
            if given and len(given) != self.count:
                raise ValueError(f"{name} names {len(given)} devices, but count is {self.count}")
        if not 0 <= self.reserved < self.memory:
            raise ValueError("reserved must be less than memory")
        if self.count > 1 and any(each.uuid is not None for each in self.slices):
            raise ValueError("a slice with a uuid is one, but count makes several of it")
        if self.slices and self.mig is not MigMode.ENABLED:
            raise ValueError("slices need `mig: enabled`")
        _check_slices(self.slices, self.memory)
        return self


def _check_slices(slices: Sequence[SliceSection], memory: int) -> None:
    """Slices must fit the GPU; those of one GPU instance share its memory and compute slices."""
    instances = {each.gpu_instance: each for each in slices}
    if sum(each.memory for each in instances.values()) > memory:
        raise ValueError("the slices together have more memory than the GPU")
    if sum(slice_counts(each.profile)[0] for each in instances.values()) > GPU_SLICES:
        raise ValueError(f"the profiles need more than the {GPU_SLICES} compute slices of a GPU")
    if len({(each.gpu_instance, each.compute_instance) for each in slices}) < len(slices):
        raise ValueError("two slices have the same gpu_instance and compute_instance")
    named = [each.index for each in slices if each.index is not None]
    if len(set(named)) < len(named) or len(slices) > GPU_SLICES:
        raise ValueError(f"a GPU has MIG devices 0 to {GPU_SLICES - 1}, each index once")
    for each in slices:
        if not 0 <= each.reserved < each.memory:
            raise ValueError(f"{each.profile}: reserved must be less than memory")


class MachineSection(Section):
    """A whole machine. `memory_limits`: the driver can limit the memory of a cgroup (r615)."""

    name: Text
    driver_version: Annotated[str, Field(pattern=r"^\d+(\.\d+){1,3}$")]
    memory_limits: bool = False
    gpus: Annotated[tuple[GpuSection, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        gpus = _gpus(self)
        for name in ("minor", "pci_bus_id", "uuid"):
            _once(f"GPUs have the {name}", [getattr(gpu, name) for gpu in gpus])
        _once("slices have the uuid", [each.uuid for gpu in gpus for each in gpu.slices])
        return self


def _once(what: str, seen: Sequence[object]) -> None:
    if twice := [value for value in seen if seen.count(value) > 1]:
        raise ValueError(f"two {what} {twice[0]!r}")


@dataclass(frozen=True, slots=True)
class SimulatedSlice:
    """One MIG device, with everything NVML would tell of it."""

    uuid: str
    parent_uuid: str
    index: int
    profile: str
    gpu_instance: int
    compute_instance: int
    gpu_slices: int
    compute_slices: int
    memory: int
    reserved: int


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """One GPU, with everything NVML would tell of it while nothing runs."""

    uuid: str
    index: int
    minor: int
    model: str
    pci_bus_id: str
    numa_node: int | None
    memory: int
    reserved: int
    mig: MigMode
    slices: tuple[SimulatedSlice, ...]


@dataclass(frozen=True, slots=True)
class SimulatedMachine:
    """A description with every device spelled out."""

    name: str
    driver_version: str
    memory_limits: bool
    gpus: tuple[SimulatedGpu, ...]


def known_machines() -> tuple[str, ...]:
    """Names of the shipped descriptions."""
    found = (entry.name for entry in resources.files(__package__).joinpath("machines").iterdir())
    return tuple(sorted(name[:-5] for name in found if name.endswith(".yaml")))


def load_machine(name_or_path: str | Path) -> SimulatedMachine:
    """A shipped machine by name, or any by the path of its file. Raises ConfigError."""
    if isinstance(name_or_path, str) and name_or_path in known_machines():
        resource = resources.files(__package__).joinpath("machines", f"{name_or_path}.yaml")
        return parse(resource.read_text(), name_or_path)
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise ConfigError(
            f"no machine is called {str(name_or_path)!r}",
            remedy=f"use {', '.join(known_machines())}, or the path of a description (.yaml)",
        )
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> SimulatedMachine:
    """The text of a description; `source` stands before each problem. Raises ConfigError."""
    section = config.parse(text, {"machine": MachineSection}, name=source).sections.get("machine")
    if not isinstance(section, MachineSection):
        raise ConfigError(
            f"{source}: no section `machine`", remedy="a machine description has that one section"
        )
    gpus = tuple(_gpus(section))
    return SimulatedMachine(section.name, section.driver_version, section.memory_limits, gpus)


def _gpus(machine: MachineSection) -> list[SimulatedGpu]:
    gpus: list[SimulatedGpu] = []
    for section in machine.gpus:
        for place in range(section.count):
            index = len(gpus)
            derived = f"GPU-{uuid.uuid5(_NAMESPACE, f'{machine.name}/{index}')}"
            identity = section.uuids[place] if section.uuids else derived
            gpus.append(
                SimulatedGpu(
                    uuid=identity,
                    index=index,
                    minor=section.minors[place] if section.minors else index,
                    model=section.model,
                    pci_bus_id=section.pci[place] if section.pci else f"0000:{index + 1:02x}:00.0",
                    numa_node=_numa_node(section, place),
                    memory=section.memory,
                    reserved=section.reserved,
                    mig=section.mig,
                    slices=tuple(_slices(section.slices, identity)),
                )
            )
    return gpus


def _numa_node(section: GpuSection, place: int) -> int | None:
    nodes = section.numa
    return nodes[place * len(nodes) // section.count] if nodes else None


def _slices(sections: Sequence[SliceSection], parent: str) -> Iterator[SimulatedSlice]:
    taken = {section.index for section in sections}
    free = (index for index in range(GPU_SLICES) if index not in taken)
    for section in sections:
        instance = f"{parent}/{section.gpu_instance}/{section.compute_instance}"
        gpu_slices, compute_slices = slice_counts(section.profile)
        yield SimulatedSlice(
            uuid=section.uuid or f"MIG-{uuid.uuid5(_NAMESPACE, instance)}",
            parent_uuid=parent,
            index=next(free) if section.index is None else section.index,
            profile=section.profile,
            gpu_instance=section.gpu_instance,
            compute_instance=section.compute_instance,
            gpu_slices=gpu_slices,
            compute_slices=compute_slices,
            memory=section.memory,
            reserved=section.reserved,
        )


def slice_counts(profile: str) -> tuple[int, int]:
    """Slices of the GPU that the GPU instance spans, and how many of them the compute instance.
    Raises ValueError.
    """
    if (match := _PROFILE.fullmatch(profile)) is None:
        raise ValueError(f"{profile!r} is not a MIG profile, such as '1g.10gb'")
    return int(match[2]), int(match[1] or match[2])
