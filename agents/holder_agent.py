# SPDX-License-Identifier: Apache-2.0
"""One agent, as the holder sees it: whether it hangs, and which of the calls that it has received
are not to wait any longer. Decides, and does nothing about it.

Standard library only, and nothing of this package that is not: the holder loads this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from agents.seccomp_slots import SharedSlots

Message = dict[str, Any]

#: An agent that does not move for so long while calls wait has lost them.
STUCK_S = 0.6
#: No call waits longer for an agent that does move.
LONGEST_S = 10.0


class Peer(Protocol):
    """The connection of an agent. `pid` is 0 when it is in no pid namespace of ours."""

    pid: int

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """False when that is not possible now."""

    def hang_up(self) -> None:
        """`Seccomp.peer_gone` is called for it."""


class Overdue(NamedTuple):
    """A call that the holder has to answer. `writing`: not yet, as the agent was about to write to
    the memory of the caller. `still_s`: for how long it has not moved since it may begin no more;
    0 when it has: then that memory hangs, and not the agent.
    """

    token: int
    id: int
    writing: bool
    still_s: float


class _Seen:
    """A call in a slot."""

    def __init__(self, token: int, id_: int, since: float) -> None:
        self.token, self.id, self.since = token, id_, since
        self.claimed_at: float | None = None
        #: How often the agent had moved by then.
        self.beat = 0


class AnsweringAgent:
    """A process that answers (with a peer), or did and lives on."""

    def __init__(self, slots: SharedSlots, pidfd: int) -> None:
        self.slots, self.pidfd = slots, pidfd
        self.peer: Peer | None = None
        self.ended_at: float | None = None
        #: How many descriptors it has still to give us.
        self.owes = 0
        #: Since when another one answers, and it should leave.
        self.replaced_at: float | None = None
        #: Sent and not yet taken, by token: since when.
        self.sent: dict[int, float] = {}
        #: How often it had moved when we looked, and since when it has not while calls wait.
        self._beat = 0
        self._still_since: float | None = None
        #: By slot.
        self._seen: dict[int, _Seen] = {}

    def attach(self, peer: Peer, owes: int) -> None:
        self.peer, self.owes = peer, owes
        self.replaced_at = self._still_since = None
        self.slots.revoke(False)

    def detach(self) -> None:
        self.peer = None
        self.sent.clear()
        self.slots.revoke(True)

    def hangs(self, calls_wait: bool, now: float) -> bool:
        """Whether it does not do what it has to; asked at every look, after `overdue`.
        `calls_wait`: to be received by it.
        """
        beat, before = self.slots.beat, self._beat
        self._beat = beat
        if beat != before or not (calls_wait or self._seen):
            self._still_since = None
        elif self._still_since is None:
            self._still_since = now
        untaken_since = min(self.sent.values(), default=None)
        since = (self._still_since, untaken_since, self.replaced_at, self.ended_at)
        return any(one is not None and now - one > STUCK_S for one in since)

    def overdue(self, now: float) -> list[Overdue]:
        """Calls that were claimed at an earlier look. Claims those that are to wait no longer:
        without a peer, all.
        """
        patience_s = 0.0 if self.peer is None else LONGEST_S
        before, self._seen = self._seen, {}
        overdue = []
        for slot, token, id_ in self.slots.received():
            seen = before.get(slot)
            if seen is not None and seen.id == id_:
                del before[slot]
            else:
                seen = _Seen(token, id_, now)
            if seen.claimed_at is not None:
                still_s = 0.0 if self.slots.beat != seen.beat else now - seen.claimed_at
                overdue.append(Overdue(token, id_, self.slots.is_writing(slot), still_s))
            elif now - seen.since >= patience_s:
                self.slots.claim(slot)
                seen.claimed_at, seen.beat = now, self.slots.beat
            self._seen[slot] = seen
        # An agent that finds its slot claimed empties it, and leaves the answer to us.
        left = [one for one in before.values() if one.claimed_at is not None]
        return overdue + [Overdue(one.token, one.id, False, 0.0) for one in left]
