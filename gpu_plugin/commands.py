# SPDX-License-Identifier: Apache-2.0
"""`nodeshare gpu ls`: what is in this machine and what a configuration makes of it, without a
running agent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from agents import config
from agents.agent import installed
from agents.errors import ConfigError
from agents.tables import lines
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.status import Holders, NodeStatus


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verbs of `nodeshare gpu`."""
    parser = verbs.add_parser("ls", help="GPUs and MIG slices of this machine, and their units")
    parser.add_argument("--config", type=Path, metavar="FILE", help="with the units it would offer")
    parser.add_argument(
        "--machine",
        metavar="M",
        help="a described machine (a name or a YAML file) instead of this one",
    )
    parser.add_argument("--json", action="store_true", help="as in /status.json")
    parser.set_defaults(run=_list)
    parser = verbs.add_parser("hold", help="let a process hold memory on a simulated device")
    parser.add_argument("--state", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", required=True, metavar="UUID")
    parser.add_argument("--pid", type=int, required=True, metavar="PID")
    parser.add_argument("--memory", required=True, metavar="SIZE", help="such as 6GiB")
    parser.set_defaults(run=_hold)


def _hold(options: argparse.Namespace) -> int:
    from gpu_plugin.simulated.state import SimulatedState

    try:
        size = config.parse_size(options.memory)
    except ValueError as error:
        raise ConfigError(f"--memory: {error}") from error
    assert isinstance(size, int)
    SimulatedState(options.state).hold(options.device, options.pid, size)
    return 0


def _list(options: argparse.Namespace) -> int:
    loaded = None
    section = GpuPluginConfig()
    if options.config is not None:
        models = {agent.section: agent.model for agent in installed()}
        loaded = config.load(options.config, models, only="gpu_plugin")
        found = loaded.sections.get("gpu_plugin", section)
        assert isinstance(found, GpuPluginConfig)
        section = found
    if options.machine is not None:
        section = section.model_copy(update={"simulate": options.machine, "simulated_state": None})
    node = loaded.node if loaded else config.NodeConfig()
    status = look(section, node)
    if options.json:
        print(json.dumps(status.document(), indent=2))
        return 0
    from gpu_plugin.tables import tables

    print("\n".join(lines(tables(status.document()))) or "no GPU")
    return 0


def look(section: GpuPluginConfig, node: config.NodeConfig) -> NodeStatus:
    """The machine now, with units but without knowing who holds them. Raises Unavailable,
    ConfigError.
    """
    from gpu_plugin import inventory, observation, resources, status  # what only this verb needs
    from gpu_plugin.source import open_nvml

    nvml = open_nvml(section, node.host.host_fs(), node.state_dir / "gpu")
    try:
        machine = nvml.machine()
        plan = resources.plan(section.resources, machine)
        uuids = [device.uuid for device in inventory.devices_of(machine)]
        usage = observation.usage(nvml, uuids, lambda _: None)
    finally:
        nvml.close()
    unknown: Holders | None = None
    return status.build(machine, plan, usage=usage, holders=unknown, registration={})
