# SPDX-License-Identifier: Apache-2.0
"""Kubernetes Events about pods, told by this agent: what `kubectl describe pod` shows. Only with
API access; whoever tells something never waits.

As clients of Kubernetes do it: one that is told again counts up the Event that is there, and a pod
that has much to tell is held to a rate. What cannot be told in time is dropped and counted: an
Event is a message, and no state of anything. Knows no GPU and no mount.
"""

from __future__ import annotations

import queue
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio
from prometheus_client import Counter

from agents.errors import AgentError
from agents.event_record import EventRecord
from agents.kube import Cluster
from agents.logs import get_logger
from agents.pod_event import PodEvent
from agents.threads import Worker


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A pod may tell `burst` Events at once, and one more every `refill_s`. One of the
    same reason within `same_s` counts up the former. `limit_s` is for one request.
    """

    tick_s: float = 0.5
    limit_s: float = 15.0
    same_s: float = 600.0
    burst: int = 10
    refill_s: float = 30.0
    first_pause_s: float = 2.0
    longest_pause_s: float = 120.0


#: So many wait for the API server at most.
_WAITING = 200

#: Pod, container and reason: what says the same is one Event, with the newest message.
_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Told:
    record: EventRecord
    at: float


class PodEvents:
    """`tell` from any thread; `run` in the event loop."""

    def __init__(
        self,
        node: str,
        component: str,
        *,
        connect: Callable[[], Cluster],
        errors: Counter,
        dropped: Counter,
        timing: Timing | None = None,
    ) -> None:
        self._node, self._component = node, component
        self._connect = connect
        self._cluster: Cluster | None = None
        self._errors, self._dropped = errors, dropped
        self._timing = timing or Timing()
        self._waiting: queue.Queue[PodEvent] = queue.Queue(_WAITING)
        self._told: dict[_Key, _Told] = {}
        self._budget: dict[str, tuple[float, float]] = {}
        self._worker = Worker("the API server (Events)")
        self._failing = False
        self._log = get_logger()

    def tell(self, event: PodEvent) -> None:
        """Soon. An Event needs the pod's name and uid: without them it is dropped."""
        if not (event.namespace and event.pod and event.pod_uid):
            self._dropped.inc()
            return
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self._dropped.inc()

    async def run(self) -> None:
        """Until cancelled."""
        timing, pause_s = self._timing, self._timing.first_pause_s
        while True:
            try:
                event = self._waiting.get_nowait()
            except queue.Empty:
                await trio.sleep(timing.tick_s)
                continue
            if not self._affords(event.pod_uid, trio.current_time()):
                self._dropped.inc()
            elif await self._send(event):
                pause_s = timing.first_pause_s
            else:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, timing.longest_pause_s)

    def _affords(self, pod_uid: str, now: float) -> bool:
        timing = self._timing
        left, since = self._budget.get(pod_uid, (float(timing.burst), now))
        left = min(float(timing.burst), left + (now - since) / timing.refill_s)
        affords = left >= 1
        self._budget[pod_uid] = (left - affords, now)
        full_s = timing.burst * timing.refill_s
        self._budget = {uid: one for uid, one in self._budget.items() if now - one[1] < full_s}
        return affords

    async def _send(self, event: PodEvent) -> bool:
        now = trio.current_time()
        fresh = {k: one for k, one in self._told.items() if now - one.at < self._timing.same_s}
        self._told = fresh
        key = (event.pod_uid, event.container, event.reason)
        former = fresh.get(key)
        try:
            record = await self._worker.call(
                lambda: self._ask(event, former.record if former else None),
                timeout_s=self._timing.limit_s,
            )
        except AgentError as error:
            self._errors.inc()
            self._dropped.inc()
            if not self._failing:  # once: it goes on trying
                self._log.warning("events about pods cannot be told", error=str(error))
            self._failing = True
            return False
        if self._failing:
            self._log.info("events about pods can be told again")
        self._failing = False
        self._told[key] = _Told(record, now)
        return True

    def _ask(self, event: PodEvent, former: EventRecord | None) -> EventRecord:
        """In a worker thread, one at a time."""
        if self._cluster is None:
            self._cluster = self._connect()
        if former is not None:
            again = replace(
                former, message=event.message, count=former.count + 1, last_wall=event.wall
            )
            if self._cluster.count_event(again):
                return again
        name = f"{event.pod[:230].rstrip('.-')}.{secrets.token_hex(8)}"
        record = EventRecord(name, event, event.message, self._node, self._component, 1, event.wall)
        self._cluster.create_event(record)
        return record
