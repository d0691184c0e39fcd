# SPDX-License-Identifier: Apache-2.0
"""Puts enforcement together for a running agent. Decides nothing, and does nothing."""

from __future__ import annotations

from agents.agent import AgentContext
from agents.file_lock import FileLock
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.driver_limits import DriverLimits
from gpu_plugin.driver_record import LimitRecord
from gpu_plugin.driver_watch import DriverWatch
from gpu_plugin.enforcement_metrics import EnforcementCounters
from gpu_plugin.enforcer import Enforcer, Means
from gpu_plugin.inventory import devices_of
from gpu_plugin.known_limits import KnownLimits
from gpu_plugin.nvml import Nvml
from gpu_plugin.terminate import Terminator

#: Beside the allocations, which two agents in a rolling update share; a pod's run directory may be
#: its own.
LOCK = "enforcement.lock"
#: Also there, for the same reason.
LIMITS = "driver-limits"


def enforcer(
    context: AgentContext, section: GpuPluginConfig, nvml: Nvml, watch: DriverWatch
) -> Enforcer:
    """For the devices that `watch` knows."""

    def usable() -> dict[str, int]:
        if watch.inventory is None:
            return {}
        devices = devices_of(watch.inventory.machine)
        return {one.uuid: one.memory_total - one.memory_reserved for one in devices}

    def session() -> int:
        return 0 if watch.inventory is None else watch.inventory.machine.session

    state = context.node.state_dir / "gpu"
    return Enforcer(
        section.enforcement,
        KnownLimits(section.resources, usable, context.node.cri_socket),
        Means(
            Terminator(context.host),
            DriverLimits(nvml, context.host, LimitRecord(state / LIMITS), log=context.log),
            FileLock(state / LOCK),
        ),
        session=session,
        counters=EnforcementCounters(context.registry),
        log=context.log,
    )
