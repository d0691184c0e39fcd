# SPDX-License-Identifier: Apache-2.0
"""One call that was received, up to its answer: what to say, put into the caller's memory between
two looks at whether it still waits. Knows no descriptor but that of the call.
"""

from __future__ import annotations

import threading
import time

from agents import seccomp_notify as kernel
from agents.errors import AgentError
from agents.seccomp_notify import Notification
from agents.seccomp_slots import Slots
from lxcfs_helper.affinity import target_memory
from lxcfs_helper.affinity.answering import Answering
from lxcfs_helper.affinity.answers import Answer
from lxcfs_helper.affinity.attended import Listening
from lxcfs_helper.affinity.relief import Relief
from lxcfs_helper.affinity.syscalls import Call
from lxcfs_helper.affinity.tally import Result
from lxcfs_helper.affinity.target_memory import Written

_ANSWERED = (Call.SCHED_GETAFFINITY, Call.SYSINFO)


class Dealing:
    """For one thread at a time; `relief` is told when it may hang."""

    def __init__(self, answering: Answering, slots: Slots, relief: Relief) -> None:
        self._answering, self._slots, self._relief = answering, slots, relief

    def deal(self, listening: Listening, call: Call, asked: Notification, slot: int) -> Result:
        """Answer it, or have the kernel do so."""
        descriptor, container = listening.arrival.descriptor, listening.container
        result = Result.KERNEL
        # Without a pid (its pid namespace is not below ours) nobody knows whose memory it is.
        if call in _ANSWERED and container.terms is not None and asked.pid:
            try:
                answer = self._answering.answer(container.id, container.terms, call, asked)
            except (AgentError, OSError):
                answer, result = None, Result.FAILED
            if answer is not None:
                result = self._answer(listening, answer, asked, slot)
        if result in (Result.ANSWERED, Result.GONE):
            return result
        return result if kernel.proceed(descriptor, asked.id) else Result.GONE

    def _answer(
        self, listening: Listening, answer: Answer, asked: Notification, slot: int
    ) -> Result:
        """KERNEL or FAILED: nothing was sent."""
        descriptor, container = listening.arrival.descriptor, listening.container
        if container.writing or container.barred_until > time.monotonic():
            return Result.FAILED
        if not self._slots.begin_write(slot):
            return Result.GONE
        listening.writing = True
        container.writing.add(threading.get_ident())
        try:
            # Between the two looks the thread is in this very call, and its pid is nobody else's.
            if not kernel.is_waiting(descriptor, asked.id):
                return Result.GONE
            self._relief.begin()
            written = target_memory.write(asked.pid, answer.address, answer.data)
            self._relief.end()
            if not kernel.is_waiting(descriptor, asked.id):
                return Result.GONE
        finally:
            listening.writing = False
            container.writing.discard(threading.get_ident())
            self._slots.end_write(slot)
        if written is not Written.DONE:
            return Result.FAILED if written is Written.REFUSED else Result.KERNEL
        answered = kernel.answer(descriptor, asked.id, answer.value)
        return Result.ANSWERED if answered else Result.GONE
