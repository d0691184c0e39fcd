# SPDX-License-Identifier: Apache-2.0
"""What this package declares to the runtime: section, noun, commands, tables. Imports nothing
heavy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agents.agent import Agent, AgentContext
from agents.config import NodeConfig, Section
from agents.remains import Remains
from agents.report import Report
from fuse_mounter import commands
from fuse_mounter.config import MounterConfig
from fuse_mounter.panels import panels
from fuse_mounter.scratch import commands as scratch_commands


def _load() -> Callable[[AgentContext], Awaitable[None]]:
    from fuse_mounter.service import run  # heavy: only the running agent needs it

    return run


def _refuse_change(old: Section, new: Section) -> str | None:
    assert isinstance(old, MounterConfig)
    assert isinstance(new, MounterConfig)
    if old.root != new.root:
        return "fuse_mounter.root changed: pods are bound to the old one; drain, then restart"
    return None


def _explain(node: NodeConfig, section: Section, machine: str | None) -> Report:
    """Of this node alone: a described machine is one of GPUs."""
    from fuse_mounter.explain import explain, look

    assert isinstance(section, MounterConfig)
    if machine is not None:
        return Report((), {})
    return explain(section, look(section, node))


def _remains(node: NodeConfig, section: Section | None) -> Remains:
    from fuse_mounter.remains import remains

    return remains(node, section)


AGENT = Agent(
    section="fuse_mounter",
    noun="mounts",
    model=MounterConfig,
    load=_load,
    commands=commands.add,
    refuse_change=_refuse_change,
    tables=commands.tables,
    panels=panels,
    explain=_explain,
    clear=("mounts", "drain", "--all"),
    verbs=scratch_commands.add,
    remains=_remains,
)
