# SPDX-License-Identifier: Apache-2.0
"""The chart values of MortalGPU and MetaGPU, as our rules, and what of them cannot be said in ours.

Pure: text in, values out; `mortalgpu_yaml` writes them down. Their shares are a number for each
GPU, whatever its size; our units are a size. On mixed hardware one of the two has to give: the
size stays, and the number differs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.config import shown
from agents.errors import ConfigError
from gpu_plugin.config import Select, check_resource_name
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import Device, devices_of
from gpu_plugin.mortalgpu_values import Values
from gpu_plugin.selection import matches

_MIB = 1 << 20
#: Shares of a GPU when the values say nothing: MortalGPU's default, and MetaGPU's `autoReshare`.
_SHARES = 320
_AUTO_SHARES = 100
_KEYS = {
    "resourceName",
    "metagpusPerGpu",
    "metagpusPerGpuMemoryChunkMB",
    "metaGpus",
    "autoReshare",
    "reservedChunks",
    "uuid",
    "modelName",
    "migid",
}
#: What remains to pods of the memory in a model's name; the driver keeps a part.
_USABLE = 0.98
_MEMORY_IN_NAME = re.compile(r"(\d+)\s*GB\b", re.IGNORECASE)
_UNKNOWN_CHUNK = 100 * _MIB


@dataclass(frozen=True, slots=True)
class Sharing:
    """One entry of `deviceSharing`. `shares` of each GPU, or `chunk` bytes a share (one is None).

    `path` is where it stands in the values. `metagpu`: written as MetaGPU has it, whose requests
    may span GPUs. `unknown` are keys that mean nothing to us.
    """

    path: str
    name: str
    shares: int | None
    chunk: int | None
    reserved: int
    metagpu: bool
    selectors: Mapping[str, tuple[Any, ...]]
    unknown: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[object, ...]:
        """Everything but which devices it is about."""
        return self.shares, self.chunk, self.reserved, self.metagpu


@dataclass(slots=True)
class Imported:
    """`rules` are entries of `gpu_plugin.resources`, each with what has to be said about it;
    `container` and `log` are what those sections become. `notes` is what was not carried over.
    `observe`: limits are not to be enforced.
    """

    rules: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)
    container: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    observe: bool = False


def sharing_of(section: Values, name: str) -> tuple[Sharing, ...]:
    """All entries of `deviceSharing`. Raises ConfigError where one is not what it should be."""
    found = section.take("deviceSharing")
    if not isinstance(found, list) or not found:
        raise ConfigError(
            f"{name}: no list config.deviceSharing",
            remedy="name the values.yaml of a MortalGPU or MetaGPU chart",
        )
    path = section.place("deviceSharing")
    return tuple(_sharing(entry, f"{path}[{number}]") for number, entry in enumerate(found))


def _sharing(entry: object, path: str) -> Sharing:
    if not isinstance(entry, dict) or not isinstance(entry.get("resourceName"), str):
        raise ConfigError(f"{path}: an entry needs a resourceName")
    shares = _number(entry, "metagpusPerGpu", path) or _number(entry, "metaGpus", path)
    chunk = _number(entry, "metagpusPerGpuMemoryChunkMB", path)
    if entry.get("autoReshare") is True:
        shares = _AUTO_SHARES
    if not shares and not chunk:
        shares = _SHARES
    return Sharing(
        path=path,
        name=entry["resourceName"],
        shares=shares or None,
        chunk=chunk * _MIB if chunk and not shares else None,
        reserved=_number(entry, "reservedChunks", path),
        metagpu=not entry.keys().isdisjoint({"metaGpus", "autoReshare"}),
        selectors={
            "uuids": tuple(uuid for uuid in _list(entry, "uuid", str, path) if uuid != "*"),
            "models": tuple(map(_escaped, _list(entry, "modelName", str, path))),
            "mig_ids": tuple(_list(entry, "migid", int, path)),
        },
        unknown=tuple(str(key) for key in entry if key not in _KEYS),
    )


def _number(entry: Mapping[str, Any], key: str, path: str) -> int:
    value = entry.get(key) or 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{path}.{key}: {shown(value)} is not a number from 0 on")
    return value


def _list(entry: Mapping[str, Any], key: str, kind: type, path: str) -> list[Any]:
    values = entry.get(key) or []
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise ConfigError(f"{path}.{key}: {shown(values)} is not a list of {kind.__name__} values")
    return values


def rules(found: Sequence[Sharing], machine: Machine | None, common: Mapping[str, Any]) -> Imported:
    """Our rules for these entries; `common` goes into each. With a machine the sizes are exact."""
    result = Imported()
    for sharing in found:
        result.notes += [f"{sharing.path}.{key}: has no counterpart" for key in sharing.unknown]
    devices = devices_of(machine) if machine is not None else ()
    for name in dict.fromkeys(sharing.name for sharing in found):
        same = [sharing for sharing in found if sharing.name == name]
        try:
            check_resource_name(name)
        except ValueError as error:
            result.notes.append(f"{same[0].path}.resourceName: {error}; the entry is left out")
            continue
        result.rules.append(_rule(name, same, devices, common, result.notes))
    return result


def _rule(
    name: str,
    same: Sequence[Sharing],
    devices: Sequence[Device],
    common: Mapping[str, Any],
    notes: list[str],
) -> tuple[dict[str, Any], list[str]]:
    matched = [
        d for d in devices if any(matches(Select(**_select(one.selectors)), d) for one in same)
    ]
    if (merged := _merged(same)) is not None:
        select = merged
    elif matched:
        select = {"uuids": [device.uuid for device in matched]}
    else:
        select = _select(same[0].selectors)
        left = ", ".join(one.path for one in same[1:])
        notes.append(
            f"{left}: {name} has several entries that one selector cannot express, and only the "
            "first is carried over; name the machine with --machine, or list select.uuids"
        )
    rule: dict[str, Any] = {"name": name, **({"select": select} if select else {})}
    said = [f"{one.path}: {_told(one)}" for one in same]
    if all(one.shares == 1 and not one.reserved for one in same):
        return {**rule, "exclusive": True}, said
    chunk, why = _chunk(same, matched)
    rule["chunk"] = _mebibytes(chunk)
    if same[0].reserved:
        rule["reserved"] = _mebibytes(same[0].reserved * chunk)
    if same[0].metagpu:
        rule["split"] = True
    return {**rule, **common}, [*said, *why]


def _merged(same: Sequence[Sharing]) -> dict[str, Any] | None:
    """One selector for all: they may differ in one key of it, and in nothing else. An empty list
    takes everything already.
    """
    first = same[0]
    differing = [
        key
        for key, values in first.selectors.items()
        if any(one.selectors[key] != values for one in same)
    ]
    if len(differing) > 1 or any(one.size != first.size for one in same):
        return None
    merged = dict(first.selectors)
    for key in differing:
        lists = [one.selectors[key] for one in same]
        merged[key] = tuple(value for values in lists for value in values) if all(lists) else ()
    return _select(merged)


def _select(selectors: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """As our selector; empty: everything."""
    return {key: list(dict.fromkeys(values)) for key, values in selectors.items() if values}


def _told(sharing: Sharing) -> str:
    size = f"{sharing.shares} share{'' if sharing.shares == 1 else 's'} of a GPU"
    if sharing.chunk is not None:
        size = f"shares of {_mebibytes(sharing.chunk)}"
    return f"{size}, {sharing.reserved} of them reserved" if sharing.reserved else size


def _chunk(same: Sequence[Sharing], matched: Sequence[Device]) -> tuple[int, list[str]]:
    """Bytes of a unit, and what has to be said about it."""
    if same[0].chunk is not None:
        return same[0].chunk, []
    shares = max(one.shares or 1 for one in same)
    if matched:
        usable = {d.title: d.memory_total - d.memory_reserved for d in matched}
        why = ["shares of these devices had unequal sizes; now the number of units differs"]
        exact = _whole(min(usable.values()) / shares)
        return exact, why if len({_whole(size / shares) for size in usable.values()}) > 1 else []
    models = [model for one in same for model in one.selectors["models"]]
    named = [_MEMORY_IN_NAME.search(model) for model in models]
    sizes = [int(match[1]) << 30 for match in named if match is not None]
    if sizes and len(sizes) == len(named) and not any(one.selectors["mig_ids"] for one in same):
        guess = _whole(min(sizes) * _USABLE / shares)
        return guess, ["chunk: from the model's name; name the machine with --machine to be exact"]
    return _UNKNOWN_CHUNK, [
        "chunk: a guess, because the memory of the devices is not known; name the machine with "
        "--machine to be exact"
    ]


def _whole(size: float) -> int:
    """In whole MiB, at least one."""
    return max(int(size) // _MIB, 1) * _MIB


def _mebibytes(size: int) -> str:
    return f"{size // _MIB}MiB"


def _escaped(model: str) -> str:
    """A name as a glob that matches it alone."""
    return re.sub(r"([*?\[])", r"[\1]", model)
