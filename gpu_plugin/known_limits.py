# SPDX-License-Identifier: Apache-2.0
"""The limits of all containers of a scan, worked out once for each as long as nothing about it
changes. Decides nothing: `limits` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gpu_plugin import limits
from gpu_plugin.accounting import Accounting, ContainerKey, ContainerNames, GpuContainer, Grant
from gpu_plugin.config import ResourceRule
from gpu_plugin.verdicts import Limits


@dataclass(frozen=True, slots=True)
class _Found:
    """`names` as they are known; `made_from` is all that the limits follow from."""

    names: ContainerNames | None
    made_from: tuple[object, ...]
    limits: Mapping[str, Limits]


class KnownLimits:
    """`usable` is the memory of devices that programs can have, in bytes. `runtime` is the socket
    of the runtime that knows annotations: without it there are none to be known.
    """

    def __init__(
        self,
        rules: Iterable[ResourceRule],
        usable: Callable[[], Mapping[str, int]],
        runtime: Path,
    ) -> None:
        self._rules = {name: rule for rule in rules for name in rule.sizes}
        self._usable, self._runtime = usable, runtime
        self._found: dict[ContainerKey, _Found] = {}

    def of(self, accounting: Accounting) -> Mapping[ContainerKey, Mapping[str, Limits]]:
        """By container and device."""
        usable, expected = self._usable(), self._runtime.exists()
        self._found = {
            container.key: self._one(container, usable, expected=expected)
            for container in accounting.containers
        }
        return {
            container.key: {
                **dict.fromkeys((use.device for use in container.uses), limits.NOTHING),
                **self._found[container.key].limits,
            }
            for container in accounting.containers
        }

    def _one(self, container: GpuContainer, usable: Mapping[str, int], *, expected: bool) -> _Found:
        before = self._found.get(container.key)
        names = container.names
        if before is not None and not _told(names) and _told(before.names):
            names = before.names  # the runtime does not answer now; it did, and nothing changed
        told = _told(names) or not expected or container.key.pod_uid is None
        made_from = (container.grants, names, told, _of(usable, container.grants))
        if before is not None and before.made_from == made_from:
            return before
        named = replace(container, names=names, uses=())
        found = limits.limits_of(named, self._rules, usable, told=told)
        return _Found(names, made_from, found)


def _told(names: ContainerNames | None) -> bool:
    """Whether the runtime told them: it gives each container of a pod labels of its own."""
    return names is not None and bool(names.labels)


def _of(usable: Mapping[str, int], grants: Iterable[Grant]) -> tuple[int | None, ...]:
    return tuple(usable.get(grant.device) for grant in grants)
