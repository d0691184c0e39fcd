# SPDX-License-Identifier: Apache-2.0
"""Kubernetes quantities of whole things: 80000 is written `80k`, 69904 is not. Pure."""

from __future__ import annotations

_SUFFIXES = ("", "k", "M", "G", "T", "P", "E")


def canonical(count: int) -> str:
    """The canonical decimal form: the largest suffix that leaves a whole number."""
    power = 0
    while count and count % 1000 == 0 and power < len(_SUFFIXES) - 1:
        count //= 1000
        power += 1
    return f"{count}{_SUFFIXES[power]}"


def parse(text: str) -> int:
    """The count of a decimal quantity such as `80k`. Raises ValueError for anything else."""
    number, suffix = (text, "") if text[-1:].isdigit() else (text[:-1], text[-1:])
    if suffix not in _SUFFIXES or not number.isdecimal():
        raise ValueError(f"{text!r} is not a whole quantity, such as 8 or 80k")
    return int(number) * int(1000 ** _SUFFIXES.index(suffix))
