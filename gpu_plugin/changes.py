# SPDX-License-Identifier: Apache-2.0
"""What is new between two plans or two states, as log lines: a steady agent is silent. Decides
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agents.logs import Logger
from gpu_plugin.resources import Plan


def say(log: Logger, before: Plan, now: Plan) -> None:
    """New problems; devices that came, went, or changed their health."""
    known = {problem.text for problem in before.problems}
    for problem in now.problems:
        if problem.text not in known:
            log.warning("resource problem", resource=problem.resource, error=problem.text)
    _say_devices(log, before, now)


def say_others(log: Logger, before: Collection[str], now: Collection[str], plan: Plan) -> None:
    """New problems of a state that are in no plan: of a GPU that nobody serves, of device nodes."""
    known = {*before, *(problem.text for problem in plan.problems)}
    for text in now:
        if text not in known:
            log.warning("problem", error=text)


def say_unheard(log: Logger, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """GPUs whose XID events nobody hears any more, and those of which they are heard again."""
    for uuid in now.keys() - before.keys():
        log.warning("events not heard", device_id=uuid, error=now[uuid])
    for uuid in before.keys() - now.keys():
        log.info("events heard", device_id=uuid)


def _say_devices(log: Logger, before: Plan, now: Plan) -> None:
    former, current = _health(before), _health(now)
    for uuid, resource in now.serving.items():
        unhealthy = current[uuid]
        if unhealthy is not None and former.get(uuid) is None:
            log.warning("device unhealthy", resource=resource, device_id=uuid, error=unhealthy)
        elif uuid not in former:
            log.info("device served", resource=resource, device_id=uuid)
        elif unhealthy is None and former[uuid] is not None:
            log.info("device healthy again", resource=resource, device_id=uuid)
    for uuid in former.keys() - current.keys():
        log.info("device gone", resource=before.serving[uuid], device_id=uuid)


def _health(plan: Plan) -> dict[str, str | None]:
    return {
        served.device.uuid: served.unhealthy
        for resource in plan.resources
        for served in resource.devices
    }
