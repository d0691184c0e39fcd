# SPDX-License-Identifier: Apache-2.0
"""The mount agent and pods in the guest, driven from this side: where the processor is emulated a
Python costs seconds, so the agent and its own processes are the only ones there.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from agents.command import NODESHARE
from tests.guest.guest import Done, Guest

#: For an agent that starts on an emulated processor while this machine is busy.
LIMIT_S = 150.0
_PORTS = {"metrics": 19402, "status": 19412}
#: Processes by their command lines, as the holder is nobody's child; then mounts, deepest first.
_END = """
kill -9 $(cat {directory}/*.pid) || true
for one in $(grep -lsF {directory}/ /proc/[0-9]*/cmdline); do
  pid=${{one%/cmdline}} pid=${{pid#/proc/}}
  [ $pid = $$ ] || kill -9 $pid || true
done
for place in $(grep -F ' {directory}/' /proc/self/mountinfo | cut -d ' ' -f 5 | sort -r); do
  umount --lazy $place
done
rm -rf {directory}
"""
T = TypeVar("T")


class Pod:
    """A slave mount namespace of the guest that bound the root: HostToContainer."""

    def __init__(self, guest: Guest, root: PurePosixPath) -> None:
        at = root.with_name("pod")
        script = (
            f"mkdir -p {at} && mount --rbind {root} {at} && mount --make-rslave {at}"
            f" && echo $$ >{at}.pid && exec sleep 1000"
        )
        isolated = f"unshare -m --propagation slave sh -c {shlex.quote(script)}"
        guest.run(f"rm -f {at}.pid; {isolated} >/dev/null 2>&1 &")
        pid = guest.run(f"until cat {at}.pid; do sleep 0.05; done 2>/dev/null").stdout.strip()
        self._guest = guest
        #: What it sees of the root, for a process of the guest that is not in it.
        self.sees = PurePosixPath(f"/proc/{pid}/root{at}")

    def run(self, script: str, *, check: bool = True) -> Done:
        """Shell text, in which `$root` is what the pod bound."""
        return self._guest.run(f"root={self.sees}; {script}", check=check)

    def aside(self, script: str, output: PurePosixPath) -> None:
        """The same, not waited for: it may hang."""
        text = shlex.quote(f"root={self.sees}; {script}")
        self._guest.run(f"setsid sh -c {text} </dev/null >{output} 2>&1 &")


class MountNode:
    """Directories, configuration and agent below one directory of the guest."""

    def __init__(self, guest: Guest, directory: PurePosixPath) -> None:
        self.guest, self.directory = guest, directory
        guest.run(f"mkdir -p {directory}/run {directory}/root")

        self._pid = directory / "agent.pid"

    @property
    def root(self) -> PurePosixPath:
        return self.directory / "root"

    def configure(self, *mounts: Mapping[str, Any]) -> None:
        """The probes are as quick as an emulated processor lets them."""
        document = {
            "node": {
                "name": "guest",
                "run_dir": f"{self.directory}/run",
                "state_dir": f"{self.directory}/state",
                "metrics": {"address": "127.0.0.1", "ports": {"fuse_mounter": _PORTS["metrics"]}},
                "status": {"ports": {"fuse_mounter": _PORTS["status"]}},
            },
            "fuse_mounter": {
                "root": str(self.root),
                "mounts": list(mounts),
                "health": {"hang_after": "2s", "probe_every": "1s"},
            },
        }
        aside = f"{self.directory}/config.new"  # JSON is YAML
        self.guest.run(
            f"printf %s {shlex.quote(json.dumps(document))} >{aside}"
            f" && mv {aside} {self.directory}/config.yaml"
        )

    def start(self) -> None:
        """Start the agent."""
        command = f"{shlex.join(NODESHARE)} run mounts --config {self.directory}/config.yaml"
        self.guest.run(
            f"setsid {command} </dev/null >>{self.directory}/log 2>&1 & echo $! >{self._pid}"
        )

    def kill(self) -> None:
        """End the agent without asking it."""
        self.guest.run(
            f"pid=$(cat {self._pid}); kill -9 $pid; while [ -e /proc/$pid ]; do sleep 0.05; done"
        )

    def end(self) -> None:
        """Nothing of it stays: no process, no mount."""
        self.guest.run(_END.format(directory=self.directory))

    def log(self) -> str:
        return self.guest.run(f"cat {self.directory}/log").stdout

    def get(self, what: str, path: str) -> str:
        """What the agent answers over HTTP, as `metrics` or `status`; empty when it does not (it
        may be starting). An agent that has ended is an error.
        """
        asked = f"GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n"
        said = self.guest.run(
            f"exec 3<>/dev/tcp/127.0.0.1/{_PORTS[what]} || exec [ -e /proc/$(cat {self._pid}) ]; "
            f"printf '{asked}' >&3; timeout 10 cat <&3",
            check=False,
        )
        assert said.returncode == 0, f"no agent any more: {self.log()}"
        return said.stdout.partition("\r\n\r\n")[2]

    def mount(self, name: str) -> dict[str, Any]:
        """Its status; empty while there is none."""
        text = self.get("status", "/status.json")
        mounts = json.loads(text).get("mounts", []) if text else []
        return next((one for one in mounts if one["name"] == name), {})

    def wait(self, name: str, state: str, **values: Any) -> dict[str, Any]:
        """Until this mount has this state and these values."""
        wanted = {"state": state, **values}

        def look() -> dict[str, Any] | None:
            one = self.mount(name)
            return one if all(one.get(key) == value for key, value in wanted.items()) else None

        return self.until(look, f"{name} {wanted}")

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """What `look` finds, as soon as it finds something."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if found := look():
                return found
            time.sleep(0.05)
        said = self.guest.run(
            f"tail -n 40 {self.directory}/log; grep nfs /proc/self/mountinfo || true"
        )
        raise AssertionError(f"not within {LIMIT_S:g} s: {what}\n{said.stdout}")
