# SPDX-License-Identifier: Apache-2.0
"""The names of the views. Imports nothing of ours: the process of the compatible root does without
the configuration's library, which is a third of its memory.
"""

from __future__ import annotations

import enum


class ViewName(enum.Enum):
    """What can be shown. `cpu` is /sys/devices/system/cpu and node, `pressure` the three files of
    /proc/pressure: each of them together or not at all."""

    MEMINFO = "meminfo"
    CPUINFO = "cpuinfo"
    STAT = "stat"
    LOADAVG = "loadavg"
    SWAPS = "swaps"
    DISKSTATS = "diskstats"
    PRESSURE = "pressure"
    CPU = "cpu"
    UPTIME = "uptime"
