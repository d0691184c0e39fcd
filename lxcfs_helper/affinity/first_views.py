# SPDX-License-Identifier: Apache-2.0
"""Containers that the OCI runtime itself tells of: covered at once, and answered.

For the event loop. The connection with its calls is the first that is heard of a container, before
its program is started, which waits until its views are attached (`affinity.loop`). Knows no call,
and of a view only whether all are attached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Collection
from dataclasses import replace
from typing import Protocol

from agents.containers import Container, Pod, Pods
from agents.errors import Unavailable
from agents.seccomp_connection import Arrival
from agents.threads import Worker
from lxcfs_helper.affinity.pods import Told, told
from lxcfs_helper.affinity.tally import Outcome
from lxcfs_helper.affinity.values import Terms

#: A program waits meanwhile: what the pod says of itself is then not known until it is listed.
_RUNTIME_LIMIT_S = 0.3
_MOST_PODS = 1024


class Covers(Protocol):
    """Takes containers in; see `affinity.covering`."""

    def cover(self, container: Container) -> Terms | None: ...
    def terms(self, container_id: str) -> Terms | None: ...
    def attach(self, container_id: str) -> Awaitable[bool]: ...


class Answers(Protocol):
    """Takes how containers stand, from any thread; see `affinity.loop`."""

    def tell(self, container_id: str, terms: Terms | None) -> None: ...
    def hold(self, container_id: str) -> None: ...
    def let_go(self, container_id: str, outcome: Outcome) -> None: ...


class FirstViews:
    """`pods` None: nobody can be asked about pods."""

    def __init__(self, answers: Answers, covers: Covers, pods: Pods | None) -> None:
        self._answers, self._covers, self._pods = answers, covers, pods
        self._runtime = Worker("the container runtime, about a pod")
        self._known: OrderedDict[str, Pod] = OrderedDict()
        #: How calls of each container are answered.
        self._told: dict[str, Terms | None] = {}

    async def take(self, arrival: Arrival) -> None:
        """One descriptor: of a new container, of a process that is executed in one, or, after a
        start of ours, of one that ran before."""
        container_id, outcome = arrival.state.container_id, Outcome.FAILED
        try:
            outcome = await self._take(told(arrival.state))
        finally:
            self._answers.let_go(container_id, outcome)

    def forget(self, container_id: str) -> None:
        """Nobody in it can call any more."""
        self._told.pop(container_id, None)

    def look(self) -> None:
        """Who is left out, and who not, may be different now."""
        for container_id in [*self._told]:
            self._tell(container_id)

    def attaching(self, container_id: str) -> None:
        """Something is to be put right in this container: its programs wait until it is."""
        if container_id in self._told:
            self._answers.hold(container_id)

    def attached(self, container_id: str, *, complete: bool) -> None:
        """It was, as far as it can be."""
        if container_id in self._told:
            outcome = Outcome.ATTACHED if complete else Outcome.FAILED
            self._answers.let_go(container_id, outcome)

    def answered(self) -> Collection[str]:
        """The containers whose calls are answered."""
        return [container_id for container_id, terms in self._told.items() if terms is not None]

    async def _take(self, told: Told) -> Outcome:
        container_id = told.container.id
        if told.is_sandbox or not container_id:
            return Outcome.EXCLUDED
        # Also when it is known: an id may be started again.
        terms = self._covers.cover(await self._with_pod(told))
        self._tell(container_id)
        if terms is None:
            return Outcome.EXCLUDED
        complete = await self._covers.attach(container_id)
        return Outcome.ATTACHED if complete else Outcome.FAILED

    def _tell(self, container_id: str) -> None:
        terms = self._covers.terms(container_id)
        if container_id not in self._told or self._told[container_id] != terms:
            self._told[container_id] = terms
            self._answers.tell(container_id, terms)

    async def _with_pod(self, told: Told) -> Container:
        """With the labels and annotations of its pod, which the state of a container lacks."""
        pod = self._known.get(told.sandbox_id or "")
        if pod is None and self._pods is not None and told.sandbox_id is not None:
            pod = await self._ask(self._pods, told.sandbox_id)
        return told.container if pod is None else replace(told.container, pod=pod)

    async def _ask(self, pods: Pods, sandbox_id: str) -> Pod | None:
        try:
            pod = await self._runtime.call(lambda: pods.pod(sandbox_id), timeout_s=_RUNTIME_LIMIT_S)
        except Unavailable:
            return None
        if pod is not None:
            self._known[sandbox_id] = pod
            if len(self._known) > _MOST_PODS:
                self._known.popitem(last=False)
        return pod
