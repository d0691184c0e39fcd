# SPDX-License-Identifier: Apache-2.0
"""The thread that answers calls of containers: one epoll over all their descriptors.

It takes one call of each descriptor in turn, so that nobody is held up by who calls more often. A
program that is to be started waits here until its container's views are attached, or for so long.
Knows no view, no pod and no event loop: whoever covers containers says by `tell`, `hold` and
`let_go` how they stand, from any thread.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from agents import seccomp_notify as kernel
from agents.errors import AgentError, Unavailable
from agents.seccomp_connection import Arrival, Replaced, SeccompConnection
from agents.seccomp_slots import Slots
from lxcfs_helper.affinity.answering import Answering
from lxcfs_helper.affinity.attended import Attended, Listening
from lxcfs_helper.affinity.dealing import Dealing
from lxcfs_helper.affinity.holding import Holding
from lxcfs_helper.affinity.pace import Pace
from lxcfs_helper.affinity.relief import Relief
from lxcfs_helper.affinity.syscalls import call_of
from lxcfs_helper.affinity.tally import Outcome, Tally
from lxcfs_helper.affinity.values import Terms

#: How often the holder is told that all is well while calls wait (`Slots.beat`).
_BEAT_S = 0.05
_MOST_EVENTS = 64
#: Memory that a write hung in is left alone for so long.
_BARRED_S = 60.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What whoever covers containers is told; called in the answering thread.

    `ended`: nobody in this container can call any more. `lost`: the holder is gone, or has taken
    everything back. `failed`: a bug, and nobody answers any more.
    """

    arrived: Callable[[Arrival], None]
    ended: Callable[[str], None]
    lost: Callable[[AgentError], None]
    failed: Callable[[Exception], None]


