# SPDX-License-Identifier: Apache-2.0
"""The plan that is in force, kept up to date with the machine, its health and what pods hold.

Puts together what others decide (`resources`, `availability`, `health`); asks nobody.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from agents.logs import Logger
from agents.podresources import PodDevices
from gpu_plugin import availability, changes, resources
from gpu_plugin.availability import Holdings, Remembered
from gpu_plugin.config import ResourceRule
from gpu_plugin.driver_watch import DriverWatch
from gpu_plugin.identity import Allocation
from gpu_plugin.ledger import Ledger
from gpu_plugin.observation import Inventory
from gpu_plugin.resources import Plan


class Planner:
    """Of the event loop. `ours` are the names of all resources of the rules."""

    def __init__(
        self,
        rules: Sequence[ResourceRule],
        watch: DriverWatch,
        ledger: Ledger,
        *,
        ours: Container[str],
        log: Logger,
    ) -> None:
        self._rules, self._watch, self._ledger = rules, watch, ledger
        self._ours, self._log = ours, log
        self._foreign: Holdings = {}
        self._served: dict[str, str] = {}
        self._made_from: tuple[object, ...] = ()
        self._remembered: Remembered = {}
        self.plan = Plan((), ())

    def remember(self, recorded: Iterable[Allocation]) -> None:
        """What former runs of the agent gave out, oldest first."""
        self._remembered = {
            (allocation.resource, uuid): found
            for allocation in recorded
            for uuid, found in allocation.hardware.items()
        }

    def pods_hold(self, pods: Sequence[PodDevices]) -> None:
        """What podresources listed last. (Of our own resources the ledger knows it better.)"""
        self._foreign = availability.foreign(pods, self._ours)

    def update(self) -> bool:
        """Plan anew if anything that matters has changed; whether it was."""
        found, in_use = self._watch.inventory, self._ledger.in_use
        known = (self._watch.revision, in_use, self._foreign)
        if found is None or known == self._made_from:
            return False
        self._made_from = known
        held = None if in_use is None else {**availability.reach(in_use), **self._foreign}
        self._make(found, held)
        return True

    def _make(self, found: Inventory, held: Holdings | None) -> None:
        # A device stays with the rule that it served first while this process lives.
        rules = {name: rule.name for rule in self._rules for name in rule.sizes}
        earlier = {
            uuid: rules.get(name, name) for name, uuids in (held or {}).items() for uuid in uuids
        }
        now = resources.plan(
            self._rules, found.machine, earlier=earlier | self._served, nodes=found.nodes
        )
        if held is not None:
            self._remembered = availability.still_held(self._remembered, held)
        kept = availability.keep(now, self.plan, found.machine, held, self._remembered)
        plan = availability.without_sick(kept, self._watch.health.verdict)
        changes.say(self._log, self.plan, plan)
        self.plan = plan
        self._served = plan.serving | self._served
