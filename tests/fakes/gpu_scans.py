# SPDX-License-Identifier: Apache-2.0
"""Scans of a simulated machine as values: containers, what they hold, and what is thought of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.processes import ProcessKey
from gpu_plugin.accounting import (
    Accounting,
    ContainerKey,
    ContainerNames,
    DeviceUse,
    GpuContainer,
    GpuUse,
    Grant,
)
from gpu_plugin.container_activity import Place
from gpu_plugin.devices import ProcessKind
from gpu_plugin.inventory import devices_of
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.verdicts import Act, Action, Backend, Limits, Outcome, Reason, Standing, Verdict

GIB = 1 << 30
RESOURCE = "nodeshare/gpu-memory"
AT_LIMIT = "processes are ended, the newest first, after a warning of 10 s"
MACHINE = SimulatedNvml(load_machine("demo"), Path("nothing happens on it")).machine()
DEVICES = {device.uuid: device for device in devices_of(MACHINE)}
FIRST, SECOND, SLICE = list(DEVICES)[:3]
EPOCH = 1_795_269_807.0


def use(pid: int, used: int | None, device: str = FIRST, command: str = "python3") -> GpuUse:
    return GpuUse(ProcessKey(pid, 7), device, used, ProcessKind.COMPUTE, command)


def grant(allocation: str, units: int = 8, device: str = FIRST, resource: str = RESOURCE) -> Grant:
    return Grant(allocation, resource, device, units, units * GIB)


def container(
    name: str = "ada", *parts: Grant | GpuUse, named: bool = True, main: ProcessKey | None = None
) -> GpuContainer:
    """A pod of one container. `parts` are what it was given and what it holds."""
    return GpuContainer(
        ContainerKey(f"uid-of-{name}", name.ljust(64, "0")),
        f"/kubepods/{name}",
        ContainerNames("jupyterhub", name, "notebook") if named else None,
        main,
        tuple(part for part in parts if isinstance(part, Grant)),
        tuple(part for part in parts if isinstance(part, GpuUse)),
    )


def scan(
    *containers: GpuContainer,
    at: float = 100.0,
    free: int = 20 * GIB,
    utilisation: Mapping[str, float | None] | None = None,
    host: tuple[GpuUse, ...] = (),
    unknown: tuple[GpuUse, ...] = (),
) -> Accounting:
    """All devices answer."""
    devices = {
        uuid: DeviceUse(uuid, 32 * GIB, free, 12 * GIB, 0, (utilisation or {}).get(uuid))
        for uuid in DEVICES
    }
    return Accounting(at, EPOCH + at, devices, containers, host, unknown)


def verdict(
    found: GpuContainer,
    device: str = FIRST,
    *,
    limit: int | None = 8 * GIB,
    standing: Standing = Standing.BELOW,
    problem: str | None = None,
    grace_left_s: float | None = None,
    pressure: bool = False,
) -> dict[Place, Verdict]:
    request, used = found.request(device), found.used(device)
    limits = Limits(request, limit, request, "the request", problem)
    known = used or 0
    return {
        (found.key, device): Verdict(
            container=found.key,
            device=device,
            limits=limits,
            used=used,
            known=known,
            standing=standing,
            backend=Backend.TERMINATE,
            at_limit=AT_LIMIT,
            pressure=pressure,
            grace_left_s=grace_left_s,
        )
    }


def act(
    found: GpuContainer,
    action: Action = Action.KILL,
    *,
    reason: Reason = Reason.OVER_LIMIT,
    process: ProcessKey | None = None,
    outcome: Outcome = Outcome.DONE,
    at: float = 100.0,
    command: str = "python3",
) -> Act:
    return Act(
        action=action,
        reason=reason,
        container=found.key,
        device=FIRST,
        at=at,
        wall=EPOCH + at,
        used=11 * GIB,
        allowed=8 * GIB,
        since=at - 1,
        process=process,
        command=command,
        held=None if process is None else 3 * GIB,
        grace_s=10.0,
        outcome=outcome,
    )
