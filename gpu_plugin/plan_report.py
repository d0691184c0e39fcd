# SPDX-License-Identifier: Apache-2.0
"""The answer of `nodeshare plan`: where pods would land on an empty machine, and what is left.

Pure: no driver, no kubelet. `rehearsal` decides; this module words it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agents.errors import ConfigError
from agents.report import Report
from agents.tables import UNKNOWN, Table, lines
from gpu_plugin import pod_request
from gpu_plugin.allocation import Share
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import devices_of
from gpu_plugin.rehearsal import Node, Outcome, Verdict
from gpu_plugin.resources import Plan, Resource, plan, size_text

#: Names of so many pods are written out.
_FEW = 5
_PODS = ("pod", "asks for", "", "where", "memory")
_LEFT = ("resource", "device", "units", "held", "free", "withheld")


def report(section: GpuPluginConfig, machine: Machine, words: Sequence[str]) -> Report:
    """What becomes of the pods that `words` describe. Raises ConfigError for a word that makes no
    sense, or when nothing is configured.
    """
    if not section.resources:
        raise ConfigError(
            "the configuration has no gpu_plugin.resources", remedy="add a rule to plan with"
        )
    decided = plan(section.resources, machine)
    pods = pod_request.parse(words, [resource.name for resource in decided.resources])
    node = Node(decided.resources)
    verdicts = [node.admit(pod) for pod in pods]
    titles = {device.uuid: device.name for device in devices_of(machine)}
    kind = "SIMULATED machine" if machine.simulated else "machine"
    tables = [
        Table(
            f"Pods in this order, on an empty {kind}",
            _PODS,
            [_row(verdict, titles) for verdict in verdicts],
        ),
        Table("Afterwards", _LEFT, list(_left(decided, node, titles))),
    ]
    text = [
        *lines(tables),
        *_explained(verdicts),
        *(f"problem: {problem.text}" for problem in decided.problems),
    ]
    return Report(text, _document(machine, decided, node, verdicts))


def _row(verdict: Verdict, titles: dict[str, str]) -> tuple[str, ...]:
    where = ", ".join(
        f"{titles[device.uuid]}: {len(device.numbers)}"
        for share in verdict.shares
        for device in share.devices
    )
    lands = verdict.outcome is Outcome.LANDS
    memory = sum(share.memory for share in verdict.shares)
    return (
        verdict.pod.name,
        ", ".join(f"{size} {_short(name)}" for name, size in verdict.pod.asks.items()),
        verdict.outcome.value if lands else verdict.outcome.value.upper(),
        where or UNKNOWN,
        size_text(memory) if lands else UNKNOWN,
    )


def _explained(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Why pods did not land, each text once."""
    said: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.message is not None:
            kept = ", ".join(f"{share.units} {_short(share.resource)}" for share in verdict.shares)
            why = f"{verdict.outcome.value}: {verdict.message}"
            if kept:
                why += f"; it keeps {kept} until it is deleted"
            said.setdefault(why, []).append(verdict.pod.name)
    for why, names in said.items():
        few = ", ".join(names) if len(names) <= _FEW else f"{names[0]} … {names[-1]} ({len(names)})"
        yield f"{few}: {why}"


def _left(decided: Plan, node: Node, titles: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for resource in decided.resources:
        for device in _devices(resource, node):
            numbers = (device[key] for key in ("units", "held", "free", "withheld"))
            yield _short(resource.name), titles[str(device["uuid"])], *map(str, numbers)


def _devices(resource: Resource, node: Node) -> list[dict[str, Any]]:
    """Units after the last pod; those withheld are free, and no pod can be given them."""
    held, free = node.held(resource.name), node.free(resource.name)
    return [
        {
            "uuid": (uuid := served.device.uuid),
            "units": served.units,
            "held": held[uuid],
            "free": free[uuid],
            "withheld": served.units - held[uuid] - free[uuid],
        }
        for served in resource.devices
    ]


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _document(
    machine: Machine, decided: Plan, node: Node, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    return {
        "simulated": machine.simulated,
        "pods": [
            {
                "name": verdict.pod.name,
                "asks": dict(verdict.pod.asks),
                "outcome": verdict.outcome.value,
                "message": verdict.message,
                "shares": [_share(share) for share in verdict.shares],
            }
            for verdict in verdicts
        ],
        "resources": [_resource(resource, node) for resource in decided.resources],
        "problems": [problem.text for problem in decided.problems],
    }


def _share(share: Share) -> dict[str, Any]:
    return {
        "resource": share.resource,
        "units": share.units,
        "memory_bytes": share.memory,
        "devices": [
            {"uuid": device.uuid, "units": len(device.numbers), "memory_bytes": device.memory}
            for device in share.devices
        ],
    }


def _resource(resource: Resource, node: Node) -> dict[str, Any]:
    devices = _devices(resource, node)
    return {
        "name": resource.name,
        "largest_free_block": max((device["free"] for device in devices), default=0),
        "devices": devices,
    }
