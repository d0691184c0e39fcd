# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command: raised, put off, and left alone where its caller wants that."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from agents.standin import interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    former = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_of_them_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruption.raised():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_none_of_them_does_while_they_are_ignored() -> None:
    with interruption.raised(), interruption.ignored():
        for number in SIGNALS:
            signal.raise_signal(number)


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruption.raised():
        signal.raise_signal(signal.SIGHUP)
        assert interruption.stop_signals() == [signal.SIGINT, signal.SIGTERM]
