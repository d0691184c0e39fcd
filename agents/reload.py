# SPDX-License-Identifier: Apache-2.0
"""A changed configuration file: applied without restart where that is safe, refused with the reason
where not.

A broken file never takes down a running agent: it goes on with what it has, and says so in one log
line and in `nodeshare_agent_config_current`. Knows no section's content.
"""

from __future__ import annotations

from pathlib import Path

import trio
from prometheus_client import CollectorRegistry, Gauge

from agents import config
from agents.agent import Agent
from agents.config import Section
from agents.errors import ConfigError
from agents.logs import configure, get_logger
from agents.watch import watching

_POLL_S = 15.0


class Reloader:
    """Watches the file's directory (a ConfigMap update replaces a symlink there, not the file)."""

    def __init__(
        self,
        agent: Agent,
        models: dict[str, type[Section]],
        path: Path,
        loaded: config.Config,
        registry: CollectorRegistry,
    ) -> None:
        self._agent, self._models, self._path = agent, models, path
        self._node, self._section = loaded.node, loaded.sections.get(agent.section)
        self._seen = loaded.digest
        self._refused = False
        self._log = get_logger()
        self._current = Gauge(
            "nodeshare_agent_config_current",
            "1 if this agent runs what its configuration file says now; 0 if a change was refused.",
            registry=registry,
        )
        self._current.set(1)

    async def run(self, changes: trio.MemorySendChannel[Section]) -> None:
        """Never returns."""
        async with watching([self._path.parent], poll_s=_POLL_S) as wakeups:
            while True:
                await wakeups.wait()
                section = self.look()
                if section is not None:
                    await changes.send(section)

    def look(self) -> Section | None:
        """Read the file; the section to apply, or None when nothing (for this agent) is to be
        applied.
        """
        try:
            text = config.read(self._path)
            if config.digest(text) == self._seen:
                return None  # whatever else is written beside it; taking it apart takes long
            name, only = str(self._path), self._agent.section
            loaded = config.parse(text, self._models, only=only, name=name)
        except ConfigError as error:
            self._refuse(str(error), digest=str(error))
            return None
        self._seen = loaded.digest
        return self._decide(loaded, loaded.sections.get(self._agent.section))

    def _decide(self, loaded: config.Config, section: Section | None) -> Section | None:
        without_log = {"log": self._node.log}
        if loaded.node.model_copy(update=without_log) != self._node:
            self._refuse("the node section changed; restart the agent to apply it")
            return None
        if section != self._section and (reason := self._why_not(section)) is not None:
            self._refuse(reason)
            return None
        if loaded.node.log != self._node.log:
            configure(loaded.node.log, agent=self._agent.section, node=loaded.node.node_name())
        changed = section if section != self._section else None
        if changed is not None or loaded.node.log != self._node.log or self._refused:
            self._log.info(
                "configuration applied", path=str(self._path), changed=changed is not None
            )
        self._node, self._section, self._refused = loaded.node, section, False
        self._current.set(1)
        return changed

    def _why_not(self, section: Section | None) -> str | None:
        """Why this change cannot be applied while running; None: it can."""
        if self._section is None:
            return None
        if section is None:
            return f"the {self._agent.section} section is gone; restart the agent to make it idle"
        return self._agent.refuse_change(self._section, section)

    def _refuse(self, reason: str, *, digest: str | None = None) -> None:
        if digest is not None and digest == self._seen:
            return
        self._seen = digest or self._seen
        self._refused = True
        self._current.set(0)
        self._log.warning(
            "configuration refused",
            path=str(self._path),
            error=reason,
            hint="the agent goes on with the configuration it has",
        )
