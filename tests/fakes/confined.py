# SPDX-License-Identifier: Apache-2.0
"""What a container of a manifest may do, for a command of this machine.

Its capabilities, no new privileges, and a root file system that is read-only but for the places
that the manifest lets it write to. (With the mounts of the manifest and nothing else, and under a
runtime's seccomp profile, agents run in tests/e2e/image.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.mounts import LinuxMounts, MountAttribute


def confined(container: Mapping[str, Any], places: Mapping[str, Path]) -> list[str]:
    """What to put before a command. `places`: where this machine has the mount paths of the
    manifest that matter to it; paths of the container that are not in it do not exist for it.
    """
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"]["drop"] == ["ALL"]
    writable = [
        str(places[mount["mountPath"]])
        for mount in container["volumeMounts"]
        if mount["mountPath"] in places and not mount.get("readOnly", False)
    ]
    may = ",".join(["-all", *(f"+{one.lower()}" for one in security["capabilities"]["add"])])
    return [
        *("unshare", "--mount", "--propagation", "slave"),
        *(sys.executable, "-m", __name__, *writable, "--"),
        *("setpriv", "--no-new-privs", "--bounding-set", may, "--inh-caps", "-all", "--"),
    ]


def main(arguments: list[str]) -> None:
    """Writable places, `--`, and the command, which takes our place."""
    end = arguments.index("--")
    mounts = LinuxMounts()
    writable = [
        (Path(place), mounts.clone(Path(place), recursive=True)) for place in arguments[:end]
    ]
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    mounts.set_attributes(root, MountAttribute.RDONLY, recursive=True)
    for place, mount in writable:
        mounts.attach(mount, place)
    os.execvp(arguments[end + 1], arguments[end + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
