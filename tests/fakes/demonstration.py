# SPDX-License-Identifier: Apache-2.0
"""A running `nodeshare up` without a configuration, as an operator starts it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents import overview
from agents.agent import installed

NODESHARE = [sys.executable, "-m", "agents"]
START_S = 60.0


class Up:
    """A running `nodeshare up`, its output, and what its agents say."""

    def __init__(self, directory: Path, output: Path, *prefix: str) -> None:
        """`prefix`: words of a command that runs it elsewhere, such as in another namespace."""
        self.directory, self.output = directory, output
        with output.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *NODESHARE, "up", "--dir", str(directory), "--free-ports", "--plain"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.output.read_text()

    def status(self) -> dict[str, dict[str, Any]]:
        """What each agent says of itself; empty where it does not answer."""
        seen = overview.look(installed(), self.directory / "run")
        return {one.agent.section: dict(one.document or {}) for one in seen}

    def until(self, what: Callable[[], bool], timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text() + self.logs()
            time.sleep(0.1)

    def until_shown(self, pattern: str) -> None:
        self.until(lambda: re.search(pattern, self.text()) is not None)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in (self.directory / "logs").glob("*.log"))

    def client(self) -> int | None:
        mounts = self.status()["fuse_mounter"].get("mounts")
        assert isinstance(mounts, list)
        return next((mount.get("client_pid") for mount in mounts), None)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(40) == 0, self.text()


def all_pods_read_the_file(up: Up) -> bool:
    rows = [line for line in up.text().splitlines() if line.startswith("  jupyterhub/")]
    seen = {line.split()[0] for line in rows if "Running" in line and "FUSE client" in line}
    return seen == {"jupyterhub/ada", "jupyterhub/grace", "jupyterhub/emmy"}
