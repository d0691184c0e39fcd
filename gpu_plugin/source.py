# SPDX-License-Identifier: Apache-2.0
"""Where the devices come from: the real driver, or a machine description where there is no GPU.

Imports either only when it is used: a node with GPUs never loads the simulation, nor the other way
round.
"""

from __future__ import annotations

import os
from pathlib import Path

from agents.config import NodeConfig
from agents.errors import Unavailable
from agents.hostfs import HostFs
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.devices import Machine
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


def on_machine(section: GpuPluginConfig, machine: str | None) -> GpuPluginConfig:
    """The section as it would be on a described machine (a name or a file); None: as written."""
    if machine is None:
        return section
    # Nothing runs on it, whatever the state file of a simulation on this node says.
    nothing = Path(os.devnull)
    return section.model_copy(update={"simulate": machine, "simulated_state": nothing})


def look_once(section: GpuPluginConfig, node: NodeConfig, machine: str | None) -> Machine:
    """This machine now, or a described one. For commands: it waits for a driver as long as that
    takes. Raises Unavailable, ConfigError.
    """
    section = on_machine(section, machine)
    nvml = open_nvml(section, node.host.host_fs(), node.state_dir / "gpu")
    try:
        return nvml.machine()
    except Unavailable as error:
        raise Unavailable(
            str(error), remedy="or name a described machine: --machine demo"
        ) from error
    finally:
        nvml.close()
