# SPDX-License-Identifier: Apache-2.0
"""Enforcement at work: for every scan the decision, then the acts, then everybody is told.

Ties together `limits`, `enforcement` (which decide), `driver_limits` and `terminate` (which do).
Of two agents on one node (a rolling update) the one that has the lock acts; the other only tells.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from agents.errors import Unavailable
from agents.file_lock import FileLock
from agents.logs import Logger
from agents.threads import Worker
from gpu_plugin import enforcement
from gpu_plugin.accounting import Accounting, ContainerKey, GpuContainer
from gpu_plugin.driver_limits import DriverLimits
from gpu_plugin.enforcement import Decision, State
from gpu_plugin.enforcement_cases import Place
from gpu_plugin.enforcement_config import BackendChoice, EnforcementConfig, Mode
from gpu_plugin.enforcement_log import EnforcementLog
from gpu_plugin.enforcement_metrics import EnforcementCounters
from gpu_plugin.enforcement_state import undone
from gpu_plugin.known_limits import KnownLimits
from gpu_plugin.standing import unthreatened
from gpu_plugin.terminate import Terminator
from gpu_plugin.verdicts import Act, Action, Backend, Outcome, Verdict

#: Told after every scan: the verdicts of all that answered, and what was done.
Told = Callable[[Accounting, Sequence[Verdict], Sequence[Act]], None]
#: Told, in a worker thread, just before a container's first process is ended.
BeforeEnd = Callable[[GpuContainer, Act], None]

_SIGNALS = {Action.TERMINATE: signal.SIGTERM, Action.KILL: signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `act_s` is for all acts of one scan: what has not been done by then is left to the
    next one, which looks anew. `probe_s` passes until it is asked again whether processes can be
    ended at all, when they could not.
    """

    act_s: float = 2.0
    probe_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Means:
    """What enforcement works with; who has the `lock` acts."""

    terminator: Terminator
    driver: DriverLimits
    lock: FileLock


def _nobody(accounting: Accounting, verdicts: Sequence[Verdict], acts: Sequence[Act]) -> None:
    pass


def _nothing(container: GpuContainer, act: Act) -> None:
    pass


