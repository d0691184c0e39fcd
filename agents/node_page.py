# SPDX-License-Identifier: Apache-2.0
"""The page at `/`: of one agent, from what it publishes, and of all agents of a node, from what was
last read of each. Says how old that is when nothing new comes. Knows no agent's content.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents.agent import Agent, Status
from agents.listeners import Answer, Request, Route
from agents.page import POLICY, Source, render, trouble
from agents.panels import Panel, of_tables
from agents.tables import text

#: What is older is told with its age.
OLD_S = 10.0


def panels_of(agent: Agent, document: Status) -> Sequence[Panel]:
    """What an agent shows of its document; one that cannot be shown hides nothing else."""
    try:
        panels = agent.panels
        return of_tables(agent.tables(document)) if panels is None else [*panels(document)]
    except Exception as error:  # noqa: BLE001 -- an agent of another version answers otherwise
        return [trouble(error)]


def source(agent: Agent, document: Status, *, age_s: float, problem: str | None = None) -> Source:
    """One agent on the page. `problem`: why it does not answer now."""
    old = problem is not None or age_s > OLD_S
    reason = None if document.get("ready") else text(document.get("reason"))
    facts = [(key, text(document.get(key))) for key in ("version", "metrics") if document.get(key)]
    panels = panels_of(agent, document)
    return Source(agent.section, problem or reason, panels, facts, age_s if old else None)


def answer(request: Request, node: str, what: str, sources: Sequence[Source]) -> Answer:
    """The page as a route returns it; compressed where that may be: much of it is alike."""
    body, encoding = render(node, what, sources, time.time()).encode(), None
    if "gzip" in request.accept_encoding:
        body, encoding = gzip.compress(body, compresslevel=1), "gzip"
    return Answer(body, "text/html; charset=utf-8", policy=POLICY, encoding=encoding)


@dataclass(frozen=True, slots=True)
class _Known:
    """The last document of an agent, and when (monotonic) it was read; `problem` since then."""

    document: Mapping[str, Any] | None
    at: float
    problem: str | None


class NodePage:
    """Of all agents of a node. `saw` and `more` come from one thread, requests from others."""

    def __init__(self, node: str, agents: Sequence[Agent]) -> None:
        self._node, self._agents = node, sorted(agents, key=lambda agent: agent.noun)
        self._known = {agent.section: _Known(None, 0.0, "starting") for agent in agents}
        self._more: Sequence[Source] = ()
        self._changing = threading.Lock()

    def saw(self, section: str, document: Mapping[str, Any] | None, problem: str) -> None:
        """A look at one agent: its document, or why there is none."""
        now = time.monotonic()
        with self._changing:
            if document is not None:
                self._known[section] = _Known(document, now, None)
            else:
                self._known[section] = replace(self._known[section], problem=problem)

    def add(self, *more: Source) -> None:
        """What is shown beside the agents, from now on."""
        with self._changing:
            self._more = more

    def routes(self) -> dict[str, Route]:
        """For a listener."""
        return {"/": self._answer, "/status.json": self._as_json}

    def _as_json(self, _: Request) -> Answer:
        with self._changing:
            known = {section: one.document for section, one in self._known.items()}
        return Answer(json.dumps(known, indent=1).encode() + b"\n", "application/json")

    def _answer(self, request: Request) -> Answer:
        with self._changing:
            known, more = dict(self._known), self._more
        sources = [self._source(agent, known[agent.section]) for agent in self._agents]
        return answer(request, self._node, "nodeshare", [*sources, *more])

    def _source(self, agent: Agent, known: _Known) -> Source:
        if known.document is None:
            return Source(agent.section, known.problem, ())
        age_s = time.monotonic() - known.at
        return source(agent, known.document, age_s=age_s, problem=known.problem)
