# SPDX-License-Identifier: Apache-2.0
"""`nodeshare import mortalgpu`: chart values → our configuration as text, with comments. Pure.

What is written is checked as any configuration is: it is valid, or this raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from agents import config
from agents.config import shown
from gpu_plugin.config import GpuPluginConfig, ResourceRule
from gpu_plugin.container_config import ExtraMount
from gpu_plugin.devices import Machine
from gpu_plugin.mortalgpu import Imported, rules, sharing_of
from gpu_plugin.mortalgpu_values import Values, decode, section_of
from gpu_plugin.resources import plan

_PLACEMENT = {"collocate": "pack", "spread": "spread"}
#: Keys that have no place here, and why. Values are never repeated: some are secrets.
_SERVICE = "there is no service, and nothing that guards it"
_NOT_NEEDED = {
    "grpcSecurity": _SERVICE,
    "jwtSecret": _SERVICE,
    "deviceToken": _SERVICE,
    "containerToken": _SERVICE,
    "mgctl": "a container reads its share in /run/nodeshare/gpu; there is no tool to mount",
    "processesDiscoveryPeriod": "there is no period to set",
    "deviceCacheTTL": "changes are seen as they happen",
    "deviceManager": "changes are seen as they happen; there is no period to set",
}
_DEPLOYMENT = "has no counterpart, or belongs to the deployment"


def convert(text: str, name: str, machine: Machine | None) -> tuple[str, tuple[str, ...]]:
    """The YAML, and what was not carried over, one sentence each. Raises ConfigError when the
    values are not those of such a chart.
    """
    values = decode(text, name)
    section = section_of(values)
    found = sharing_of(section, name)
    notes: list[str] = []
    common = _allocator(section.below("allocator"), notes)
    imported = rules(found, machine, common)
    imported.notes = [*notes, *imported.notes]
    _container(section, imported)
    _log(section.below("log"), imported)
    _rest(section, imported)
    imported.notes += [f"{path}: {_DEPLOYMENT}" for path in values.unread()]
    if machine is not None:
        imported.notes += [f"on this machine: {text}" for text in _problems(imported, machine)]
    # Keys of the values are in it, and each note is one line of a comment.
    imported.notes = [" ".join(note.split()) for note in imported.notes]
    written = _written(imported, " ".join(name.split()))
    config.parse(written, {"gpu_plugin": GpuPluginConfig}, name="the converted values")
    return written, tuple(imported.notes)


def _problems(imported: Imported, machine: Machine) -> list[str]:
    found = [ResourceRule.model_validate(rule) for rule, _ in imported.rules]
    return [problem.text for problem in plan(found, machine).problems]


def _allocator(allocator: Values, notes: list[str]) -> dict[str, Any]:
    """What goes into each rule."""
    common: dict[str, Any] = {}
    plugin = allocator.take("plugin", "collocate")
    if plugin not in _PLACEMENT:
        notes.append(
            f"{allocator.place('plugin')}: {shown(plugin)} has no counterpart; placement is pack"
        )
    elif _PLACEMENT[plugin] != "pack":
        common["placement"] = _PLACEMENT[plugin]
    if allocator.take("noSplit", True) is False:
        common["split"] = True
    if allocator.take("allowCollocation", True) is False:
        notes.append(
            f"{allocator.place('allowCollocation')}: pods of one resource share a device as long "
            "as it has room; write exclusive: true to give devices away whole"
        )
    if allocator.take("externalConfig"):
        notes.append(f"{allocator.place('externalConfig')}: no program is asked for a placement")
    return common


def _container(section: Values, imported: Imported) -> None:
    imported.container["aliases"] = ["metagpu"]
    section.take("deviceSpecs")  # what it switches on is the default here
    mounts = []
    path = section.place("pluginMounts")
    for number, entry in enumerate(section.take("pluginMounts", [])):
        try:
            mount = _mount(entry if isinstance(entry, dict) else {})
            ExtraMount.model_validate(mount)
            mounts.append(mount)
        except ValidationError as error:
            problem = config.describe(f"{path}[{number}]", error.errors()[0], ExtraMount)
            imported.notes.append(f"{problem}; it is left out")
    if mounts:
        imported.container["mounts"] = mounts


def _mount(entry: Mapping[str, Any]) -> dict[str, Any]:
    target = entry.get("containerPath") or entry.get("mountPath")
    found = {"host_path": entry.get("hostPath"), "container_path": target}
    found = {key: value for key, value in found.items() if value is not None}
    return {**found, **({"read_only": False} if entry.get("readOnly") is False else {})}


def _log(log: Values, imported: Imported) -> None:
    if log.take("verbose") is True:
        imported.log["level"] = "debug"
    if log.take("json") is False:
        imported.log["format"] = "text"


def _rest(section: Values, imported: Imported) -> None:
    for key, why in _NOT_NEEDED.items():
        if section.take(key) is not None:
            imported.notes.append(f"{section.place(key)}: {why}")
    for key in ("visibleDevices", "migDevices"):
        if section.take(key, "all") != "all":
            imported.notes.append(
                f"{section.place(key)}: narrow select in each rule instead (uuids, indices)"
            )
    # Switched on, it is the default here: of the container's sum instead of each process.
    imported.observe = section.take("memoryEnforcer", True) is False


def _written(imported: Imported, name: str) -> str:
    text = [f"# Converted from {name}.", "# Look at it with: nodeshare explain FILE --machine M"]
    if imported.notes:
        text += ["#", "# Not carried over:", *(f"#   {note}" for note in imported.notes)]
    if imported.log:
        text += _block({"node": {"log": imported.log}}, "")
    text += ["gpu_plugin:", "  resources:" if imported.rules else "  resources: []"]
    for rule, said in imported.rules:
        text += [f"    # {line}" for line in said]
        text += _block([rule], "    ")
    text += ["  # Notebooks that read the names of MetaGPU's variables still find them."]
    text += _block({"container": imported.container}, "  ")
    if imported.observe:
        text += ["  # memoryEnforcer was off: who is above his limit is told, and left alone."]
        text += _block({"enforcement": {"mode": "observe"}}, "  ")
    return "\n".join(text) + "\n"


def _block(value: object, indent: str) -> list[str]:
    dumped = yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=90)
    return [indent + line for line in dumped.splitlines()]
