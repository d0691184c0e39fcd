# SPDX-License-Identifier: Apache-2.0
"""The GPU driver as a seam, in our own vocabulary. `gpu_plugin.driver` implements it over pynvml,
`gpu_plugin.simulated` over a machine description. Knows no rule, no unit and no pod.

All calls block and may be slow: call them from a worker thread, never from the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agents.errors import AgentError, Unavailable
from gpu_plugin.devices import (
    Gpu,
    GpuProcess,
    LostGpu,
    Machine,
    Memory,
    MemoryLimits,
    Outline,
    Utilisation,
    XidEvent,
)


class NvmlUnavailable(Unavailable):
    """The driver did not answer this question, for a reason that need not be the device's."""


class DriverIsGone(NvmlUnavailable):
    """The driver as a whole is away (unloaded, upgraded, not initialised): every question fails."""


class NoDriver(DriverIsGone):
    """No library, or no kernel driver is loaded. Is there a GPU at all? `agents.hostfs` can say."""


class GpuIsLost(Unavailable):
    """The device does not answer any more (fallen off the bus, or being reset)."""


class NotPermitted(NvmlUnavailable):
    """The driver refuses this process; the remedy names the setting of the pod that is missing."""


class DeviceIsGone(GpuIsLost):
    """No device has this UUID (any more): a MIG slice that is made anew gets another one."""


class NoSuchCgroup(Unavailable):
    """The driver does not accept this directory as a cgroup: it ended, or it is no cgroup v2."""


class NotSupported(AgentError):
    """This device, driver or library cannot do that; remembered, not retried."""


class Nvml(Protocol):
    """Devices are named by UUID: of a GPU (`GPU-…`) or of a MIG slice (`MIG-…`)."""

    def outline(self) -> Outline:
        """How many GPUs there are. Raises NvmlUnavailable."""

    def gpu(self, index: int) -> Gpu | LostGpu:
        """One of them, looked at anew. Asked for each by itself, so that one that hangs delays no
        other. Raises NvmlUnavailable when the driver as a whole is away.
        """

    def machine(self) -> Machine:
        """All of that in one call, for whoever can wait. Raises NvmlUnavailable."""

    def reopen(self) -> None:
        """Let a later call open the driver anew: only that can tell that a lost GPU came back.

        Not while another call hangs in it. Events that come meanwhile are missed.
        """

    def memory(self, uuid: str) -> Memory:
        """Raises GpuIsLost (DeviceIsGone for a slice that was removed), NvmlUnavailable."""

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """Compute, graphics and MPS processes by pid, each once per kind and MIG instance.

        A GPU lists the processes of its slices too. Raises GpuIsLost, NvmlUnavailable; NotSupported
        when this driver cannot tell of compute processes.
        """

    def utilisation(self, uuid: str) -> Utilisation:
        """Both None on a slice, and on a GPU in MIG mode. Raises GpuIsLost, NvmlUnavailable."""

    def process_utilisation(self, uuid: str) -> Mapping[int, float]:
        """What part of a GPU's time each process (by pid) used since this was asked before (the
        first time: lately), 0 to 1; those that are not named used none. For one asker.

        Raises NotSupported (MIG, or not told by this driver), GpuIsLost, NvmlUnavailable.
        """

    def wait_event(self, timeout_s: float) -> XidEvent | None:
        """The next XID event since the first call; None when none came in time.

        For one thread, beside which others may make the other calls. Raises NotSupported when no
        GPU tells of any, NvmlUnavailable.
        """

    def unmonitored(self) -> Mapping[str, str]:
        """GPUs whose events the last `wait_event` did not wait for, and why. Never blocks."""

    def memory_limits(self, uuid: str, cgroup: str) -> MemoryLimits:
        """Limits on an absolute host cgroup directory.

        Raises NotSupported, NoSuchCgroup, GpuIsLost, NvmlUnavailable.
        """

    def set_memory_limits(self, uuid: str, cgroup: str, limits: MemoryLimits) -> None:
        """`limits.used` is ignored. Raises as `memory_limits`."""

    def close(self) -> None:
        """End the session, and a wait for an event; every later call raises NvmlUnavailable."""
