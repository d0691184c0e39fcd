# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and SIGHUP for a command that takes everything away in the end: all of them are
the same, at any moment. Knows no event loop.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_signals() -> list[signal.Signals]:
    """Those that end us; not one that whoever started us has us ignore, as nohup does."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def raised() -> Iterator[None]:
    """Each of the signals is a KeyboardInterrupt, also where no event loop runs (yet, any more)."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """For what must not be left half done; it is bounded."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    former = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, one in former.items():
            signal.signal(number, one)
