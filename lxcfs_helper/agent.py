# SPDX-License-Identifier: Apache-2.0
"""What this package declares to the runtime: section, noun, commands, tables. Imports nothing
heavy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agents.agent import Agent, AgentContext
from agents.config import NodeConfig, Section
from agents.remains import Remains
from lxcfs_helper import commands
from lxcfs_helper.config import ViewConfig
from lxcfs_helper.panels import panels
from lxcfs_helper.tables import tables


def _load() -> Callable[[AgentContext], Awaitable[None]]:
    from lxcfs_helper.service import run  # heavy: only the running agent needs it

    return run


def _refuse_change(_old: Section, _new: Section) -> str | None:
    return None  # every key is read again on each sweep


def _remains(node: NodeConfig, section: Section | None) -> Remains:
    from lxcfs_helper.remains import remains

    return remains(node, section)


AGENT = Agent(
    section="lxcfs_helper",
    noun="view",
    model=ViewConfig,
    load=_load,
    commands=commands.add,
    refuse_change=_refuse_change,
    tables=tables,
    panels=panels,
    clear=("view", "eject"),
    remains=_remains,
)
