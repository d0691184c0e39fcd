# SPDX-License-Identifier: Apache-2.0
"""The part of the mount agent that keeps credentials, alone: for tests in the same process, and as
a process of its own (`python -m tests.fakes.credential_agent CONFIG DIRECTORY MOUNT`), which writes
status and metrics into files there, and proves tokens on that directory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from prometheus_client import CollectorRegistry, generate_latest

from agents.config import LogConfig
from agents.hostfs import HostFs
from agents.logs import configure, get_logger
from agents.metrics import GuardedCollector
from agents.mounts import LinuxMounts
from fuse_mounter.credentials import metrics
from fuse_mounter.credentials.config import Credentials
from fuse_mounter.credentials.service import CredentialsService


def service(
    section: dict[str, Any],
    changed: Callable[[], None] = lambda: None,
    published: Callable[[str], Path | None] = lambda _: None,
) -> CredentialsService:
    """Of such a section of the configuration."""
    return CredentialsService(
        Credentials.model_validate(section),
        HostFs(),
        get_logger(),
        LinuxMounts(),
        changed=changed,
        published=published,
    )


def exposition(running: CredentialsService) -> str:
    """Its metrics, as they are scraped."""
    registry = CollectorRegistry()
    prefix = "nodeshare_mount"

    def collect() -> Any:
        return metrics.collect(prefix, running.status, per_user=running.user_metrics)

    registry.register(GuardedCollector(prefix, {"credentials": collect}))
    return generate_latest(registry).decode()


async def main(config: Path, directory: Path, mount: Path) -> None:
    """Until killed."""
    running = service(json.loads(config.read_text()), published=lambda _: mount)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        while True:
            (directory / "status.json").write_text(json.dumps(running.status.to_json()))
            (directory / "metrics.txt").write_text(exposition(running))
            await trio.sleep(0.1)


if __name__ == "__main__":
    configure(LogConfig.model_validate({"level": "debug"}), agent="fuse_mounter", node="test")
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
