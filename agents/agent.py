# SPDX-License-Identifier: Apache-2.0
"""The contract between the runtime and an agent: what an agent declares, and what it is handed.

The runtime finds agents by the entry points `nodeshare.agents`; it never imports one by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.config import NodeConfig, Section
from agents.hostfs import HostFs
from agents.panels import Panel
from agents.pod_event import PodEvent, tell_nobody
from agents.published import Published
from agents.remains import NOTHING, Remains
from agents.report import Report
from agents.tables import Table

if TYPE_CHECKING:  # heavy, and not needed to list or to configure agents
    import trio
    from prometheus_client import CollectorRegistry

    from agents.logs import Logger
    from agents.namespaces import Namespaces

#: Exit code of a command or an agent whose configuration or command line is wrong.
EXIT_CONFIG = 2

#: What `/status.json` shows: JSON-ready, replaced as a whole, never mutated after it was published.
Status = Mapping[str, Any]


class Readiness:
    """Whether the agent does its job, and if not, why and what to do. Starts as "starting"."""

    def __init__(self) -> None:
        self._reason = Published[str | None]("starting")

    @property
    def reason(self) -> str | None:
        """None: ready."""
        return self._reason.value

    def ready(self) -> None:
        if self._reason.value is not None:
            self._reason.set(None)

    def not_ready(self, reason: str) -> None:
        if self._reason.value != reason:
            self._reason.set(reason)


@dataclass(frozen=True, slots=True)
class AgentContext:
    """Everything an agent gets.

    `section` is its configuration at start; `changes` yields each later one that may be applied
    while running. `config_file` is the file that all this is from (None: there is none).
    `namespaces` runs what needs another process's mount namespace. `annotations` is what the node
    object shall say (None: not be there), and `labels` by what a scheduler shall select it; without
    API access nobody reads them.
    `more_metrics` are families as text (`agents.exposition`), which a collector of `registry` sets
    while it collects. `tell_pod` hands over an Event about a pod, and never waits.
    """

    node: NodeConfig
    section: Section
    changes: trio.MemoryReceiveChannel[Section]
    host: HostFs
    log: Logger
    registry: CollectorRegistry
    readiness: Readiness
    status: Published[Status]
    namespaces: Namespaces
    annotations: Published[Mapping[str, str | None]] = field(default_factory=lambda: Published({}))
    labels: Published[Mapping[str, str | None]] = field(default_factory=lambda: Published({}))
    more_metrics: Published[str] = field(default_factory=lambda: Published(""))
    tell_pod: Callable[[PodEvent], None] = tell_nobody
    config_file: Path | None = None


def no_tables(_: Status) -> Sequence[Table]:
    """For an agent that has nothing to show."""
    return ()


def no_explanation(_: NodeConfig, __: Section, ___: str | None) -> Report:
    """For an agent whose configuration says everything itself."""
    return Report((), {})


def no_remains(_: NodeConfig, __: Section | None) -> Remains:
    """For an agent that leaves nothing."""
    return NOTHING


def no_verbs(_: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """For an agent whose commands all stand below its noun."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent, as its package declares it. `load` imports the heavy part only when it is run.

    `section` is its key in the configuration, `noun` its name on the command line. `commands` adds
    the subcommands of its noun (`nodeshare <noun> <verb>`); each sets `run=` to a function of the
    parsed arguments that returns an exit code. `verbs` adds commands that stand without the noun
    (`nodeshare <verb>`). `refuse_change` says why a changed section needs a
    restart (None: it can be applied while running); the runtime asks it before it publishes the
    change. `tables` turns a status document into what people see in a terminal, `panels` into what
    they see on the node page (None: the tables). `clear` is the command (words
    after `nodeshare`; `--config FILE` is added) that takes away what outlives a stopped agent.
    `explain` says what a section would do on this machine, or on a described one. `remains` says
    what of it is on this machine when it does not run (None: its section is not configured).
    """

    section: str
    noun: str
    model: type[Section]
    load: Callable[[], Callable[[AgentContext], Awaitable[None]]]
    commands: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None]
    refuse_change: Callable[[Section, Section], str | None]
    tables: Callable[[Status], Sequence[Table]] = no_tables
    panels: Callable[[Status], Sequence[Panel]] | None = None
    clear: Sequence[str] = ()
    explain: Callable[[NodeConfig, Section, str | None], Report] = no_explanation
    verbs: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None] = no_verbs
    remains: Callable[[NodeConfig, Section | None], Remains] = no_remains


def models(agents: Iterable[Agent]) -> dict[str, type[Section]]:
    """The section models of these agents, by section name."""
    return {agent.section: agent.model for agent in agents}


def installed() -> tuple[Agent, ...]:
    """All agents of this installation, by section name."""
    found = [entry.load() for entry in entry_points(group="nodeshare.agents")]
    return tuple(sorted(found, key=lambda agent: agent.section))
