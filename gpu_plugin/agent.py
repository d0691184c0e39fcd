# SPDX-License-Identifier: Apache-2.0
"""What the GPU plugin declares to the runtime. Light: read for every `nodeshare` command, so
gRPC and the driver are imported only by what `load` returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agents.agent import Agent, AgentContext
from agents.config import NodeConfig, Section
from agents.remains import Remains
from agents.report import Report
from gpu_plugin import commands
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.panels import panels
from gpu_plugin.tables import tables


def load() -> Callable[[AgentContext], Awaitable[None]]:
    """The running part."""
    from gpu_plugin.daemon import run

    return run


def refuse_change(before: Section, after: Section) -> str | None:
    """Every change moves units: it takes a restart, which reads back what pods hold."""
    if before == after:
        return None
    return (
        "the gpu_plugin section changed; restart the agent to apply it (running pods keep their "
        "units)"
    )


def explain(node: NodeConfig, section: Section, machine: str | None) -> Report:
    """Units, message sizes and problems. Raises Unavailable without a driver, ConfigError."""
    from gpu_plugin.explain import explain as explained
    from gpu_plugin.source import look_once

    assert isinstance(section, GpuPluginConfig)
    return explained(section, look_once(section, node, machine))


def _remains(node: NodeConfig, section: Section | None) -> Remains:
    from gpu_plugin.remains import remains

    return remains(node, section)


AGENT = Agent(
    section="gpu_plugin",
    noun="gpu",
    model=GpuPluginConfig,
    load=load,
    commands=commands.add,
    refuse_change=refuse_change,
    tables=tables,
    panels=panels,
    explain=explain,
    verbs=commands.add_verbs,
    remains=_remains,
)