class Loop:
    """`hold_limit_s` says for how long a program is held at most."""

    def __init__(
        self,
        answering: Answering,
        slots: Slots,
        tally: Tally,
        heard: Heard,
        hold_limit_s: Callable[[], float],
    ) -> None:
        self._answering, self._slots, self._tally, self._heard = answering, slots, tally, heard
        self._connection: SeccompConnection | None = None
        self._listening: dict[int, Listening] = {}
        self._containers: dict[str, Attended] = {}
        self._holding = Holding(slots, tally, hold_limit_s)
        #: Descriptors of which no call is taken before then.
        self._resting: dict[int, float] = {}
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stopping = False
        self._closing = threading.Lock()
        #: Whose call is dealt with.
        self._at: Attended | None = None
        self._relief = Relief("answers to containers", self._work, self._relieved)
        self._dealing = Dealing(answering, slots, self._relief)

    # From any thread.

    @property
    def containers(self) -> int:
        """In how many containers somebody may call."""
        return len(self._containers)

    @property
    def descriptors(self) -> int:
        """How many descriptors are listened to."""
        return len(self._listening)

    @property
    def waiting(self) -> int:
        """How many programs are held now."""
        return self._holding.number

    def copies(self) -> list[Arrival]:
        """Of all descriptors, with one of its own each, which whoever asked for it closes."""
        with self._closing:
            return [
                replace(one.arrival, descriptor=os.dup(one.arrival.descriptor))
                for one in [*self._listening.values()]
            ]

    def start(self) -> None:
        self._relief.start()

    def stop(self) -> None:
        """Let everybody go and close everything; the holder goes on. Waits for a moment."""
        if self._epoll.closed:
            return
        self._order(self._stop)
        if self._relief.join():
            self._epoll.close()
            os.close(self._wake)

    def connected(self, connection: SeccompConnection) -> None:
        """Take arrivals from here on."""
        self._order(lambda: self._connect(connection))

    def tell(self, container_id: str, terms: Terms | None) -> None:
        """How calls of this container are answered; None: not at all."""
        self._order(lambda: self._tell(container_id, terms))

    def hold(self, container_id: str) -> None:
        """Something is to be attached there: hold programs until it is."""
        self._order(lambda: self._set_passing(container_id, None))

    def let_go(self, container_id: str, outcome: Outcome) -> None:
        """Programs of this container are started at once from now on."""
        self._order(lambda: self._set_passing(container_id, outcome))

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        os.eventfd_write(self._wake, 1)

    # In the answering thread.

    def _work(self, alive: Callable[[], bool]) -> None:
        try:
            self._turns(alive)
        except Exception as error:  # noqa: BLE001 -- nobody waits for this thread
            self._heard.failed(error)

    def _turns(self, alive: Callable[[], bool]) -> None:
        """Until it is stopped, or somebody else goes on in our place."""
        while alive() and not self._stopping:
            if self._slots.revoked and self._listening:
                self._lose(Unavailable("the holder has taken all descriptors back"))
            events = self._epoll.poll(self._pause_s(), _MOST_EVENTS)
            self._slots.beat()
            for descriptor, event in events:
                self._turn(descriptor, event)
                if not alive():
                    return
            if self._holding:
                self._holding.let_late_go()
            if self._resting:
                self._end_rests()

    def _pause_s(self) -> float | None:
        if self._resting:
            return max(0.0, min(self._resting.values()) - time.monotonic())
        return _BEAT_S if self._holding else None

    def _turn(self, descriptor: int, event: int) -> None:
        listening = self._listening.get(descriptor)
        if listening is not None:
            if event & select.EPOLLIN:
                if not self._slots.revoked:
                    self._take(listening)
            elif event & (select.EPOLLHUP | select.EPOLLERR):
                self._drop(listening)
        elif descriptor == self._wake:
            self._obey()
        elif self._connection is not None:
            self._receive(self._connection)

    def _obey(self) -> None:
        os.eventfd_read(self._wake)
        while self._orders:
            self._orders.popleft()()

    def _take(self, listening: Listening) -> None:
        """Receive one call and deal with it."""
        slot = self._slots.acquire(listening.arrival.token)
        if slot is None:
            self._holding.make_room()
            return
        descriptor = listening.arrival.descriptor
        self._at = listening.container
        self._relief.begin()
        received = kernel.receive(descriptor, self._slots.address(slot))
        self._relief.end()
        if not received:
            self._slots.release(slot)
            return
        started = time.monotonic()
        asked = self._slots.notification(slot)
        call = call_of(asked.architecture, asked.number)
        if call.starts_program and not listening.passing:
            self._holding.keep(listening, asked, slot, started)
            return
        result = self._dealing.deal(listening, call, asked, slot)
        self._slots.release(slot)
        self._tally.call(call, result, started)
        rest_s = listening.pace.rest_s(started)
        if listening.dropped:
            self._close(descriptor)
        elif rest_s:
            self._epoll.modify(descriptor, 0)
            self._resting[descriptor] = started + rest_s

    def _end_rests(self) -> None:
        now = time.monotonic()
        for descriptor in [one for one, until in self._resting.items() if until <= now]:
            del self._resting[descriptor]
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _relieved(self) -> None:
        """A write hangs, and another thread goes on. Called by whoever watches."""
        self._tally.hung += 1
        if self._at is not None:
            self._at.barred_until = time.monotonic() + _BARRED_S

    def _set_passing(self, container_id: str, outcome: Outcome | None) -> None:
        container = self._containers.get(container_id)
        for descriptor in () if container is None else container.descriptors:
            listening = self._listening[descriptor]
            listening.passing = outcome is not None
            if outcome is not None:
                self._holding.let_go(listening, outcome)

    def _tell(self, container_id: str, terms: Terms | None) -> None:
        container = self._containers.get(container_id)
        if container is not None:
            container.terms = terms
            if terms is None:
                self._answering.forget(container_id)

    # Descriptors come and go.

    def _connect(self, connection: SeccompConnection) -> None:
        self._connection = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _receive(self, connection: SeccompConnection) -> None:
        try:
            arrivals = connection.receive()
        except AgentError as error:
            self._lose(error)
            return
        for arrival in arrivals:
            self._attend(arrival)

    def _lose(self, error: AgentError) -> None:
        """Where only the holder is gone, what we have is still ours to answer."""
        connection, self._connection = self._connection, None
        if isinstance(error, Replaced) or self._slots.revoked:
            self._close_all()
        if connection is not None:
            connection.close()
        self._heard.lost(error)

    def _attend(self, arrival: Arrival) -> None:
        if any(one.arrival.token == arrival.token for one in self._listening.values()):
            os.close(arrival.descriptor)  # two of one would each wait for what the other received
            return
        container_id = arrival.state.container_id
        container = self._containers.setdefault(container_id, Attended(container_id))
        container.descriptors.add(arrival.descriptor)
        self._listening[arrival.descriptor] = Listening(arrival, container, Pace(time.monotonic()))
        kernel.wake_on_same_cpu(arrival.descriptor)
        self._epoll.register(arrival.descriptor, select.EPOLLIN)
        self._heard.arrived(arrival)

    def _drop(self, listening: Listening) -> None:
        """Nobody is left who could call by this descriptor."""
        descriptor, container = listening.arrival.descriptor, listening.container
        self._holding.let_go(listening, Outcome.FAILED)
        del self._listening[descriptor]
        self._resting.pop(descriptor, None)
        self._epoll.unregister(descriptor)
        listening.dropped = True
        if not listening.writing:
            self._close(descriptor)
        container.descriptors.discard(descriptor)
        if not container.descriptors:
            del self._containers[container.id]
            self._answering.forget(container.id)
            self._heard.ended(container.id)

    def _close(self, descriptor: int) -> None:
        with self._closing:
            os.close(descriptor)

    def _close_all(self) -> None:
        """The holder, or another agent, goes on."""
        for listening in [*self._listening.values()]:
            self._drop(listening)

    def _stop(self) -> None:
        self._stopping = True
        self._close_all()
        if self._connection is not None:
            self._connection.close()
        self._answering.close()
