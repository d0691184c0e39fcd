# SPDX-License-Identifier: Apache-2.0
"""What the view agent publishes: one JSON-ready row for each running container, and how sweeps go.
Pure."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from typing import Any

from agents.agent import Status
from agents.containers import Container
from lxcfs_helper.config import ViewName
from lxcfs_helper.coverage import Coverage
from lxcfs_helper.covered import Covered, Failure
from lxcfs_helper.facts import HostFacts
from lxcfs_helper.selection import Exclusion
from lxcfs_helper.sweep import Sweep

_WORDS = {
    Exclusion.EXCLUDED_NAMESPACE: "its namespace is excluded",
    Exclusion.NAMESPACE: "its namespace is not selected",
    Exclusion.LABELS: "its pod's labels are not selected",
    Exclusion.POD: "its pod opted out",
}


def status(coverage: Coverage, sweep: Sweep, features: Mapping[str, bool]) -> Status:
    """The whole document. `features`: what of the kernel and the runtime is there and used."""
    covered = [_covered(one, coverage.host_facts) for one in coverage.all() if one.selected]
    left_out = [_plain(one, f"excluded: {_WORDS[why]}") for one, why in coverage.excluded()]
    failed = [_plain(one, f"failed: {reason}") for one, reason in coverage.unlocated()]
    why_not = Tally(why.value for _, why in coverage.excluded())
    failures = Tally(failure.value for one in coverage.all() for failure in _failures(one))
    failures[Failure.LOCATE.value] = len(failed)
    rows = sorted(
        [*covered, *left_out, *failed],
        key=lambda row: (row["namespace"], row["pod"], row["container"]),
    )
    return {
        "containers": rows,
        "host": _host(coverage.host_facts),
        "sweep": {
            "containers": sweep.containers,
            "rendered": sweep.rendered,
            "seconds": sweep.duration_s,
            "oldest_seconds": sweep.oldest_s,
        },
        "excluded": dict(why_not),
        "failed": dict(failures),
        "unknown": _unknown(coverage),
        "read": coverage.read(),
        "features": dict(features),
    }


def _host(host: HostFacts | None) -> dict[str, int]:
    """What a container without limits would see; empty before the first look."""
    return {} if host is None else {"cpus": len(host.cpus), "memory": host.memory_bytes}


def _failures(one: Covered) -> Iterator[Failure]:
    if one.failure is not None:
        yield one.failure
    if one.not_attached:
        yield Failure.ATTACH


def _unknown(coverage: Coverage) -> dict[str, dict[str, int]]:
    """How many containers are shown zero or nothing for a value, by view and value."""
    found: dict[str, Tally[str]] = {}
    for one in coverage.all():
        for name, values in one.unknown.items():
            found.setdefault(name.value, Tally()).update(values)
    return {name: dict(values) for name, values in found.items() if values}


def _covered(one: Covered, host: HostFacts | None) -> dict[str, Any]:
    facts = one.facts
    if facts is None or host is None:
        return _row(one.located.container, None, None, None, one.views())
    limit = facts.limits.memory
    memory_limit = host.memory_bytes if limit is None else min(limit.value, host.memory_bytes)
    cpus = facts.limits.cpu_count(host.cpus)
    return _row(one.located.container, cpus, memory_limit, facts.memory.used, one.views())


def _plain(container: Container, state: str) -> dict[str, Any]:
    return _row(
        container, None, None, None, dict.fromkeys((name.value for name in ViewName), state)
    )


def _row(
    container: Container,
    cpus: int | None,
    memory_limit: int | None,
    memory_used: int | None,
    views: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "namespace": container.pod.namespace,
        "pod": container.pod.name,
        "container": container.name,
        "id": container.id,
        "cpus": cpus,
        "memory_limit": memory_limit,
        "memory_used": memory_used,
        "views": dict(views),
    }
