# SPDX-License-Identifier: Apache-2.0
"""Who answers the calls of containers: an agent, while it is well, and else the holder, with
"continue": then the kernel does what it would have done.

One agent at a time gets copies of the descriptors, and is the only one who receives from then on.
Nobody's call may depend on it:

- It ends: what it received and did not answer lies in its slots (`agents.seccomp_slots`).
- It hangs or is stopped: calls wait, and it does not move. It loses its descriptors, and its slots
  are claimed and, a look later, answered: should it wake up, it sees that, and writes nothing into
  the memory of a caller that runs. Only one that was stopped while it wrote is killed.
- It does not take what it is sent: likewise.

Standard library only, and nothing of this package that is not: the holder loads this file.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from agents.holder_agent import STUCK_S, AnsweringAgent, Message, Peer
from agents.holder_descriptors import Descriptor, Descriptors, State, is_notify, raise_limit
from agents.holder_runtimes import Runtimes
from agents.seccomp_slots import SharedSlots

#: While there are agents, they are looked after this often.
LOOK_S = 0.1
#: The first call of a container waits so long for an agent to get its descriptor.
_FRESH_S = 0.5
#: How many descriptors are sent before the first of them is taken.
_WINDOW = 64


class Refused(Exception):
    """A request that cannot be granted; the text goes to the peer."""


class Seccomp:
    """`watch` calls back when a descriptor is readable, until `unwatch`."""

    def __init__(
        self,
        path: str,
        proc: str,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._proc, self._watch, self._unwatch = proc, watch, unwatch
        self._runtimes = Runtimes(path, proc, watch, unwatch, self._arrived)
        self._descriptors = Descriptors(watch)
        self._tokens = itertools.count(int.from_bytes(os.urandom(5)) << 16)
        self._agents: list[AnsweringAgent] = []
        #: Who answers, or will as soon as the one before has left.
        self._agent: AnsweringAgent | None = None
        self._to_send: deque[Descriptor] = deque()
        #: Straight from the runtime: until when nobody answers before an agent has them.
        self._fresh: dict[Descriptor, float] = {}
        self._next_look = 0.0

    @property
    def keeps(self) -> bool:
        """Whether containers depend on us."""
        return len(self._descriptors) > 0

    @property
    def is_used(self) -> bool:
        """Whether containers depend on us, or an agent is here for those that come."""
        return self.keeps or self._agent is not None

    @property
    def busy(self) -> bool:
        """Whether `look` has to be called every `LOOK_S`."""
        return (self.keeps and bool(self._agents)) or self._runtimes.busy

    @property
    def is_removed(self) -> bool:
        """Whether runtimes find nobody, because somebody has removed our socket."""
        return self._runtimes.is_removed

    def listen_anew(self) -> None:
        """Where it was removed. Raises OSError."""
        self._runtimes.listen_anew()

    def start(self) -> None:
        """Listen for runtimes from now on. Raises OSError."""
        raise_limit()
        self._runtimes.listen()

    def close(self) -> None:
        """At our end. An agent that answers has copies; without one, calls fail from then on."""
        self._runtimes.close()

    def look(self) -> None:
        """At what nobody tells. May be called as often as one likes."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        self._runtimes.look()
        waiting = self._descriptors.waiting()
        for agent in tuple(self._agents):
            self._look_after(agent, agent in waiting, now)
        for one in [one for one, until in self._fresh.items() if until < now]:
            self._serve(one)
        self._send()

    # Requests; what is taken from `came` is ours.

    def listen(self, peer: Peer, request: Message, came: list[int]) -> Message:
        """The peer becomes the one who answers."""
        replace, owes = bool(request["replace"]), int(request["keeping"])
        if any(one.peer is peer for one in self._agents):
            raise Refused("this connection listens already")
        slots = SharedSlots(came.pop())
        known = next((one for one in self._agents if one.slots.identity == slots.identity), None)
        before = self._agent
        if before is not None and before is not known and not replace:
            slots.close()
            raise Refused("another agent answers already")
        self.start()
        if known is not None:
            slots.close()
            if known.peer is not None:
                known.peer.hang_up()
        agent = known or self._new_agent(slots, peer.pid)
        agent.attach(peer, owes)
        self._agent = agent
        if before is not None and before is not agent and before.peer is not None:
            self._replace(before, before.peer)
        self._to_send = deque(one for one in self._descriptors if one.owner is None)
        return {}

    def keep(self, peer: Peer, request: Message, came: list[int]) -> None:
        """What the peer has from the holder before us, or has still from us."""
        agent = next((one for one in self._agents if one.peer is peer), None)
        if agent is None:
            raise Refused("listen first")
        agent.owes -= 1
        one = self._descriptors.get(request["token"])
        if one is None and is_notify(self._proc, came[0]):
            token, state = int(request["token"]), dict(request["state"])
            one = self._descriptors.add(token, came.pop(), state)
        if one is not None and one.owner is None:
            self._fresh.pop(one, None)
            self._descriptors.leave(one, agent)
        self._send()

    def taken(self, peer: Peer, request: Message) -> None:
        """The peer has received these, and answers their calls."""
        for agent in self._agents:
            if agent.peer is peer:
                for token in request["tokens"]:
                    agent.sent.pop(token, None)
        self._send()

    def peer_gone(self, peer: Peer) -> None:
        """It has hung up, or was made to."""
        for agent in [one for one in self._agents if one.peer is peer]:
            agent.detach()
            if agent is self._agent:
                self._agent = None
                for one in tuple(self._fresh):
                    self._serve(one)
            for one in self._descriptors:
                if one.owner is agent:
                    self._serve(one)
                    if self._agent is not None:
                        self._to_send.append(one)
            if agent.ended_at is not None:
                self._bury(agent)
        self._send()

    # Agents

    def _new_agent(self, slots: SharedSlots, pid: int) -> AnsweringAgent:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            slots.close()
            raise Refused(f"no process {pid} here; set hostPID: true in both pods") from error
        agent = AnsweringAgent(slots, pidfd)
        self._agents.append(agent)
        self._watch(pidfd, partial(self._ended, agent))
        return agent

    def _replace(self, agent: AnsweringAgent, peer: Peer) -> None:
        """It hangs up when it has answered what it received."""
        agent.replaced_at = time.monotonic()
        agent.slots.revoke(True)
        peer.send({"event": "replaced"})

    def _ended(self, agent: AnsweringAgent) -> None:
        self._unwatch(agent.pidfd)
        agent.ended_at = time.monotonic()
        if agent.peer is None:  # else there may still be requests of it, with descriptors
            self._bury(agent)

    def _bury(self, agent: AnsweringAgent) -> None:
        """What it received last lies in its slots, whenever it was killed."""
        for call in agent.overdue(time.monotonic()):
            self._descriptors.let_continue(call.token, call.id)
        for _, token, id_ in agent.slots.received():
            self._descriptors.let_continue(token, id_)
        self._agents.remove(agent)
        agent.slots.close()
        os.close(agent.pidfd)

    def _look_after(self, agent: AnsweringAgent, calls_wait: bool, now: float) -> None:
        overdue = agent.overdue(now)
        if agent.peer is not None and agent.hangs(calls_wait, now):
            _log("the agent does not answer: calls of containers continue without it")
            agent.peer.hang_up()
            if agent in self._agents:
                agent.overdue(now)
            return
        for call in overdue:
            if not call.writing:
                self._descriptors.let_continue(call.token, call.id)
            elif agent.peer is None and call.still_s > STUCK_S:
                _log("an agent was stopped while it wrote to a caller's memory: killed")
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(agent.pidfd, signal.SIGKILL)

    # Descriptors

    def _arrived(self, number: int, state: State) -> None:
        try:
            one = self._descriptors.add(next(self._tokens), number, state)
        except OSError as error:
            _log(f"calls of {state['id']!r} fail: {error}")
            return
        if self._agent is None:
            self._descriptors.serve(one)
        else:
            self._fresh[one] = time.monotonic() + _FRESH_S
            self._to_send.appendleft(one)
            self._send()

    def _serve(self, one: Descriptor) -> None:
        self._fresh.pop(one, None)
        self._descriptors.serve(one)

    def _send(self) -> None:
        """As many as the agent will take; what waits here is served, unless it is fresh."""
        agent = self._agent
        if agent is None or agent.peer is None or agent.owes > 0 or self._leaving():
            return
        while self._to_send and len(agent.sent) < _WINDOW:
            one = self._to_send.popleft()
            if one.owner is not None or one.number < 0:
                continue
            served = one.served
            self._descriptors.leave(one, agent)
            if not agent.peer.send(_arrival(one, fresh=one in self._fresh), [one.number]):
                self._to_send.appendleft(one)
                self._descriptors.leave(one, None)
                if served:
                    self._descriptors.serve(one)
                return
            self._fresh.pop(one, None)
            agent.sent[one.token] = time.monotonic()

    def _leaving(self) -> bool:
        """Whether one that was replaced may still receive."""
        return any(one.peer is not None and one is not self._agent for one in self._agents)


def _arrival(one: Descriptor, *, fresh: bool) -> Message:
    return {"event": "arrived", "token": one.token, "state": one.state, "fresh": fresh}


def _log(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 -- stderr is our log
