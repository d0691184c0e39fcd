# SPDX-License-Identifier: Apache-2.0
"""A node with the real agent as a process, and pods as slave mount namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio
import yaml

from agents import holder_start, mountinfo, overview
from agents.hostfs import PROC, HostFs
from agents.mountinfo import MountEntry
from agents.mounts import LinuxMounts
from agents.processes import ProcessKey, identify, pids, signal_process
from fuse_mounter.agent import AGENT
from fuse_mounter.config import MounterConfig
from fuse_mounter.drain import drain_all
from fuse_mounter.drivers.base import private_suffix
from fuse_mounter.drivers.registry import DRIVERS
from fuse_mounter.places import Places

LIMIT_S = 20.0
T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str, limit_s: float = LIMIT_S) -> T:
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


@dataclass
class Pod:
    """A slave mount namespace that bound the root, or something in it: HostToContainer."""

    process: subprocess.Popen[bytes]
    at: Path

    def path(self, *parts: str) -> Path:
        """How a process outside reaches what the pod sees."""
        return PROC / str(self.process.pid) / "root" / str(self.at).lstrip("/") / Path(*parts)


@dataclass
class Node:
    """Directories, configuration and agent of one test."""

    directory: Path
    agent: subprocess.Popen[bytes] | None = None
    pods: list[Pod] = field(default_factory=list)

    @property
    def places(self) -> Places:
        return Places(self.directory / "root", self.directory / "run")

    @property
    def config_file(self) -> Path:
        return self.directory / "config.yaml"

    def source(self, name: str, **files: str) -> Path:
        """A local directory to serve."""
        path = self.directory / name
        path.mkdir()
        for file, text in files.items():
            (path / file).write_text(text)
        return path

    def configure(self, *mounts: dict[str, Any], **section: Any) -> None:
        health = {"hang_after": "1s", "probe_every": "1s"}
        document = {
            "node": {
                "name": "test",
                "run_dir": str(self.places.run_dir),
                "state_dir": str(self.directory / "state"),
                "metrics": {"address": "127.0.0.1", "ports": {"fuse_mounter": 0}},
                "status": {"ports": {"fuse_mounter": 0}},
                **section.pop("node", {}),
            },
            "fuse_mounter": {
                "root": str(self.places.root),
                "mounts": list(mounts),
                "health": health,
                **section,
            },
        }
        # As an editor or a ConfigMap does it: a reader never sees half a file.
        aside = self.config_file.with_suffix(".new")
        aside.write_text(yaml.safe_dump(document))
        aside.rename(self.config_file)

    def start(self) -> None:
        """Start the agent, as a process group of its own."""
        self.agent = self.run("mounts", self.directory / "agent.log")

    def run(self, noun: str, output: Path) -> subprocess.Popen[bytes]:
        """`nodeshare run`, where this node has it run."""
        argv = [str(Path(sys.executable).with_name("nodeshare")), "run", noun]
        with output.open("ab") as log:
            return subprocess.Popen(
                self.wrap([*argv, "--config", str(self.config_file)]),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "NODESHARE_RUN_DIR": str(self.directory)},
            )

    def wrap(self, argv: list[str]) -> list[str]:
        """The command line that runs this one where it belongs."""
        return argv

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the agent; returns its exit code."""
        assert self.agent is not None
        self.agent.send_signal(number)
        code = self.agent.wait(LIMIT_S)
        self.agent = None
        return code

    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    def document(self) -> dict[str, Any]:
        """The agent's status; empty while it does not answer."""
        (seen,) = overview.look((AGENT,), self.places.run_dir)
        return dict(seen.document or {})

    def mount(self, name: str) -> dict[str, Any]:
        mounts = self.document().get("mounts", [])
        return next((one for one in mounts if one["name"] == name), {})

    def wait(self, name: str, state: str = "published", **values: Any) -> dict[str, Any]:
        """Until this mount has this state and these values."""

        def look() -> dict[str, Any] | None:
            one = self.mount(name)
            wanted = {"state": state, **values}
            return one if all(one.get(key) == value for key, value in wanted.items()) else None

        try:
            return eventually(look, f"{name} {state} {values}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.mount(name)}\n{self.log()}") from None

    def recovered(self, name: str, times: int, cause: str = "client_ended") -> dict[str, Any]:
        return self.wait(name, recoveries={cause: times})

    def pod(
        self,
        bound: Path | None = None,
        *,
        bind: str = "rbind",
        propagation: str = "rslave",
        options: str = "",
        own_users: bool = False,
    ) -> Pod:
        """A pod that binds the root (or something in it) with HostToContainer, or in another of
        mount(8)'s ways; `options` such as `ro`; `own_users`: in a user namespace of its own.
        """
        at = self.directory / f"pod{len(self.pods)}"
        at.mkdir()
        script = (
            f"mount --{bind} {bound or self.places.root} {at} && mount --make-{propagation} {at}"
            + (f" && mount -o remount,bind,{options} {at}" if options else "")
            + " && echo ready && exec sleep 600"
        )
        users = ["--user", "--map-root-user"] if own_users else []
        process = subprocess.Popen(
            ["unshare", "-m", *users, "--propagation", "slave", "sh", "-c", script],
            stdout=subprocess.PIPE,
        )
        pod = Pod(process, at)
        self.pods.append(pod)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return pod

    def table(self) -> tuple[MountEntry, ...]:
        return mountinfo.below(mountinfo.read(PROC), self.directory)

    def marked(self) -> list[ProcessKey]:
        """Processes that this node's agent, holder and clients are."""
        return self.with_variable(f"NODESHARE_RUN_DIR={self.directory}")

    def clients(self) -> list[int]:
        """Those of its mounts."""
        staging = f"NODESHARE_STAGING={self.places.staging}/"
        return [key.pid for key in self.with_variable(staging)]

    def with_variable(self, beginning: str) -> list[ProcessKey]:
        """Processes with a variable that begins like this in their environment."""
        found = []
        for pid in pids(PROC):
            with suppress(OSError):
                variables = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
                key = identify(PROC, pid)
                if key and any(one.startswith(beginning.encode()) for one in variables):
                    found.append(key)
        return found

    def holders(self) -> list[int]:
        """By the command line, which has our socket in it."""
        socket = str(holder_start.socket_path(self.places.run_dir)).encode()
        found = []
        for key in self.marked():
            with suppress(OSError):
                arguments = (PROC / str(key.pid) / "cmdline").read_bytes().split(b"\0")
                if b"--socket" in arguments and socket in arguments:
                    found.append(key.pid)
        return found

    def holder_pid(self) -> int:
        (pid,) = self.holders()
        return pid

    def cgroups(self) -> list[Path]:
        """The holder's."""
        return holder_start.own_cgroups(
            HostFs().cgroup, holder_start.socket_path(self.places.run_dir)
        )

    def drain(self) -> None:
        """As `nodeshare mounts drain --all` does it."""
        config = MounterConfig(root=self.places.root)
        trio.run(drain_all, config, self.places, HostFs())

    def end(self) -> None:
        """Whatever happened: no process, no mount, no group of this node stays."""
        with ExitStack() as stack:
            stack.callback(trio.run, holder_start.clear, self.places.run_dir, HostFs())
            stack.callback(self.remove_caches)
            stack.callback(self.detach_all)
            stack.callback(self.kill_all)
            if self.agent is not None:
                self.agent.kill()
                self.agent.wait(LIMIT_S)
            for pod in self.pods:
                pod.process.kill()
                pod.process.communicate(timeout=LIMIT_S)

    def remove_caches(self) -> None:
        """What clients keep outside: whatever a test did, they have ended."""
        for driver in DRIVERS.values():
            if driver.caches is not None:
                for place in driver.caches.glob(f"*{private_suffix(self.places.staging)}"):
                    shutil.rmtree(place)
                for made in (driver.caches, driver.caches.parent):
                    with suppress(OSError):  # others have something there
                        made.rmdir()

    def kill_all(self) -> None:
        for key in self.marked():
            signal_process(PROC, key, signal.SIGKILL)
        eventually(lambda: not self.marked(), "all processes gone")

    def detach_all(self) -> None:
        for entry in reversed(self.table()):
            with suppress(OSError):
                LinuxMounts().unmount(Path(entry.mount_point), detach=True)


def scratch(source: Path, **more: Any) -> dict[str, Any]:
    """The usual mount."""
    return {
        "name": "scratch",
        "driver": "passthrough",
        "source": str(source),
        "path": "scratch",
        **more,
    }


def bindfs(source: Path, name: str = "scratch", **more: Any) -> dict[str, Any]:
    """A native client, which is there at once: for what is about the manager and not about a file
    system.
    """
    words = ["bindfs", "-f", "-o", "{ro}", str(source), "{mountpoint}"]
    return {"name": name, "driver": "command", "path": name, "command": words, **more}


def sick(mood: Path, name: str = "scratch", text: str = "one", **more: Any) -> dict[str, Any]:
    """A client that is as well as the file `mood` says (`tests.fakes.sick_client`)."""
    program = str(Path(__file__).with_name("sick_client.py"))
    words = [sys.executable, "-I", "-S", program, "{mountpoint}", str(mood), text]
    return {"name": name, "driver": "command", "path": name, "command": words, **more}
