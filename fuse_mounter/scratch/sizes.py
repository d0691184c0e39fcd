# SPDX-License-Identifier: Apache-2.0
"""Bytes for people. Pure."""

from __future__ import annotations


def size_text(count: float) -> str:
    """`1.5 GiB`: binary units, one digit behind the point."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
