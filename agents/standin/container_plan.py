# SPDX-License-Identifier: Apache-2.0
"""What a container to start amounts to: its id, its cgroup, its environment, and what is refused.

Pure. Knows the kubelet's conventions, and no kernel.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import PurePosixPath

from agents.errors import AgentError
from agents.standin.pods import ContainerSpec, ContainerStart

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ID = re.compile(r"[0-9a-f]{64}")
_UID = re.compile(r"[\w-]+")


def new_container_id() -> str:
    """64 hexadecimal digits, as container runtimes have them."""
    return secrets.token_hex(32)


def cgroup_path(parent: str, start: ContainerStart) -> str:
    """Where the kubelet's cgroupfs driver would put this container, below a parent of our own.

    The quality of service is the pod's: Guaranteed when all its containers have both limits,
    BestEffort when none has any.
    """
    containers = start.pod.containers or (start.spec,)
    if all(_limits(spec) == 2 for spec in containers):
        service = ""
    elif any(_limits(spec) for spec in containers):
        service = "/burstable"
    else:
        service = "/besteffort"
    return f"/{parent.strip('/')}/kubepods{service}/pod{start.pod_uid}/{start.id}"


def environment(start: ContainerStart, marks: Mapping[str, str]) -> dict[str, str]:
    """The pod's own words win over a device plugin's, as in the kubelet; our marks over both."""
    return {
        "PATH": DEFAULT_PATH,
        "HOME": "/root",
        "HOSTNAME": start.pod.name,
        **start.env,
        **start.spec.env,
        **marks,
    }


def check(start: ContainerStart) -> None:
    """Raises AgentError for what would end up elsewhere than meant, or can reach no program."""
    if not _ID.fullmatch(start.id):
        raise AgentError(f"container id {start.id!r} is not 64 hexadecimal digits")
    if not _UID.fullmatch(start.pod_uid):
        raise AgentError(f"pod uid {start.pod_uid!r} cannot name a cgroup")
    if not start.spec.command:
        raise AgentError(f"container {start.spec.name!r} has no command")
    for name, value in (*start.env.items(), *start.spec.env.items()):
        if not name or "=" in name or "\0" in name + value:
            raise AgentError(f"{name!r} cannot be an environment variable of {start.spec.name!r}")
    targets = [volume.container_path for volume in (*start.volumes, *start.spec.volumes)]
    for target in (*targets, *(device.container_path for device in start.devices)):
        path = PurePosixPath(target)
        if not path.is_absolute() or len(path.parts) < 2 or ".." in path.parts:
            raise AgentError(
                f"container path {target!r} of {start.spec.name!r} is not an absolute path below /"
            )


def _limits(spec: ContainerSpec) -> int:
    return sum(limit is not None for limit in (spec.cpu_millis, spec.memory_bytes))
