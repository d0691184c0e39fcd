# SPDX-License-Identifier: Apache-2.0
"""What an agent answers over HTTP: metrics and health for the cluster, status for this node alone.

*Metrics* (`/metrics`, `/healthz`, `/readyz`) is reachable by Prometheus. *Status* (`/`,
`/status.json`) names everybody's pods. Every answer is made from published snapshots. Knows no
agent's content, and no socket.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agents.agent import Agent, Readiness, Status
from agents.exposition import joined
from agents.listeners import Answer, Request, Route
from agents.node_page import answer, source
from agents.published import Published

#: The event loop counts as dead when it has not beaten for this long.
HEARTBEAT_LIMIT_S = 10.0


class Heartbeat:
    """When the event loop last ran."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def beat(self) -> None:
        self._at = time.monotonic()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._at


def metrics_routes(
    registry: CollectorRegistry,
    heartbeat: Heartbeat,
    readiness: Readiness,
    more: Published[str] | None = None,
) -> dict[str, Route]:
    """For Prometheus and the kubelet's probes. `more` are families as text (`exposition`), which
    a collector of the registry brings up to date.
    """

    def metrics(request: Request) -> Answer:
        encode, content_type = choose_encoder(request.accept)
        body = encode(registry)
        return Answer(body if more is None else joined(body, more.value), content_type)

    def healthz(_: Request) -> Answer:
        if heartbeat.age_s < HEARTBEAT_LIMIT_S:
            return Answer(b"ok\n")
        text = f"event loop has not run for {heartbeat.age_s:.0f} s\n"
        return Answer(text.encode(), code=HTTPStatus.SERVICE_UNAVAILABLE)

    def readyz(_: Request) -> Answer:
        reason = readiness.reason
        if reason is None:
            return Answer(b"ready\n")
        return Answer(f"not ready: {reason}\n".encode(), code=HTTPStatus.SERVICE_UNAVAILABLE)

    return {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}


def status_routes(
    agent: Agent,
    identity: Mapping[str, str],
    readiness: Readiness,
    status: Published[Status],
    heartbeat: Heartbeat,
) -> dict[str, Route]:
    """For people and `nodeshare status`."""

    def document() -> dict[str, object]:
        reason = readiness.reason
        return {**identity, "ready": reason is None, "reason": reason, **status.value}

    def as_json(_: Request) -> Answer:
        return Answer(json.dumps(document(), indent=1).encode() + b"\n", "application/json")

    def page(request: Request) -> Answer:
        shown = source(agent, document(), age_s=heartbeat.age_s)
        return answer(request, identity["node"], f"nodeshare {agent.section}", [shown])

    return {"/status.json": as_json, "/": page}
