# SPDX-License-Identifier: Apache-2.0
"""Become virtiofsd, serving all of this machine's file systems read-only.

Run in a mount namespace of its own: `share.py DIRECTORY PROGRAM ARGUMENTS`. Read-only holds here,
whatever root in the guest does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from agents.mounts import LinuxMounts, MountAttribute

if __name__ == "__main__":
    mounts = LinuxMounts()
    everything = mounts.clone(Path("/"), recursive=True)
    mounts.set_attributes(everything, MountAttribute.RDONLY, recursive=True)
    mounts.attach(everything, Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
