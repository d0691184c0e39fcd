# SPDX-License-Identifier: Apache-2.0
"""Where the devices come from: the real driver, or a machine description where there is no GPU.

Imports either only when it is used: a node with GPUs never loads the simulation, nor the other way
round.
"""

from __future__ import annotations

from pathlib import Path

from agents.hostfs import HostFs
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.nvml import Nvml


def open_nvml(section: GpuPluginConfig, host: HostFs, directory: Path) -> Nvml:
    """Opens nothing yet. `directory` is the agent's own, for a simulated machine without a state
    file.

    Raises ConfigError when the machine to simulate is unknown or its description wrong.
    """
    if section.simulate is None:
        from gpu_plugin.driver import PynvmlDriver

        return PynvmlDriver(host)
    from gpu_plugin.simulated.description import load_machine
    from gpu_plugin.simulated.nvml import SimulatedNvml

    state = section.simulated_state or directory / "simulated-state"
    return SimulatedNvml(load_machine(section.simulate), state, host=host)
