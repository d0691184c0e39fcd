# SPDX-License-Identifier: Apache-2.0
"""The program that asks a container runtime once who runs here, and prints it as JSON.

gRPC takes a third of an agent's memory. Who asks the runtime only now and then, when there is
somebody new, asks through this program and keeps the memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from agents import command
from agents.containers import Container, Pod
from agents.errors import Unavailable

_LIMIT_S = 5.0


async def containers(socket: Path) -> tuple[Container, ...]:
    """All running containers, by a child of ours. Raises Unavailable, also where there is no
    runtime.
    """
    if not socket.exists():
        raise Unavailable(f"there is no runtime at {str(socket)!r}")
    argv = [sys.executable, "-m", __name__, str(socket)]
    try:
        result = await command.run(argv, timeout_s=2 * _LIMIT_S)
    except OSError as error:
        raise Unavailable(f"no child can be started: {error.strerror}") from error
    if not result.ok:
        raise Unavailable(result.describe())
    try:
        rows = json.loads(result.output)
    except ValueError as error:
        raise Unavailable("the runtime's answer was cut short") from error
    return tuple(Container(**{**row, "pod": Pod(**row["pod"])}) for row in rows)


def main(arguments: Sequence[str]) -> int:
    """Print the containers of the runtime behind this socket."""
    from agents.cri import CriContainers  # heavy: gRPC; only this program needs it

    runtime = CriContainers(Path(arguments[0]), timeout_s=_LIMIT_S)
    try:
        sys.stdout.write(json.dumps([_row(container) for container in runtime.list()]))
    except Unavailable as error:
        sys.stdout.write(str(error))
        return 1
    finally:
        runtime.close()
    return 0


def _row(container: Container) -> dict[str, object]:
    pod = container.pod
    return {
        "id": container.id,
        "name": container.name,
        "pod": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "pid": container.pid,
        "created_at_ns": container.created_at_ns,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
