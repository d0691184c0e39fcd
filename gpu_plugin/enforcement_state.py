# SPDX-License-Identifier: Apache-2.0
"""What `enforcement` remembers from scan to scan, and what it answers. Values; decide nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gpu_plugin.enforcement_cases import Case, Mark, Place
from gpu_plugin.verdicts import Act, Action, Verdict

#: A device that does not answer for so long (seconds) is another one when it does.
_FORGET_S = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered from scan to scan: the cases that are open, and when (monotonic seconds)
    each device was looked at last.
    """

    cases: Mapping[Place, Case] = field(default_factory=dict)
    looked: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """`short` are devices to be looked at more often: soon there may be pressure."""

    state: State
    acts: tuple[Act, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    short: frozenset[str] = frozenset()


def of_silent(state: State, answered: Collection[str], at: float) -> State:
    """Of devices that did not answer in this scan all stays as it was, for a while."""
    silent = {
        uuid: seen
        for uuid, seen in state.looked.items()
        if uuid not in answered and at - seen <= _FORGET_S
    }
    return State({place: c for place, c in state.cases.items() if place[1] in silent}, silent)


def joined(one: Decision, other: Decision) -> Decision:
    return Decision(
        State({**one.state.cases, **other.state.cases}, {**one.state.looked, **other.state.looked}),
        one.acts + other.acts,
        one.verdicts + other.verdicts,
        one.short | other.short,
    )


def undone(state: State, acts: Iterable[Act]) -> State:
    """As if these had not been decided, so that the next scan decides on them anew."""
    cases = dict(state.cases)
    for act in acts:
        place = (act.container, act.device)
        if place in cases:
            marks = (_unmarked(mark, act) for mark in cases[place].marks)
            kept = tuple(mark for mark in marks if mark is not None)
            cases[place] = replace(cases[place], marks=kept)
    return replace(state, cases=cases)


def _unmarked(mark: Mark, act: Act) -> Mark | None:
    if mark.process != act.process:
        return mark
    return replace(mark, killed=False) if act.action is Action.KILL else None
