# SPDX-License-Identifier: Apache-2.0
"""What is free in the cluster, asked of Prometheus or read from the nodes' annotations, kept for a
moment. Knows no form and no pod.

Whoever asks waits for `timeout_s` at most, once in `keep_s` seconds for the whole hub, and never
gets an error: what cannot be had is None or old, and the log says so when that changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from nodeshare_hub.availability import Place, Reading
from nodeshare_hub.settings import Availability, Prometheus

#: The recorded maximum over the cluster (deploy/prometheus), its time, and what nodes tell.
_BLOCK = "resource:nodeshare_gpu_largest_free_block_units:max"
_QUERY = """\
{block}{{{matchers}}}
or label_replace(timestamp({block}{{{matchers}}}), "told", "at", "", "")
or label_replace(
  max by (resource, node) (
    nodeshare_gpu_largest_free_block_units{{{matchers}}}
    and on (job, instance, resource) nodeshare_gpu_resource_registered{{{matchers}}} == 1
  ), "told", "node", "", "")"""
#: The node annotation that agents write with API access.
ANNOTATION = "nodeshare/largest-free-block"
#: An answer of thousands of nodes is far smaller.
_MOST_BYTES = 4 << 20

Ask = Callable[[], Awaitable[Reading]]
#: Below the hub's own logger, so that it comes out as the hub's lines do.
_LOG = logging.getLogger("JupyterHub.nodeshare")


class Unanswered(Exception):
    """A source did not tell; the text says why."""


class Kept:
    """The last reading, and one question at a time."""

    def __init__(self, settings: Availability, sources: Mapping[str, Ask]) -> None:
        self._settings, self._sources = settings, sources
        self._last: Reading | None = None
        self._asked = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self._silent = False

    async def reading(self) -> Reading | None:
        """None: nobody ever told. Never raises, and waits `timeout_s` at most."""
        if self._sources and time.monotonic() - self._asked >= self._settings.keep_s:
            if self._asking is None:
                # A task of its own: a browser that goes away must not take the answer along.
                self._asking = asyncio.ensure_future(self._ask())
            await asyncio.wait({self._asking}, timeout=self._settings.timeout_s)
        return self._last

    async def _ask(self) -> None:
        reasons = []
        try:
            for name, ask in self._sources.items():
                try:
                    # Sources have the same limit themselves: this is for one that forgets it.
                    self._last = await asyncio.wait_for(ask(), self._settings.timeout_s + 1)
                except TimeoutError:
                    reasons.append(f"{name}: no answer in {self._settings.timeout_s + 1:g} s")
                except Exception as error:  # noqa: BLE001 -- nothing may keep people from starting
                    reasons.append(f"{name}: {type(error).__name__}: {_brief(error)}")
                else:
                    self._tell(reasons=[])
                    return
            self._tell(reasons)
        finally:
            self._asked, self._asking = time.monotonic(), None

    def _tell(self, reasons: list[str]) -> None:
        if bool(reasons) != self._silent:
            self._silent = bool(reasons)
            if reasons:
                _LOG.warning("what is free is not known: %s", "; ".join(reasons))
            else:
                _LOG.info("what is free is known again")


def kept(settings: Availability) -> Kept:
    """With the sources that are configured, the first that answers counts."""
    sources: dict[str, Ask] = {}
    if (prometheus := settings.prometheus) is not None:
        sources["prometheus"] = lambda: ask_prometheus(prometheus, settings.timeout_s)
    if settings.nodes:
        sources["nodes"] = lambda: ask_nodes(settings.timeout_s)
    return Kept(settings, sources)


def _brief(error: Exception) -> str:
    """An error of the API server has its headers in it, on lines of their own."""
    return " ".join(str(error).split())[:300]


async def ask_prometheus(settings: Prometheus, timeout_s: float) -> Reading:
    """Raises Unanswered, and whatever the client raises."""
    from tornado.httpclient import HTTPRequest
    from tornado.simple_httpclient import SimpleAsyncHTTPClient

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if settings.token_file:
        headers["Authorization"] = f"Bearer {Path(settings.token_file).read_text().strip()}"
    request = HTTPRequest(
        f"{settings.url.rstrip('/')}/api/v1/query",
        method="POST",
        body=urlencode({"query": query(settings.matchers), "timeout": f"{timeout_s:g}s"}),
        headers=headers,
        connect_timeout=timeout_s,
        request_timeout=timeout_s,
        follow_redirects=False,  # the token is for this server alone
        ca_certs=settings.ca_file,
    )
    client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=_MOST_BYTES)
    try:
        answer = await client.fetch(request, raise_error=False)
    finally:
        client.close()
    if answer.code != 200:
        raise Unanswered(f"answered {answer.code} {answer.reason}")
    return from_prometheus(answer.body)


def query(matchers: Mapping[str, str]) -> str:
    """One question for all resources."""
    pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in matchers.items())
    return _QUERY.format(block=_BLOCK, matchers=",".join(pairs))


def from_prometheus(body: bytes) -> Reading:
    """An instant vector. Without recorded series, those of nodes count. Raises Unanswered."""
    try:
        result = json.loads(body)["data"]["result"]
        rows = [
            (dict(one["metric"]), float(one["value"][0]), float(one["value"][1])) for one in result
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Unanswered("what it said is no answer of a Prometheus") from error
    recorded: dict[str, int] = {}
    nodes: dict[str, list[Place]] = {}
    times = []
    for labels, asked, value in rows:
        resource = str(labels.get("resource", ""))
        if not resource or not math.isfinite(value):
            continue
        if labels.get("told") == "at":
            times.append(value)
        elif labels.get("told") == "node":
            nodes.setdefault(resource, []).append(Place(labels.get("node"), int(value)))
            times.append(asked)
        else:
            recorded[resource] = max(int(value), recorded.get(resource, 0))
    places: dict[str, tuple[Place, ...]] = {
        name: (Place(None, block),) for name, block in recorded.items()
    }
    places |= {name: tuple(found) for name, found in nodes.items()}
    return Reading(min(times, default=time.time()), places)


async def ask_nodes(timeout_s: float) -> Reading:
    """Over the hub's own connection to the API server; needs `list` of nodes."""
    from kubespawner.clients import shared_client

    nodes = await shared_client("CoreV1Api").list_node(
        resource_version="0", _request_timeout=timeout_s
    )
    return from_nodes((one.to_dict() for one in nodes.items), time.time())


def from_nodes(nodes: Iterable[Mapping[str, Any]], now: float) -> Reading:
    """Nodes as the API's client has them, in dictionaries. The annotation of an agent that is gone
    stays; the kubelet then takes its units off what can be allocated, which counts here too.
    """
    places: dict[str, list[Place]] = {}
    for node in nodes:
        metadata, status = node["metadata"], node.get("status") or {}
        labels = {str(key): str(value) for key, value in (metadata.get("labels") or {}).items()}
        blocks = _annotated((metadata.get("annotations") or {}).get(ANNOTATION))
        usable = _ready(status) and not (node.get("spec") or {}).get("unschedulable")
        for resource, block in blocks.items():
            offered = _whole((status.get("allocatable") or {}).get(resource))
            free = min(block, offered) if usable else 0
            places.setdefault(resource, []).append(Place(metadata["name"], free, labels))
    return Reading(now, {name: tuple(found) for name, found in places.items()})


def _annotated(text: str | None) -> dict[str, int]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: block for name, block in found.items() if type(block) is int}


def _ready(status: Mapping[str, Any]) -> bool:
    conditions = status.get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _whole(quantity: object) -> int:
    text = str(quantity)
    return int(text) if text.isascii() and text.isdigit() else 0
