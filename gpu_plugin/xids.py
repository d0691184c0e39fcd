# SPDX-License-Identifier: Apache-2.0
"""What the driver's XID errors mean for units: data. Knows no device and no event.

After NVIDIA's XID catalogue; what it recommends (restart the program, or reset the GPU) decides the
class. A configuration may put any code into another class.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class XidClass(enum.Enum):
    """`application`: the fault of one program, or a mere note: counted, and nothing else happens.
    `recoverable`: no new work until the device answered cleanly for a while. `fatal`: moreover, not
    before the driver was opened anew and has found the GPU again.
    """

    APPLICATION = "application"
    RECOVERABLE = "recoverable"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Xid:
    """What one code says, for people, and its class."""

    text: str
    kind: XidClass


_APPLICATION = {
    13: "graphics engine exception",
    31: "memory access fault of a program",
    32: "invalid command buffer",
    43: "a program's channel was reset",
    45: "work of a program was removed",
    63: "a faulty memory row or page was set aside",
    68: "video processor exception",
    69: "graphics engine class error",
    92: "many corrected memory errors",
    109: "a program did not yield in time",
    154: "what the driver recommends has changed",
}
_RECOVERABLE = {
    8: "the GPU stopped processing",
    38: "firmware error",
    61: "internal microcontroller warning",
    74: "NVLink error",
    94: "contained memory error",
    110: "security fault",
    121: "corrected error of the link to the CPU",
    123: "power management failed",
}
_FATAL = {
    46: "the GPU stopped processing for good",
    48: "uncorrectable memory error",
    62: "internal microcontroller halted",
    64: "a faulty memory row or page could not be set aside",
    79: "the GPU has fallen off the bus",
    95: "uncontained memory error",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor failed",
    136: "a link of the GPU could not be trained",
    140: "unrecovered memory error",
    143: "the GPU could not be initialised",
}

KNOWN: dict[int, Xid] = {
    code: Xid(text, kind)
    for kind, codes in (
        (XidClass.APPLICATION, _APPLICATION),
        (XidClass.RECOVERABLE, _RECOVERABLE),
        (XidClass.FATAL, _FATAL),
    )
    for code, text in codes.items()
}