class Enforcer:
    """`scanned` is called for every scan. `told` and `before_end` are for who shows it, `short` for
    who sets the pace: the devices that should be looked at every `pressure_period`.

    `problem` says why nobody would be ended (None: who has to be, is).
    """

    def __init__(
        self,
        config: EnforcementConfig,
        limits: KnownLimits,
        means: Means,
        *,
        session: Callable[[], int],
        counters: EnforcementCounters,
        log: Logger,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._limits = config, limits
        self._terminator, self._driver, self._lock = means.terminator, means.driver, means.lock
        self._session, self._counters = session, counters
        self._log = EnforcementLog(log)
        self._timing, self._clock = timing or Timing(), clock
        self._worker = Worker("ending processes")
        self._state = State()
        self._short: frozenset[str] = frozenset()
        self._probe_due: float | None = 0.0
        self._cannot_end: str | None = None
        self._other: str | None = None
        self.told: Told = _nobody
        self.before_end: BeforeEnd = _nothing
        self.short: Callable[[Collection[str]], None] = lambda devices: None

    @property
    def problem(self) -> str | None:
        if self._config.mode is Mode.DISABLED:
            return None
        return self._cannot_end or self._other

    async def run(self) -> None:
        """Never returns: keeps the driver's limits in force, where they are wanted, and takes away
        those that were.
        """
        await self._driver.run()

    async def scanned(self, accounting: Accounting) -> None:
        """Decide, act, tell."""
        active = self._is_active()
        await self._probe(accounting)
        limits = self._limits.of(accounting)
        self._tell_driver(accounting, limits, active=active)
        decision = enforcement.decide(
            self._state,
            accounting,
            limits,
            self._config,
            now=self._clock(),
            backends=self._backends(limits),
        )
        if decision is None:  # too old to say anything: the next one will do
            return
        self._state = decision.state
        acts = await self._act(accounting, decision.acts, active=active)
        verdicts = [self._noted(verdict, active=active) for verdict in decision.verdicts]
        self._counters.enforcing(active and self._cannot_end is None)
        self._counters.acted(acts, self._clock())
        self._counters.judged(verdicts, accounting.devices, known=self._state.looked)
        self._log.acted(accounting, acts)
        self._tell_pace(accounting, decision)
        self.told(accounting, verdicts, acts)

    def _is_active(self) -> bool:
        """Whether it is this agent that acts."""
        if self._config.mode is not Mode.ENFORCE:
            return False
        before, other = self._lock.held, None
        try:
            taken = self._lock.take()
            if not taken:
                owner = self._lock.owner() or "unknown"
                other = f"another agent (pid {owner}) enforces on this node"
        except OSError as error:
            taken, other = False, f"cannot lock {str(self._lock.path)!r}: {error.strerror}"
        if taken and not before:
            # What was only watched until now begins anew: nobody was warned, nobody was asked.
            self._state = State()
        self._log.standing_by(before=self._other, now=other)
        self._other = other
        return taken

    def _tell_driver(
        self, accounting: Accounting, limits: enforcement.AllLimits, *, active: bool
    ) -> None:
        """What it is to hold: nothing, and what it held no more, where that is not its task (any
        more). Whoever has the lock says so.
        """
        if active:
            by_driver = self._config.backend is not BackendChoice.TERMINATE
            self._driver.want(accounting, limits if by_driver else {}, self._session())
        elif self._config.mode is not Mode.ENFORCE:
            self._clear_driver(accounting)

    def _clear_driver(self, accounting: Accounting) -> None:
        if not self._driver.has_set:
            self._lock.release()
            return
        with suppress(OSError):
            if self._lock.take():
                self._driver.want(accounting, {}, self._session())

    async def _probe(self, accounting: Accounting) -> None:
        """Find out, with the first process there is, whether containers' processes can be ended."""
        if self._probe_due is None or self._clock() < self._probe_due:
            return
        found = next((use.process for one in accounting.containers for use in one.uses), None)
        if found is None or self._config.mode is Mode.DISABLED:
            return
        try:
            problem = await self._worker.call(
                lambda: self._terminator.problem(found), timeout_s=self._timing.act_s
            )
        except ProcessLookupError:
            return
        except (Unavailable, OSError) as error:
            problem = str(error)
        self._log.can_end(before=self._cannot_end, now=problem)
        self._cannot_end = problem
        self._probe_due = None if problem is None else self._clock() + self._timing.probe_s

    def _backends(self, limits: enforcement.AllLimits) -> Mapping[Place, Backend]:
        """Who holds whom, where that is not a plain end of processes."""
        found = dict.fromkeys(self._driver.in_force, Backend.DRIVER)
        if self._config.mode is Mode.DISABLED or self._cannot_end is not None:
            places = [(key, uuid) for key, of_container in limits.items() for uuid in of_container]
            found = dict.fromkeys(places, Backend.NONE) | found
        return found

    async def _act(
        self, accounting: Accounting, acts: Sequence[Act], *, active: bool
    ) -> Sequence[Act]:
        """The acts, with what became of them."""
        if not active:
            why = self._other or "this agent only observes"
            return [replace(a, outcome=Outcome.OBSERVED, explanation=why) for a in acts]
        told = [replace(act, outcome=Outcome.DONE) for act in acts if act.action not in _SIGNALS]
        sent = [act for act in acts if act.action in _SIGNALS]
        return told + await self._end(accounting, sent) if sent else told

    async def _end(self, accounting: Accounting, acts: Sequence[Act]) -> list[Act]:
        """Those that could be done in time; the next scan decides anew on the others."""
        containers = {container.key: container for container in accounting.containers}
        deadline = self._clock() + self._timing.act_s
        done: list[Act] = []

        def perform() -> None:
            for act in acts:
                if self._clock() >= deadline:
                    return
                done.append(self._performed(act, containers))

        try:
            await self._worker.call(perform, timeout_s=self._timing.act_s)
        except Unavailable:
            pass  # what was not done says so
        finished = list(done)
        late = acts[len(finished) :]
        self._state = undone(self._state, late)
        self._counters.late(late)
        self._log.late(late)
        return finished

    def _performed(self, act: Act, containers: Mapping[ContainerKey, GpuContainer]) -> Act:
        """Blocks."""
        assert act.process is not None
        if act.main:
            try:
                self.before_end(containers[act.container], act)
            except Exception as error:  # noqa: BLE001 -- the last word must not keep it from ending
                self._log.last_word_failed(act, error)
        ended = self._terminator.signal(act.process, act.container, _SIGNALS[act.action])
        return replace(act, outcome=ended.outcome, explanation=ended.explanation)

    def _noted(self, verdict: Verdict, *, active: bool) -> Verdict:
        """With what an operator should know of the backend; and nobody is threatened with what is
        not going to be done.
        """
        if not active:
            verdict = unthreatened(verdict)
        if verdict.note is not None or verdict.limits.limit is None:
            return verdict
        note = self._cannot_end if verdict.backend is Backend.NONE else None
        if verdict.backend is Backend.TERMINATE:
            note = self._driver.notes.get((verdict.container, verdict.device))
            if note is None and self._config.backend is BackendChoice.DRIVER:
                note = self._driver.unsupported.get(verdict.device)
        return verdict if note is None else replace(verdict, note=note)

    def _tell_pace(self, accounting: Accounting, decision: Decision) -> None:
        """Of a device that missed this round the last word counts."""
        self._short = (self._short - set(accounting.devices)) | decision.short
        self.short(self._short)
