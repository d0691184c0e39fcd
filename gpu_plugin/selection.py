# SPDX-License-Identifier: Apache-2.0
"""Rules and devices → which device serves which resource. Pure; knows no unit and no kubelet.

No device is ever sold twice: one that two rules match serves neither of them, and is named.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpu_plugin.config import MigFilter, ResourceRule, Select
from gpu_plugin.inventory import Device, DeviceKind


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an operator has to look at, while everything else goes on. `resource` None: no
    rule's fault.
    """

    resource: str | None
    text: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """Devices by resource name, in the order of the machine; every rule has an entry."""

    devices: Mapping[str, tuple[Device, ...]]
    problems: tuple[Problem, ...]


def matches(select: Select, device: Device) -> bool:
    """Whether all selectors that are written hold (`count` is no property of a device)."""
    return (
        _matches_model(select.models, device.model)
        and (select.uuids is None or not {device.uuid, device.gpu_uuid}.isdisjoint(select.uuids))
        and (select.indices is None or device.gpu_index in select.indices)
        and _matches_mig(select.mig, device)
        and (select.mig_ids is None or device.gpu_instance in select.mig_ids)
    )


def assign(
    rules: Sequence[ResourceRule],
    devices: Sequence[Device],
    earlier: Mapping[str, str] | None = None,
) -> Assignment:
    """Decide for every device. `earlier` (device → resource) is what was served or is held by pods:
    a rule with `count` keeps those devices and takes none that served another resource, so that a
    device that comes or goes does not move the units of others."""
    matched = {
        rule.name: tuple(device for device in devices if matches(rule.select, device))
        for rule in rules
    }
    counted = _take_counted(rules, matched, earlier or {})
    taken = {device.uuid for mine in counted.values() for device in mine}
    open_rules = [rule.name for rule in rules if rule.select.count is None]
    claims = {
        device.uuid: tuple(name for name in open_rules if device in matched[name])
        for device in devices
        if device.uuid not in taken
    }
    served = {
        name: tuple(device for device in matched[name] if claims.get(device.uuid) == (name,))
        for name in open_rules
    }
    result = {rule.name: {**served, **counted}[rule.name] for rule in rules}
    problems = [*_overlaps(claims, devices), *_unserved(rules, matched, result, claims)]
    return Assignment(result, tuple(problems))


def _take_counted(
    rules: Iterable[ResourceRule],
    matched: Mapping[str, tuple[Device, ...]],
    earlier: Mapping[str, str],
) -> dict[str, tuple[Device, ...]]:
    taken: set[str] = set()
    result: dict[str, tuple[Device, ...]] = {}
    for rule in rules:
        if rule.select.count is None:
            continue
        free = [
            device
            for device in matched[rule.name]
            if device.uuid not in taken and earlier.get(device.uuid, rule.name) == rule.name
        ]
        # A stable sort: those it had before come first, each part in the order of the machine.
        chosen = sorted(free, key=lambda device: device.uuid not in earlier)[: rule.select.count]
        result[rule.name] = tuple(device for device in free if device in chosen)
        taken |= {device.uuid for device in chosen}
    return result


def _overlaps(
    claims: Mapping[str, tuple[str, ...]], devices: Sequence[Device]
) -> Iterable[Problem]:
    by_rules: dict[tuple[str, ...], list[Device]] = {}
    for device in devices:
        names = claims.get(device.uuid, ())
        if len(names) > 1:
            by_rules.setdefault(names, []).append(device)
    for names, found in by_rules.items():
        yield Problem(
            resource=None,
            text=f"{' and '.join(names)} both match {', '.join(device.title for device in found)}: "
            "served by neither; narrow one of the selectors",
            devices=tuple(device.uuid for device in found),
        )


def _unserved(
    rules: Iterable[ResourceRule],
    matched: Mapping[str, tuple[Device, ...]],
    result: Mapping[str, tuple[Device, ...]],
    claims: Mapping[str, tuple[str, ...]],
) -> Iterable[Problem]:
    for rule in rules:
        mine, want = result[rule.name], rule.select.count
        if not matched[rule.name]:
            yield Problem(rule.name, f"{rule.name} matches no device of this machine")
        elif want is not None and len(mine) < want:
            yield Problem(rule.name, f"{rule.name} asks for {want} devices, {len(mine)} are there")
        elif not mine and not any(device.uuid in claims for device in matched[rule.name]):
            yield Problem(
                rule.name, f"{rule.name} gets no device: rules with a count took all it matches"
            )


def _matches_model(globs: Iterable[str] | None, model: str) -> bool:
    return globs is None or any(
        fnmatch.fnmatchcase(model.casefold(), glob.casefold()) for glob in globs
    )


def _matches_mig(wanted: MigFilter | tuple[str, ...] | None, device: Device) -> bool:
    match wanted:
        case None:
            return True
        case MigFilter.NONE:
            return device.kind is DeviceKind.GPU
        case MigFilter.ANY:
            return device.kind is DeviceKind.MIG
        case profiles:
            return device.profile in profiles
