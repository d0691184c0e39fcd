# SPDX-License-Identifier: Apache-2.0
"""The commands about GPUs: what is in this machine, what a configuration makes of it, and what
becomes of pods. Without a running agent.

Reads options and prints; what is said is made elsewhere. Imports the rest only when a command runs:
this module is read for every `nodeshare` command.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agents import config
from agents.agent import installed, models
from agents.errors import ConfigError
from agents.tables import lines
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.holders import Holders
from gpu_plugin.status import NodeStatus


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verbs of `nodeshare gpu`."""
    parser = verbs.add_parser(
        "ls", help="GPUs and MIG slices of this machine, their units, and who uses them"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="with the units it would offer")
    _add_machine(parser)
    parser.add_argument("--json", action="store_true", help="as in /status.json")
    parser.set_defaults(run=_list)
    parser = verbs.add_parser("hold", help="let a process hold memory on a simulated device")
    parser.add_argument("--state", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", required=True, metavar="UUID")
    parser.add_argument("--pid", type=int, required=True, metavar="PID")
    parser.add_argument("--memory", required=True, metavar="SIZE", help="such as 6GiB")
    parser.set_defaults(run=_hold)
    parser = verbs.add_parser("describe", help="write this machine down, to plan with elsewhere")
    parser.add_argument("--config", type=Path, metavar="FILE", help="what a file simulates")
    _add_machine(parser)
    parser.add_argument("--name", default="recorded", metavar="NAME", help="of the description")
    parser.set_defaults(run=_describe)
    _add_failed_pods(verbs)


def _add_failed_pods(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "failed-pods", help="pods of this node that were rejected for lack of our devices"
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--delete", action="store_true", help="take them away")
    parser.add_argument("--node", metavar="NAME", help="another node than this one")
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="instead of the one in the configuration"
    )
    parser.add_argument("--json", action="store_true", help="the same as one document")
    parser.set_defaults(run=_failed_pods)


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What stands without the noun: `nodeshare plan`."""
    parser = verbs.add_parser("plan", help="where GPU pods would land, without running any")
    parser.add_argument("file", type=Path, metavar="FILE")
    _add_machine(parser)
    parser.add_argument(
        "--pod",
        action="append",
        required=True,
        metavar="POD",
        help="SIZE, RESOURCE=SIZE, or RESOURCE=SIZE,RESOURCE=SIZE in units; *N repeats it. "
        "Pods are admitted in the order in which they are written",
    )
    parser.add_argument("--json", action="store_true", help="the same as one document")
    parser.set_defaults(run=_plan)
    parser = verbs.add_parser("import", help="turn another plugin's configuration into ours")
    formats = parser.add_subparsers(required=True, metavar="FORMAT")
    parser = formats.add_parser("mortalgpu", help="the chart values of MortalGPU or MetaGPU")
    parser.add_argument("file", type=Path, metavar="VALUES")
    _add_machine(parser)
    parser.set_defaults(run=_import)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--machine",
        metavar="M",
        help="a described machine (a name or a YAML file) instead of this one",
    )


def _plan(options: argparse.Namespace) -> int:
    from gpu_plugin.plan_report import report
    from gpu_plugin.source import look_once

    node, section = _configured(options.file)
    machine = look_once(section, node, options.machine)
    print(report(section, machine, options.pod).text(as_json=options.json))
    return 0


def _import(options: argparse.Namespace) -> int:
    from gpu_plugin.mortalgpu_yaml import convert
    from gpu_plugin.source import look_once

    machine = None
    if options.machine is not None:
        machine = look_once(GpuPluginConfig(), config.NodeConfig(), options.machine)
    text, notes = convert(config.read(options.file), str(options.file), machine)
    for note in notes:
        print(f"nodeshare: not carried over: {note}", file=sys.stderr)
    print(text, end="")
    return 0


def _describe(options: argparse.Namespace) -> int:
    from gpu_plugin.simulated.description import parse
    from gpu_plugin.simulated.record import describe
    from gpu_plugin.source import look_once

    node, section = _configured(options.config)
    machine = look_once(section, node, options.machine)
    if not machine.gpus:
        raise ConfigError("this machine has no GPU that answers, so there is nothing to describe")
    text = describe(machine, options.name)
    parse(text, "the description of this machine")
    print(text, end="")
    return 0


def _failed_pods(options: argparse.Namespace) -> int:
    from agents import kube
    from gpu_plugin import failed_pods

    node, section = _configured(options.config)
    names = [name for rule in section.resources for name in rule.sizes]
    if not names:
        raise ConfigError(
            f"{options.config}: no gpu_plugin.resources, so no pod can have failed for one",
            remedy="name the configuration that the agent of the node runs",
        )
    where = options.node or node.node_name()
    cluster = kube.connect(options.kubeconfig or node.api_server.kubeconfig)
    try:
        found = failed_pods.rejected(cluster.failed_pods(where), names)
        if options.delete:
            found = failed_pods.delete(cluster, found)
    finally:
        cluster.close()
    report = failed_pods.report(where, found, deleting=options.delete)
    print(report.text(as_json=options.json))
    return 1 if any(one.done not in {"kept", "deleted", "gone"} for one in found) else 0


def _configured(path: Path | None) -> tuple[config.NodeConfig, GpuPluginConfig]:
    """What a file says about the node and about GPUs; defaults where it (None: there is no file)
    says nothing. Raises ConfigError.
    """
    if path is None:
        return config.NodeConfig(), GpuPluginConfig()
    loaded = config.load(path, models(installed()), only="gpu_plugin")
    section = loaded.sections.get("gpu_plugin", GpuPluginConfig())
    assert isinstance(section, GpuPluginConfig)
    return loaded.node, section


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
    from gpu_plugin.source import on_machine
    from gpu_plugin.tables import tables

    node, section = _configured(options.config)
    document = look(on_machine(section, options.machine), node).document()
    if options.machine is None:
        _add_use(document, node)
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(lines(tables(document))) or "no GPU")
    return 0


def _add_use(document: dict[str, Any], node: config.NodeConfig) -> None:
    """Who holds and uses what, as the agent that runs here tells it; nothing when none does."""
    from agents.overview import look as ask
    from gpu_plugin.agent import AGENT

    (seen,) = ask([AGENT], node.run_dir)
    told = seen.document or {}
    document |= {key: told[key] for key in ("containers", "device_use", "acts") if key in told}
    known = {device.get("uuid"): device for device in told.get("devices") or ()}
    for device in document["devices"]:
        same = known.get(device["uuid"], {})
        if same.get("resource") == device["resource"]:
            keys = ("units_allocated", "offers", "holders", "health")
            device |= {key: same[key] for key in keys if key in same}


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
        devices = inventory.devices_of(machine)
        usage = observation.usage(observation.readings(nvml, devices, lambda *_: None))
    finally:
        nvml.close()
    unknown: Holders | None = None
    return status.build(machine, plan, usage=usage, holders=unknown, registration={})
