# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes Lease (coordination.k8s.io/v1), held by one node at a time, for work that only one
may do. Decides who holds it; asks the API server through `kube`.

Needs get, create and update of leases in the namespace of the pod.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from agents.errors import AgentError, Unavailable
from agents.kube import Conflict

#: Without being renewed for longer it is nobody's.
DURATION_S = 900
_RENEW_S = 60.0
_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


class Leases(Protocol):
    """Blocking; all raise Unavailable. A lease is the JSON that the API server has."""

    def lease(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """None: there is none of this name."""

    def put_lease(self, namespace: str, name: str, lease: Mapping[str, Any]) -> Mapping[str, Any]:
        """A new one when it has no `resourceVersion`; as it is then. Raises Conflict when another
        was quicker.
        """


@contextmanager
def held(
    leases: Leases, name: str, holder: str, wall: Callable[[], float] = time.time
) -> Iterator[Callable[[], None]]:
    """Yields what renews it: call it often. Both raise Unavailable, or AgentError when somebody
    else holds it.
    """
    one = _Lease(leases, own_namespace(), name, holder, wall)
    one.take()
    try:
        yield one.renew
    finally:
        one.leave()


def own_namespace() -> str:
    """Of the pod we run in."""
    return os.environ.get("POD_NAMESPACE") or "default"  # noqa: TID251 -- identity alone


class _Lease:
    def __init__(
        self, leases: Leases, namespace: str, name: str, holder: str, wall: Callable[[], float]
    ) -> None:
        self._leases, self._namespace, self._name = leases, namespace, name
        self._holder, self._wall = holder, wall
        self._current: Mapping[str, Any] = {}
        self._at = 0.0

    def take(self) -> None:
        found = self._leases.lease(self._namespace, self._name)
        spec = {} if found is None else dict(found.get("spec") or {})
        other = spec.get("holderIdentity")
        if other and other != self._holder and self._wall() - _renewed(spec) < DURATION_S:
            raise self._taken(str(other))
        meta = {"name": self._name, "namespace": self._namespace}
        version = ((found or {}).get("metadata") or {}).get("resourceVersion")
        self._put(meta if version is None else {**meta, "resourceVersion": version}, self._holder)

    def renew(self) -> None:
        """Does something once a minute."""
        if time.monotonic() - self._at >= _RENEW_S:
            self._put(self._current["metadata"], self._holder)

    def leave(self) -> None:
        """What cannot be given back ends by itself."""
        with contextlib.suppress(AgentError):
            self._put(self._current["metadata"], None)

    def _put(self, metadata: Mapping[str, Any], holder: str | None) -> None:
        self._at = time.monotonic()
        now = datetime.fromtimestamp(self._wall(), UTC).strftime(_FORMAT)
        spec = {"leaseDurationSeconds": DURATION_S, "renewTime": now}
        document = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {**spec, "holderIdentity": holder} if holder else spec,
        }
        try:
            self._current = self._leases.put_lease(self._namespace, self._name, document)
        except Conflict as error:
            raise self._taken("another node") from error

    def _taken(self, by: str) -> AgentError:
        return Unavailable(
            f"{by} holds the lease {self._namespace}/{self._name}",
            remedy="one at a time: wait until it is done",
        )


def _renewed(spec: Mapping[str, Any]) -> float:
    """Seconds of the epoch; of one that says nothing, long ago."""
    try:
        text = str(spec.get("renewTime")).replace("Z", "+00:00")
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
