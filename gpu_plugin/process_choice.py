# SPDX-License-Identifier: Apache-2.0
"""Which processes of a container are ended to free so much memory: as few as possible, and of those
the newest. Pure; knows no limit and no reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from agents.processes import ProcessKey


@dataclass(frozen=True, slots=True)
class Holder:
    """A process and what it holds of one device, in bytes (None: unknown). `main`: the container's
    first process, with which the others end.
    """

    process: ProcessKey
    held: int | None
    main: bool = False
    command: str = ""

    @property
    def freed(self) -> int:
        """What is known to be freed by its end."""
        return self.held or 0

    @property
    def age(self) -> tuple[int, int]:
        """Orders from old to new."""
        return (self.process.start_ticks, self.process.pid)


def freed(holders: Iterable[Holder]) -> int:
    """By the end of all of them, as far as is known."""
    return sum(holder.freed for holder in holders)


def settle(
    holders: Sequence[Holder],
    required: int,
    *,
    begun: Collection[ProcessKey] = (),
    killed: Collection[ProcessKey] = (),
) -> tuple[Holder, ...]:
    """Who has to end so that `required` bytes are freed (or all that can be). Whose end was begun
    comes before anybody else, and those that are killed already are always among them.
    """
    dying = tuple(holder for holder in holders if holder.process in killed)
    required -= freed(dying)
    if required <= 0:
        return dying
    asked = [one for one in holders if one.process in begun and one.process not in killed]
    asked.sort(key=lambda one: (one.freed, one.age), reverse=True)
    if any(one.main for one in (*dying, *asked)):
        return (*dying, *asked)  # the others end with it: wait for that
    further: tuple[Holder, ...] = ()
    if freed(asked) < required:
        taken = {one.process for one in (*dying, *asked)}
        others = [one for one in holders if one.process not in taken]
        further = _choose(others, required - freed(asked))
    # A large one that comes to it may make some of those that were begun with unnecessary.
    needed = set(fewest((*asked, *further), required))
    return (*dying, *(one for one in (*asked, *further) if one in needed))


def _choose(holders: Sequence[Holder], required: int) -> tuple[Holder, ...]:
    """The main process only when the others are not enough; and then nobody else, because they end
    with it.
    """
    others = [holder for holder in holders if not holder.main]
    main = [holder for holder in holders if holder.main and holder.freed]
    if main and freed(others) < required:
        return tuple(main)
    return fewest(others, required)


def fewest(holders: Iterable[Holder], required: int) -> tuple[Holder, ...]:
    """The smallest number of processes that hold so much together: the largest (the newest of
    equals), until one of those that are left is enough; then the newest of those.
    """
    left = sorted((one for one in holders if one.freed), key=lambda one: (one.freed, one.age))
    chosen: list[Holder] = []
    while left and 0 < required > left[-1].freed:
        chosen.append(left.pop())
        required -= chosen[-1].freed
    if left and required > 0:
        enough = (holder for holder in left if holder.freed >= required)
        chosen.append(max(enough, key=lambda one: one.age))
    return tuple(chosen)
