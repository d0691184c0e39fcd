# SPDX-License-Identifier: Apache-2.0
"""What is to be done about containers that hold more than they may: warn, wait, end processes.

Pure: (state, scan, limits) → (state, acts, verdicts). It knows no signal, no file and no clock but
that of the scan, and never asks for more than these rules:

- A container at or below its request is never touched, nor one at or below its limit, unless others
  lack what they are guaranteed on this device (pressure). Then the largest over-user goes first.
- What is not known is no reason: memory that the driver does not tell, a device that did not answer
  in this scan, a scan that is old or earlier than the last, a sum that cannot be.
- No more processes are ended than bring the container within what it may have, counting those whose
  end has begun.
- Time over the limit counts only between two looks that both saw it so, and a gap without looks
  hardly. A warning is forgotten after `grace` within the limit, so who hops over it and back again
  gets no second grace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agents.processes import ProcessKey
from gpu_plugin import process_choice
from gpu_plugin.accounting import Accounting, ContainerKey, DeviceUse
from gpu_plugin.enforcement_cases import NEW, Case, Mark, Place, Row, in_doubt, row_of
from gpu_plugin.enforcement_config import EnforcementConfig, Uninvited
from gpu_plugin.enforcement_state import Decision as Decision
from gpu_plugin.enforcement_state import State as State
from gpu_plugin.enforcement_state import joined, of_silent
from gpu_plugin.process_choice import Holder
from gpu_plugin.standing import verdict_of
from gpu_plugin.verdicts import Act, Action, Backend, Limits, Reason, Verdict

#: Of a container of this key, what it may have by device.
AllLimits = Mapping[ContainerKey, Mapping[str, Limits]]


def stale_after_s(config: EnforcementConfig) -> float:
    """A scan older than this says nothing about now."""
    return 2 * config.period + 1.0


def decide(
    state: State,
    accounting: Accounting,
    limits: AllLimits,
    config: EnforcementConfig,
    *,
    now: float,
    backends: Mapping[Place, Backend] | None = None,
) -> Decision | None:
    """None: this scan is too old to say anything. `backends` tells who holds a container to its
    limit on a device, where that is not us.
    """
    passed_s, stale_s = now - accounting.at, stale_after_s(config)
    if passed_s > stale_s:
        return None
    rows: dict[str, list[Row]] = {uuid: [] for uuid in accounting.devices}
    for container in sorted(accounting.containers, key=lambda one: str(one.key)):
        for uuid, found in limits.get(container.key, {}).items():
            if uuid in rows:
                backend = (backends or {}).get((container.key, uuid), Backend.TERMINATE)
                rows[uuid].append(row_of(container, accounting.devices[uuid], found, backend))
    decided = Decision(of_silent(state, rows, accounting.at))
    ending = {mark.process for case in state.cases.values() for mark in case.marks}
    for uuid in sorted(rows):
        device = accounting.devices[uuid]
        look = _Look(state, accounting, device, config, frozenset(ending))
        certain = in_doubt(rows[uuid], device, stale=passed_s + device.age_s > stale_s)
        decided = joined(decided, look.run(certain))
        asked = (act.process for act in decided.acts if act.action is Action.TERMINATE)
        ending.update(process for process in asked if process is not None)
    return decided


def unused_guarantees(rows: Iterable[Row]) -> int:
    """Bytes that containers are guaranteed, and do not hold; what is unknown counts as held."""
    return sum(max(0, row.limits.guarantee - row.used) for row in rows if row.used is not None)


class _Look:
    """One device in one scan."""

    def __init__(
        self,
        state: State,
        accounting: Accounting,
        device: DeviceUse,
        config: EnforcementConfig,
        ending: frozenset[ProcessKey],
    ) -> None:
        self._state, self._config, self._device = state, config, device
        self._at, self._wall, self._ending = accounting.at, accounting.wall, ending
        self._looked = state.looked.get(device.device)
        passed = 0.0 if self._looked is None else self._at - self._looked
        self._in_order = passed >= 0
        # What happened while nobody looked is not known: a stalled agent takes nobody's grace away.
        self._passed_s = min(max(0.0, passed), stale_after_s(config))
        self._acts: list[Act] = []
        self._lacking = 0

    def run(self, rows: Sequence[Row]) -> Decision:
        uuid = self._device.device
        unused = unused_guarantees(rows)
        kept_ready = min(self._config.headroom, unused)
        free = self._device.free
        self._lacking = 0 if free is None else max(0, kept_ready - free)
        pressure = self._lacking > 0
        cases: dict[Place, Case] = {}
        verdicts: list[Verdict] = []
        in_order = sorted(rows, key=self._order)
        wanted = self._wanted(in_order) if pressure else {}
        for row in in_order:
            case = self._case(row, wanted.get(row.place, 0), pressure=pressure)
            if case is not None:
                cases[row.place] = case
            verdicts.append(verdict_of(row, case, self._config, pressure=pressure))
        # As long as something is guaranteed and not used, what is free can get less than that.
        short = unused > 0 and free is not None and free < kept_ready + self._config.headroom
        looked = self._at if self._in_order else self._state.looked[uuid]
        return Decision(
            State(cases, {uuid: looked}),
            tuple(self._acts),
            tuple(verdicts),
            frozenset({uuid} if short else ()),
        )

    def _order(self, row: Row) -> tuple[bool, bool, int, str]:
        """Who is to go anyway frees memory for the others; then whose end has begun, then the
        largest over-user.
        """
        before = self._state.cases.get(row.place, NEW)
        due = self._is_over(row) and self._aged(before).over_s >= self._config.grace
        return (not due, not before.marks, -row.above_request, str(row.place))

    def _wanted(self, in_order: Sequence[Row]) -> dict[Place, int]:
        """Bytes that each has to give back for the others. Nobody has to for what is being freed
        already, wherever that is.
        """
        lacking = self._lacking
        wanted: dict[Place, int] = {}
        freed: dict[Place, int] = {}
        for row in in_order:
            case = self._aged(self._state.cases.get(row.place, NEW))
            begun = min(lacking, row.above_request) if case.marks and self._presses(row) else 0
            ending = self._ending | {mark.process for mark in case.marks}
            of_begun = replace(row, holders=tuple(h for h in row.holders if h.process in ending))
            over = self._required(row, replace(case, over=self._is_over(row)), 0)
            going = self._chosen(row, case, over) if over else self._chosen(of_begun, case, begun)
            wanted[row.place], freed[row.place] = begun, process_choice.freed(going)
            lacking = max(0, lacking - freed[row.place])
        for row in filter(self._presses, in_order):
            more = min(lacking, row.above_request - freed[row.place])
            if more > 0:
                case = self._state.cases.get(row.place, NEW)
                wanted[row.place] = freed[row.place] + more
                going = self._chosen(row, case, wanted[row.place])
                lacking = max(0, lacking + freed[row.place] - process_choice.freed(going))
        return wanted

    def _is_over(self, row: Row) -> bool:
        """Has more than it may have at any time."""
        if row.doubt is not None or row.backend is not Backend.TERMINATE:
            return False
        if row.uninvited:
            # Outside of pods (docker, podman) it is the host's own affair.
            in_pod = row.key.pod_uid is not None
            return in_pod and self._config.uninvited is Uninvited.TERMINATE
        return row.over_limit > 0

    def _aged(self, case: Case) -> Case:
        return replace(
            case,
            over_s=case.over_s + self._passed_s * case.over,
            pressed_s=case.pressed_s + self._passed_s * case.pressed,
            calm_s=case.calm_s + self._passed_s * (not (case.over or case.pressed)),
        )

    def _case(self, row: Row, wanted: int, *, pressure: bool) -> Case | None:
        """Its case after this look; None: there is none (any more). `wanted` for the others."""
        before = self._state.cases.get(row.place, NEW)
        if row.doubt is not None or not self._in_order:
            return None if before is NEW else replace(before, over=False, pressed=False)
        over = self._is_over(row)
        if before is NEW and not (over or wanted):
            return None
        case = replace(self._aged(before), over=over, pressed=wanted > 0)
        if case.over or case.pressed:
            case = replace(case, calm_s=0.0)
        reason = row.reason(case, due=case.over_s >= self._config.grace)
        required = self._required(row, case, wanted)
        chosen = self._chosen(row, case, required)
        case = self._warned(row, case, reason, required=required)
        case = self._ended(row, case, reason, chosen, pressure=pressure)
        return self._kept(row, case)

    def _presses(self, row: Row) -> bool:
        """Whether it may be touched for others: not what has no limit, and not the uninvited, who
        have the full grace (they may only just have started, and not be recognised yet).
        """
        known = row.doubt is None and row.backend is not Backend.NONE
        return known and self._in_order and row.limits.limit is not None and not row.uninvited

    def _required(self, row: Row, case: Case, wanted: int) -> int:
        """Bytes that it has to give back now."""
        required = 0
        if case.over and case.over_s >= self._config.grace:
            required = row.everything if row.uninvited else row.over_limit
        if wanted and case.pressed_s >= min(self._config.pressure_grace, self._config.grace):
            required = max(required, wanted)
        return required

    def _chosen(self, row: Row, case: Case, required: int) -> tuple[Holder, ...]:
        if row.uninvited:
            return row.holders if required else ()
        begun = {mark.process for mark in case.marks} | self._ending
        killed = {mark.process for mark in case.marks if mark.killed}
        return process_choice.settle(row.holders, required, begun=begun, killed=killed)

    def _warned(self, row: Row, case: Case, reason: Reason, *, required: int) -> Case:
        """Say once that the grace is running."""
        if required or not (case.over or case.pressed) or reason in case.warned:
            return case
        config = self._config
        pressed = reason is Reason.PRESSURE
        grace_s = min(config.pressure_grace, config.grace) if pressed else config.grace
        self._act(row, case, Action.WARN, reason, grace_s=grace_s)
        return replace(case, warned=case.warned | {reason})

    def _ended(
        self,
        row: Row,
        case: Case,
        reason: Reason,
        chosen: Sequence[Holder],
        *,
        pressure: bool,
    ) -> Case:
        """Ask to end, end, or spare; `case` with the processes whose end has begun."""
        config, before = self._config, {mark.process: mark for mark in case.marks}
        kill_after_s = config.kill_after
        if pressure:
            kill_after_s = min(config.kill_after, config.pressure_kill_after)
        marks: list[Mark] = []
        for holder in chosen:
            mark = before.get(holder.process)
            if mark is None and holder.process in self._ending:
                continue  # by a case of another device
            if mark is None:
                self._act(row, case, Action.TERMINATE, reason, holder)
                case = replace(case, ended=True)
                mark = Mark(holder.process, self._at, reason)
            elif not mark.killed and self._at - mark.at >= kill_after_s:
                self._act(row, case, Action.KILL, reason, holder)
                mark = replace(mark, killed=True)
            marks.append(replace(mark, reason=reason))
        self._spare(row, case, marks)
        return replace(case, marks=tuple(marks))

    def _spare(self, row: Row, case: Case, marks: Iterable[Mark]) -> None:
        """Those that were asked to end, still live, and need not end any more."""
        kept = {mark.process for mark in marks}
        left = {mark.process: mark.reason for mark in case.marks if mark.process not in kept}
        for holder in row.holders:
            if holder.process in left:
                self._act(row, case, Action.SPARE, left[holder.process], holder)

    def _kept(self, row: Row, case: Case) -> Case | None:
        if case.over or case.pressed or case.marks:
            return case
        if not (case.warned or case.ended) or case.calm_s >= self._config.grace:
            if case.warned and not case.ended:
                self._act(row, case, Action.SPARE, min(case.warned, key=lambda r: r.value))
            return None
        return case

    def _act(
        self,
        row: Row,
        case: Case,
        action: Action,
        reason: Reason,
        holder: Holder | None = None,
        *,
        grace_s: float = 0.0,
    ) -> None:
        first = action in (Action.WARN, Action.TERMINATE) and not (case.warned or case.ended)
        self._acts.append(
            Act(
                action=action,
                reason=reason,
                container=row.key,
                device=row.device,
                at=self._at,
                wall=self._wall,
                used=row.known,
                allowed=row.allowed(reason),
                since=self._looked if first else None,
                process=None if holder is None else holder.process,
                command="" if holder is None else holder.command,
                held=None if holder is None else holder.held,
                main=holder is not None and holder.main,
                grace_s=grace_s,
            )
        )
