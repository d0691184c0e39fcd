# SPDX-License-Identifier: Apache-2.0
"""Keeps the history of mounts: which clients ended and how, and each change of a state, with its
log line. Looks at no mount; what follows from it is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals

import trio

from agents.logs import Logger
from agents.processes import ProcessKey
from fuse_mounter.drivers import client_log
from fuse_mounter.drivers.base import MountBase
from fuse_mounter.observed import Health, Instance, Observation
from fuse_mounter.places import Places
from fuse_mounter.plan import Want
from fuse_mounter.standing import Transition
from fuse_mounter.states import USABLE, everywhere, judge
from fuse_mounter.wishes import Wishes

#: What is known of a client that was killed; None: whoever adopted it learns of its end alone.
_KILLED = (None, -Signals.SIGKILL)


class History:
    """`changed` is called with every transition."""

    def __init__(
        self, wishes: Wishes, places: Places, log: Logger, changed: Callable[[Transition], None]
    ) -> None:
        self._wishes, self._places, self._log, self._changed = wishes, places, log, changed
        self._accounted: set[str] = set()
        self._killed: dict[str, str] = {}

    def account(self, seen: Observation, mounts: Sequence[MountBase]) -> None:
        """Every client that ended counts once, with the last words of its log."""
        for one in seen.instances:
            ended = one.client.ended if one.client is not None else None
            if ended is not None and one.present and one.staging not in self._accounted:
                self._accounted.add(one.staging)
                ours = self._killed.get(one.staging) if ended.code in _KILLED else None
                how = ours or ended.describe()
                words = client_log.last_words(self._log_of(one, seen))
                text = f"its client {how}{words and f': {words}'}"
                self._wishes.ended(one.name, one.staging, text, mounts)
        here = {one.staging for one in seen.instances}
        self._accounted &= here
        self._killed = {staging: why for staging, why in self._killed.items() if staging in here}

    def killed(self, client: ProcessKey, seen: Observation) -> None:
        """By us: else whoever reads of it would look for somebody else, such as the kernel."""
        for one in seen.instances:
            if one.client is not None and one.client.key == client:
                self._killed.setdefault(one.staging, _why_killed(one))

    def _log_of(self, one: Instance, seen: Observation) -> Path:
        """What a client wrote is put aside when the next one is started."""
        log = self._places.log(one.name)
        later = any(o.number > one.number and o.client for o in seen.of(one.name))
        return log.with_suffix(".log.1") if later else log

    def judge(self, wants: Sequence[Want], seen: Observation) -> None:
        """What state each is in now."""
        now = trio.current_time()
        for want in wants:
            record, stack = self._wishes.record(want.name), seen.stack(want.path)
            instances, before = seen.of(want.name), record.state
            judgement = judge(want, stack, instances, failing=record.failing, ended=record.failure)
            judgement = everywhere(judgement, want, seen)
            if record.judged(judgement, now=now, wall=time.time()):
                state, cause = record.state.value, record.cause
                self._log.info("mount state", mount=want.name, state=state, cause=cause)
                if record.state is not before:
                    self._changed(Transition(want.name, before, record.state, cause))
            if record.state in USABLE:
                record.steady(now=now)


def _why_killed(one: Instance) -> str:
    if one.health is Health.HUNG:
        return "did not answer, and was ended"
    if one.shown is None and one.present:
        return "had nothing mounted for too long (health.start_limit), and was ended"
    return "served nobody any more, and was ended"
