# SPDX-License-Identifier: Apache-2.0
"""Keeps the node object in step with an agent: its start-up taint goes once it is ready, and its
annotations and labels say what it knows. Only with API access; nothing waits for this.

Level-triggered: read the node, compare, patch what differs. Nothing is remembered of what was
written, so that a node object that was made anew gets everything again. Every patch tests what it
takes away: a concurrent edit of somebody else is never lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio
from prometheus_client import Counter

from agents.agent import Readiness
from agents.errors import AgentError
from agents.kube import Cluster, Conflict, NodeState, Operation
from agents.logs import get_logger
from agents.published import Published
from agents.threads import Worker

#: So many conflicts in a row are no coincidence.
_CONFLICTS = 3

#: Wanted annotations (or labels) of the node; None: it must not be there.
Annotations = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `rest_s` is the least time between two writes, `look_s` how often the node is read
    when nothing has changed here, `limit_s` how long one look may take in all.
    """

    tick_s: float = 1.0
    rest_s: float = 10.0
    look_s: float = 300.0
    limit_s: float = 30.0
    first_pause_s: float = 2.0
    longest_pause_s: float = 300.0


def operations(
    node: NodeState, taint: str | None, annotations: Annotations, labels: Annotations
) -> list[Operation]:
    """What has to change in the node, as one JSON patch; empty: nothing. `taint` is the key of the
    taint that has to go (None: none has to).
    """
    found: list[Operation] = []
    # From the end: each removal shifts those behind it.
    for index in reversed(range(len(node.taints))):
        if taint is not None and node.taints[index].get("key") == taint:
            path = f"/spec/taints/{index}"
            found += [
                {"op": "test", "path": path, "value": dict(node.taints[index])},
                {"op": "remove", "path": path},
            ]
    for place, known, wanted in (
        ("/metadata/annotations", node.annotations, annotations),
        ("/metadata/labels", node.labels, labels),
    ):
        changes = _changes(place, known or {}, wanted)
        if changes and known is None:
            # There is no map to add to; one that somebody makes meanwhile must not be replaced.
            version = {"path": "/metadata/resourceVersion", "value": node.resource_version}
            found += [{"op": "test", **version}, {"op": "add", "path": place, "value": {}}]
        found += changes
    return found


def _changes(place: str, known: Mapping[str, str], wanted: Annotations) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for key, value in wanted.items():
        path = f"{place}/{_escaped(key)}"
        if value is None and key in known:
            found.append({"op": "remove", "path": path})
        elif value is not None and known.get(key) != value:
            found.append({"op": "add", "path": path, "value": value})
    return found


def _escaped(key: str) -> str:
    """A map key in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


class NodeKeeper:
    """One agent's part of the node object. `problem` says why it is out of date (None: it is
    not, as far as known).
    """

    def __init__(
        self,
        node: str,
        taint: str | None,
        *,
        connect: Callable[[], Cluster],
        readiness: Readiness,
        annotations: Published[Annotations],
        labels: Published[Annotations],
        errors: Counter,
        timing: Timing | None = None,
    ) -> None:
        self._node, self._taint = node, taint
        self._connect = connect
        self._cluster: Cluster | None = None
        self._readiness, self._annotations, self._labels = readiness, annotations, labels
        self._errors = errors
        self._timing = timing or Timing()
        self._worker = Worker("the API server")
        self._done: tuple[bool, Annotations, Annotations] | None = None
        self._conflicts = 0
        self.problem: str | None = None
        self._log = get_logger()

    async def run(self) -> None:
        """Until cancelled. Waits before every attempt, ever longer while they fail."""
        timing = self._timing
        pause_s = timing.first_pause_s
        looked = -timing.look_s
        while True:
            await trio.sleep(timing.tick_s)
            ready = self._readiness.reason is None
            wanted = (ready, self._annotations.value, self._labels.value)
            if wanted == self._done and trio.current_time() - looked < timing.look_s:
                continue
            if await self._attempt(*wanted):
                looked, self._done = trio.current_time(), wanted
                pause_s = timing.first_pause_s
                await trio.sleep(timing.rest_s)
            else:
                # Agents of many nodes shall not come back to a recovering server all at once.
                await trio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 -- no secret
                pause_s = min(2 * pause_s, timing.longest_pause_s)

    async def _attempt(self, ready: bool, annotations: Annotations, labels: Annotations) -> bool:
        taint = self._taint if ready else None
        try:
            changed = await self._worker.call(
                lambda: self._bring_up_to_date(taint, annotations, labels),
                timeout_s=self._timing.limit_s,
            )
        except AgentError as error:
            # A conflict is somebody else's write at the same moment: look again. Not for ever.
            self._conflicts = self._conflicts + 1 if isinstance(error, Conflict) else 0
            if self._conflicts not in range(1, _CONFLICTS):
                self._blame(str(error))
            return False
        self._conflicts = 0
        if self.problem is not None:
            self._log.info("node object up to date again")
        self.problem = None
        if any(str(operation["path"]).startswith("/spec/taints") for operation in changed):
            self._log.info("start-up taint removed", taint=self._taint)
        return True

    def _blame(self, problem: str) -> None:
        self._errors.inc()
        if self.problem is None:  # once: it goes on trying, and the text may vary
            self._log.warning("node object not up to date", error=problem)
        self.problem = problem

    def _bring_up_to_date(
        self, taint: str | None, annotations: Annotations, labels: Annotations
    ) -> Sequence[Operation]:
        """In a worker thread, one at a time."""
        if self._cluster is None:
            self._cluster = self._connect()
        changes = operations(self._cluster.node(self._node), taint, annotations, labels)
        if changes:
            self._cluster.patch_node(self._node, changes)
        return changes
