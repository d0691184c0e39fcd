# SPDX-License-Identifier: Apache-2.0
"""No core dump of a process that holds secrets.

RLIMIT_CORE would be inherited by all clients that are started, whose dumps somebody may want, and
does not count where dumps go to a program (core(5), `kernel.core_pattern` with a pipe). A process
that is not dumpable (prctl(2), PR_SET_DUMPABLE) has none at all; what it starts has, after exec.
"""

from __future__ import annotations

import ctypes
import os

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


def forbid() -> None:
    """From now on, for this process. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def forbidden() -> bool:
    """Whether this process leaves none."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)
