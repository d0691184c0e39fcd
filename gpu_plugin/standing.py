# SPDX-License-Identifier: Apache-2.0
"""What is told of a container on a device after a look at it: the verdict. Pure."""

from __future__ import annotations

from dataclasses import replace

from gpu_plugin import consequences
from gpu_plugin.enforcement_cases import Case, Row
from gpu_plugin.enforcement_config import EnforcementConfig
from gpu_plugin.verdicts import Backend, Standing, Verdict


def verdict_of(
    row: Row, case: Case | None, config: EnforcementConfig, *, pressure: bool
) -> Verdict:
    """`case` is the one that is open about it (None: none is)."""
    backend = Backend.NONE if row.limits.limit is None else row.backend
    return Verdict(
        container=row.key,
        device=row.device,
        limits=row.limits,
        used=row.used,
        known=row.known,
        standing=_standing(row, case),
        backend=backend,
        at_limit=consequences.at_limit(row.limits, backend, config),
        pressure=pressure,
        grace_left_s=_grace_left_s(case, config),
        note=row.doubt,
    )


def _standing(row: Row, case: Case | None) -> Standing:
    if row.doubt is not None:
        return Standing.UNKNOWN
    if case is not None and case.marks:
        return Standing.TERMINATING
    if case is not None and case.warned and (case.over or case.pressed):
        return Standing.WARNED
    if row.uninvited:
        return Standing.UNINVITED
    return _by_memory(row)


def _by_memory(row: Row) -> Standing:
    if row.over_limit:
        return Standing.OVER_LIMIT
    if row.limits.bursts and row.above_request:
        return Standing.ABOVE_REQUEST
    return Standing.UNKNOWN if row.used is None else Standing.BELOW


def unthreatened(verdict: Verdict) -> Verdict:
    """The same where nothing is going to be done about it."""
    if verdict.standing not in (Standing.WARNED, Standing.TERMINATING):
        return replace(verdict, grace_left_s=None)
    standing = Standing.OVER_LIMIT if verdict.over else Standing.ABOVE_REQUEST
    if not verdict.limits.request:
        standing = Standing.UNINVITED
    return replace(verdict, standing=standing, grace_left_s=None)


def _grace_left_s(case: Case | None, config: EnforcementConfig) -> float | None:
    if case is None or case.marks:
        return None  # there is none left
    left = []
    if case.over:
        left.append(config.grace - case.over_s)
    if case.pressed:
        left.append(config.pressure_grace - case.pressed_s)
    return max(0.0, min(left)) if left else None
