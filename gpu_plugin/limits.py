# SPDX-License-Identifier: Apache-2.0
"""What a container may have of each device: request, limit, guarantee. Pure; knows the rules and
what the pod says, not what is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from agents.config import parse_size, shown
from gpu_plugin.accounting import GpuContainer, Grant
from gpu_plugin.config import ResourceRule
from gpu_plugin.enforcement_config import Policy
from gpu_plugin.resources import size_text
from gpu_plugin.verdicts import Limits

#: Kubernetes' own way to write a size (`12Gi`), which people know from `resources`.
_QUANTITY = re.compile(r"\d+(\.\d+)?[KMGT]i")
#: Of a container on a device that it was given nothing of.
NOTHING = Limits(request=0, limit=0, guarantee=0, source="it was given nothing of this device")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What one rule gives a container on all its devices together, before any cap; None: no more
    than the request.
    """

    limit: int | None
    source: str
    problem: str | None = None


def limits_of(
    container: GpuContainer,
    rules: Mapping[str, ResourceRule],
    usable: Mapping[str, int],
    *,
    told: bool = True,
) -> dict[str, Limits]:
    """By device, of those that it was given and of those that it uses uninvited.

    `rules` are by resource name; a resource that no rule knows any more is limited to its request.
    `usable` is the memory of a device that programs can have, in bytes. `told` False: the pod's
    annotations cannot be read at present, so any that the rules allow may be there.
    """
    found: dict[str, Limits] = {}
    for rule, grants in _by_rule(container.grants, rules):
        wish = _wish(container, rule, sum(grant.request for grant in grants), told=told)
        for grant in _on_one_device(grants):
            limits = _limits(grant, rule, wish, sum(one.request for one in grants), usable)
            before = found.get(grant.device)
            found[grant.device] = limits if before is None else _sum(before, limits)
    return found | {use.device: NOTHING for use in container.uses if use.device not in found}


def _by_rule(
    grants: Iterable[Grant], rules: Mapping[str, ResourceRule]
) -> list[tuple[ResourceRule | None, list[Grant]]]:
    """Size classes of one rule are one, because their blocks lie on the same devices."""
    found: dict[str | None, tuple[ResourceRule | None, list[Grant]]] = {}
    for grant in grants:
        rule = rules.get(grant.resource)
        found.setdefault(None if rule is None else rule.name, (rule, []))[1].append(grant)
    return list(found.values())


def _on_one_device(grants: Iterable[Grant]) -> list[Grant]:
    """One for each device, with all that was given of it."""
    found: dict[str, Grant] = {}
    for grant in grants:
        before = found.get(grant.device)
        request = grant.request + (before.request if before else 0)
        found[grant.device] = replace(grant, request=request)
    return list(found.values())


def _wish(container: GpuContainer, rule: ResourceRule | None, request: int, *, told: bool) -> _Wish:
    if rule is None:
        return _Wish(None, "the request: no rule offers this resource any more")
    ratio = f"max_ratio {rule.limit.max_ratio:g}"
    most = math.floor(request * Fraction(str(rule.limit.max_ratio)))
    problem = None
    if rule.limit.annotation is not None:
        if not told:
            return _Wish(most, f"{ratio}, while the annotations of its pod cannot be read")
        written = _written(container, rule.limit.annotation)
        problem = _addressed_to_nobody(container, rule.limit.annotation)
        if written is not None:
            wish = _annotated(*written, request, most, ratio)
            return replace(wish, problem=_both(wish.problem, problem))
    if rule.limit.policy is Policy.BURST:
        return _Wish(most, f"the policy burst, {ratio}", problem)
    return _Wish(None, "the request", problem)


def _written(container: GpuContainer, key: str) -> tuple[str, str] | None:
    """The annotation that counts, and its value: the container's own before the pod's."""
    if container.names is None:
        return None
    annotations = container.names.annotations
    for name in (f"{key}.{container.names.container}", key):
        if name in annotations:
            return name, annotations[name]
    return None


def _addressed_to_nobody(container: GpuContainer, key: str) -> str | None:
    """An annotation for a container that its pod has not: it may be meant for this one, unless this
    one has its own.
    """
    names = container.names
    if names is None or not names.siblings or f"{key}.{names.container}" in names.annotations:
        return None
    for name in sorted(names.annotations):
        if name.startswith(f"{key}.") and name.removeprefix(f"{key}.") not in names.siblings:
            has = ", ".join(sorted(names.siblings))
            return f"annotation {name} speaks of no container that this pod has now ({has})"
    return None


def _annotated(name: str, value: str, request: int, most: int, ratio: str) -> _Wish:
    """What a pod wrote; nonsense leaves the request in force."""
    source = f"the annotation {name}"
    try:
        wanted = int(str(parse_size(_as_size(value.strip()))))
    except ValueError as error:
        problem = f"annotation {name}: {error}; the limit is the request, {size_text(request)}"
        return _Wish(None, "the request", problem)
    if wanted < request:
        problem = (
            f"annotation {name}: {shown(value)} is less than the request, {size_text(request)}, "
            "which is the limit now; ask for fewer units instead"
        )
        return _Wish(None, "the request", problem)
    if wanted > most:
        problem = (
            f"annotation {name}: {shown(value)} is more than this node allows, "
            f"{size_text(most)} ({ratio}), which is the limit now"
        )
        return _Wish(most, ratio, problem)
    return _Wish(wanted, source)


def _as_size(value: str) -> str:
    return f"{value}B" if _QUANTITY.fullmatch(value) else value


def _limits(
    grant: Grant, rule: ResourceRule | None, wish: _Wish, total: int, usable: Mapping[str, int]
) -> Limits:
    """On one device; `total` is the request on all devices that the wish is for."""
    request, room = grant.request, usable.get(grant.device)
    if rule is not None and rule.exclusive and (room is None or request >= room):
        return Limits(request, None, request, "the whole device is its own")
    limit, source, problem = request, wish.source, wish.problem
    if wish.limit is not None and total:
        limit = max(request, wish.limit * request // total)
    kept = 0 if rule is None else rule.reserved
    if room is not None and limit > max(request, room - kept):
        limit = max(request, room - kept)
        source = f"{source}, as far as the device goes"
    overcommit = 1.0 if rule is None else max(1.0, rule.overcommit)
    guarantee = math.floor(request / Fraction(str(overcommit)))
    return Limits(request, limit, guarantee, source, problem)


def _sum(one: Limits, other: Limits) -> Limits:
    """Of grants of two rules on one device."""
    return Limits(
        request=one.request + other.request,
        limit=None if one.limit is None or other.limit is None else one.limit + other.limit,
        guarantee=one.guarantee + other.guarantee,
        source=one.source if one.source == other.source else f"{one.source}; {other.source}",
        problem=_both(one.problem, other.problem),
    )


def _both(one: str | None, other: str | None) -> str | None:
    return "; ".join(text for text in (one, other) if text is not None) or None
