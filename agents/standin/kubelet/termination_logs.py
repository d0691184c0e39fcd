# SPDX-License-Identifier: Apache-2.0
"""The files in which containers leave why they ended, as the kubelet keeps and mounts them: a new
one for every start, `pods/<uid>/containers/<name>/<eight hex digits>`, open to every user inside.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path

from agents.standin.pods import ContainerStart, Volume

#: `terminationMessagePath`, where a pod does not say otherwise.
_CONTAINER_PATH = "/dev/termination-log"
#: No more of it is shown.
_SHOWN = 4096


class TerminationLogs:
    """Of all pods below the kubelet's directory."""

    def __init__(self, kubelet_dir: Path) -> None:
        self._pods = kubelet_dir / "pods"

    def make(self, pod_uid: str, container: str) -> Volume:
        """For a container that is started now."""
        directory = self._pods / pod_uid / "containers" / container
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / secrets.token_hex(4)
        path.touch()
        path.chmod(0o666)
        return Volume(path, _CONTAINER_PATH)

    def read(self, ended: ContainerStart) -> str:
        """What a run left; empty: nothing."""
        for volume in ended.volumes:
            if volume.container_path == _CONTAINER_PATH:
                with contextlib.suppress(OSError), volume.host_path.open("rb") as file:
                    return file.read(_SHOWN).decode(errors="replace")
        return ""

    def remove(self, pod_uid: str) -> None:
        """Of a pod that is gone."""
        shutil.rmtree(self._pods / pod_uid, ignore_errors=True)
