# SPDX-License-Identifier: Apache-2.0
"""Where an agent receives notifications: memory that the holder sees too, so that a call which the
agent has received is answered also when the agent dies at that very moment.

A caller can only be answered by who knows its id, and the kernel tells an id once. So the kernel
writes it straight into a slot here. When the agent has ended, the holder reads what is left and
lets those calls continue; when the agent hangs, it first claims a slot, and answers a moment later.

Standard library only: the holder loads this file too.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import stat

from agents.seccomp_notify import NOTIFICATION_BYTES, Notification, parse

#: Words of 8 bytes. Of the header:
_MAGIC_WORD, _BEAT_WORD, _REVOKED_WORD = 0, 1, 2
_HEADER_WORDS = 16
#: Of a slot: whose descriptor; the agent writes to the caller's memory; the holder may have
#: answered; and what the kernel wrote, which begins with the id (0: nothing was received).
_TOKEN_WORD, _WRITING_WORD, _CLAIMED_WORD, _ID_WORD = 0, 1, 2, 4
_SLOT_WORDS = 16
_WORD_BYTES = 8
#: The first word says that the layout is this one.
_MAGIC = int.from_bytes(b"nodesec1", "little")

_MOST_BYTES = 1 << 20
_NOTHING = bytes(NOTIFICATION_BYTES)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Slots:
    """The agent's side: one a process, for its whole life, in one thread.

    For each notification: `acquire`, receive into `address`, look at `notification`, answer, and
    `release`; between `begin_write` and `end_write` whatever writes into the caller's memory.
    """

    def __init__(self, count: int = 512) -> None:
        self.descriptor = os.memfd_create(
            "nodeshare-seccomp", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )
        size = (_HEADER_WORDS + count * _SLOT_WORDS) * _WORD_BYTES
        os.ftruncate(self.descriptor, size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._memory = mmap.mmap(self.descriptor, size)
        self._words = memoryview(self._memory).cast("Q")
        self._words[_MAGIC_WORD] = _MAGIC
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._free = list(range(count))

    @property
    def free(self) -> int:
        """How many are not in use."""
        return len(self._free)

    @property
    def revoked(self) -> bool:
        """The holder has taken the descriptors back: receive nothing before the next
        connection."""
        return self._words[_REVOKED_WORD] != 0

    def beat(self) -> None:
        """Tell the holder that the loop is alive: in each turn, and every 0.1 s while a slot is in
        use. Who does not, while calls wait, loses the descriptors.
        """
        self._words[_BEAT_WORD] += 1

    def acquire(self, token: int) -> int | None:
        """A slot to receive from the descriptor with this token into; None: all are in use."""
        if not self._free:
            return None
        slot = self._free.pop()
        first = _first_word(slot)
        self._words[first + _CLAIMED_WORD] = 0
        self._words[first + _WRITING_WORD] = 0
        self._words[first + _TOKEN_WORD] = token
        return slot

    def address(self, slot: int) -> int:
        """Where the kernel shall write."""
        return self._start + (_first_word(slot) + _ID_WORD) * _WORD_BYTES

    def notification(self, slot: int) -> Notification:
        """What it wrote."""
        start = (_first_word(slot) + _ID_WORD) * _WORD_BYTES
        return parse(self._memory[start : start + NOTIFICATION_BYTES])

    def begin_write(self, slot: int) -> bool:
        """Before the check that the caller still waits, after which its memory is written to. From
        here on the holder does not answer in our place, as what we write would hit a caller that
        runs. False: it has done so, or will; write nothing, and release the slot.
        """
        first = _first_word(slot)
        self._words[first + _WRITING_WORD] = 1
        return self._words[first + _CLAIMED_WORD] == 0

    def end_write(self, slot: int) -> None:
        """Nothing is written any more."""
        self._words[_first_word(slot) + _WRITING_WORD] = 0

    def release(self, slot: int) -> None:
        """It was answered, or there was nothing to receive."""
        first = _first_word(slot)
        # The id goes first, and in one piece: the holder may look at any moment.
        self._words[first + _ID_WORD] = 0
        start = (first + _ID_WORD) * _WORD_BYTES
        self._memory[start : start + NOTIFICATION_BYTES] = _NOTHING
        self._words[first + _WRITING_WORD] = 0
        self._free.append(slot)

    def close(self) -> None:
        """At the end of the process, or of a test."""
        self._words.release()
        self._memory.close()
        os.close(self.descriptor)


class SharedSlots:
    """The holder's side of the memory behind this descriptor, which it closes. Raises ValueError
    when it is something else.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            self._memory = mmap.mmap(descriptor, _checked_size(descriptor))
            self.identity = os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        self._words = memoryview(self._memory).cast("Q")
        if self._words[_MAGIC_WORD] != _MAGIC:
            raise ValueError("slots of another layout")

    @property
    def beat(self) -> int:
        """Moves while the agent's loop does."""
        return self._words[_BEAT_WORD]

    def revoke(self, revoked: bool) -> None:
        """Whether the agent may receive."""
        self._words[_REVOKED_WORD] = revoked

    def received(self) -> list[tuple[int, int, int]]:
        """Slot, token and id of each call that was received and not answered."""
        first = self._words[_HEADER_WORDS:]
        ids = first[_ID_WORD::_SLOT_WORDS].tolist()
        return [
            (slot, first[slot * _SLOT_WORDS + _TOKEN_WORD], id_)
            for slot, id_ in enumerate(ids)
            if id_
        ]

    def claim(self, slot: int) -> None:
        """The agent writes nothing any more for the call in it, unless it does so already. To be
        answered when it surely has seen that."""
        self._words[_first_word(slot) + _CLAIMED_WORD] = 1

    def is_writing(self, slot: int) -> bool:
        """Whether the agent is about to write to the memory of the caller."""
        return self._words[_first_word(slot) + _WRITING_WORD] != 0

    def close(self) -> None:
        """When the agent has ended."""
        self._words.release()
        self._memory.close()


def _checked_size(descriptor: int) -> int:
    """That of memory which nobody can shrink, so that to look at it is never fatal."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    status = os.fstat(descriptor)
    sized = _HEADER_WORDS * _WORD_BYTES < status.st_size <= _MOST_BYTES
    if not (stat.S_ISREG(status.st_mode) and seals & _SEALS == _SEALS and sized):
        raise ValueError("no memory with slots")
    return status.st_size


def _first_word(slot: int) -> int:
    return _HEADER_WORDS + slot * _SLOT_WORDS
