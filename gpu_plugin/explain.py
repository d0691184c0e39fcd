# SPDX-License-Identifier: Apache-2.0
"""What a configuration would advertise on a machine, in words: from the very plan that the agent
makes.

Pure: no driver, no kubelet.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpu_plugin import budget
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.devices import Machine
from gpu_plugin.inventory import devices_of
from gpu_plugin.resources import Plan, Resource, plan, size_text


def explain(section: GpuPluginConfig, machine: Machine) -> tuple[str, ...]:
    """Lines for people: each resource with its devices, what nobody serves, and the problems."""
    decided = plan(section.resources, machine)
    return (
        *_machine(machine),
        *(line for resource in decided.resources for line in _resource(resource)),
        *_unserved(decided, machine),
        *(f"problem: {problem.text}" for problem in decided.problems),
    )


def largest_pod(resource: Resource) -> int:
    """The most units that one container can get on the empty machine."""
    counts = [served.units for served in resource.devices]
    return sum(counts) if resource.split else max(counts, default=0)


def _machine(machine: Machine) -> Iterator[str]:
    kind = "SIMULATED machine" if machine.simulated else "machine"
    yield f"{kind}: {len(machine.gpus)} GPUs, driver {machine.driver_version}"
    for gpu in machine.lost:
        yield f"lost: GPU {gpu.index} ({gpu.uuid or 'unknown UUID'}): {gpu.reason}"


def _resource(resource: Resource) -> Iterator[str]:
    total = sum(served.units for served in resource.devices)
    unit = "a whole device" if resource.chunk is None else size_text(resource.chunk)
    yield f"{resource.name}: {total} units of {unit} on {len(resource.devices)} devices"
    for served in resource.devices:
        device = served.device
        yield (
            f"  {device.title}: {served.units} units "
            f"({size_text(device.memory_total - device.memory_reserved)} usable)"
        )
    if total:
        span = "may span devices" if resource.split else "on one device"
        yield f"  largest pod: {largest_pod(resource)} units, {span}"
        yield f"  list message: {resource.message_bytes} of {budget.MESSAGE_LIMIT} bytes"


def _unserved(decided: Plan, machine: Machine) -> Iterator[str]:
    named = {uuid for problem in decided.problems for uuid in problem.devices}
    serving = decided.serving
    for device in devices_of(machine):
        if device.uuid not in serving and device.uuid not in named:
            yield f"served by no rule: {device.title}"
