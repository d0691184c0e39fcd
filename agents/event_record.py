# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes Event as the API server has it. Pure; knows no connection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agents.pod_event import PodEvent

#: Longer messages are refused.
_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An Event as the API server has it: first told at `event.wall`, last at `last_wall` with
    `message`, so many times. `name` is that of the object; `component` says who tells it.
    """

    name: str
    event: PodEvent
    message: str
    node: str
    component: str
    count: int
    last_wall: float

    def document(self) -> dict[str, Any]:
        """`core/v1`: what kubectl and KubeSpawner read."""
        event = self.event
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": event.namespace},
            "involvedObject": _involved(event),
            "type": "Normal" if event.normal else "Warning",
            "reason": event.reason,
            "message": self.message[:_MESSAGE],
            "count": self.count,
            "firstTimestamp": _timestamp(event.wall),
            "lastTimestamp": _timestamp(self.last_wall),
            "source": {"component": self.component, "host": self.node},
            "reportingComponent": self.component,
            "reportingInstance": self.node,
        }

    def news(self) -> dict[str, Any]:
        """What changes in it when it is told again, as a merge patch."""
        return {
            "count": self.count,
            "lastTimestamp": _timestamp(self.last_wall),
            "message": self.message[:_MESSAGE],
        }


def _involved(event: PodEvent) -> dict[str, str]:
    if event.about_node:
        return {"apiVersion": "v1", "kind": "Node", "name": event.pod, "uid": event.pod_uid}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": event.namespace,
        "name": event.pod,
        "uid": event.pod_uid,
        "fieldPath": f"spec.containers{{{event.container}}}",
    }


def _timestamp(wall: float) -> str:
    return datetime.fromtimestamp(int(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
