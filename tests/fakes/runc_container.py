# SPDX-License-Identifier: Apache-2.0
"""Containers made by runc, as a node's runtime makes them: default capabilities, masked and
read-only paths, a read-only root with the machine's own programs.

Knows what a bundle says; nothing of views.
"""

from __future__ import annotations

import enum
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agents.hostfs import CGROUP
from tests.fakes.real_container import V2, RealContainer, eventually, remove_cgroup

#: What a pod's container gets that asks for nothing.
_CAPABILITIES = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_RAW"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
_MASKED = ("acpi", "asound", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")
_READ_ONLY = ["bus", "fs", "irq", "sys", "sysrq-trigger"]
_NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
_USERLAND = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_LIMIT_S = 60
#: Where ids of a user namespace begin on the host.
_FIRST_ID = 200_000


class Kind(enum.Enum):
    """How much of root a container's root is."""

    PLAIN = "plain"
    #: It may mount, as root of a user namespace of its own.
    USER_NAMESPACE = "user namespace"
    #: It may mount, as the host's root, and nothing is masked.
    PRIVILEGED = "privileged"


@dataclass
class RuncContainer(RealContainer):
    """`memory` in bytes, `cpus` as a quota (0: none); `pid_namespace_of` another's first process;
    `seccomp` as in a bundle (`linux.seccomp`), which then tells `annotations` too; `cpuset` as a
    list such as "0-3" (empty: all); `binds` are read-only: where, and what of the host.
    """

    kind: Kind = Kind.PLAIN
    memory: int = 256 << 20
    cpus: float = 1.0
    pid_namespace_of: int | None = None
    command: Sequence[str] = ("/usr/bin/sleep", "600")
    seccomp: Mapping[str, Any] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    cpuset: str = ""
    binds: Mapping[str, Path] = field(default_factory=dict)
    _bundle: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nodeshare-runc-")))

    def create(self) -> None:
        """The bundle; runc makes the cgroups."""
        self._bundle.chmod(0o755)  # users of a user namespace must get through
        root = self._bundle / "root"
        for name in ("dev", "etc", "proc", "sys", "tmp", "usr"):
            (root / name).mkdir(parents=True)
        for place in self.binds:  # users of a user namespace cannot make it
            if self.binds[place].is_dir():
                (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name in _USERLAND:
            here = Path("/") / name
            if here.is_symlink():
                (root / name).symlink_to(here.readlink())
        (self._bundle / "config.json").write_text(json.dumps(self._configuration(root)))

    def start(self) -> None:
        pid_file = self._bundle / "pid"
        where = ["--bundle", str(self._bundle), "--pid-file", str(pid_file)]
        self._runc("run", "--detach", *where, self.id)
        self.pid = int(pid_file.read_text())

    def run_once(self) -> str:
        """Instead of `start`: run its command to the end; what it says."""
        done = self._call("run", "--bundle", str(self._bundle), self.id)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def run(self, *argv: str) -> str:
        done = self._call("exec", self.id, *argv)
        return done.stdout + done.stderr

    def from_outside(self, *argv: str) -> str:
        """As root of the host in the container's namespaces: what an operator could do."""
        return super().run(*argv)

    def screen(self, program: str) -> str:
        """What a program shows on a terminal until it is told to quit."""
        command = " ".join(
            ["runc", "--root", f"{self._bundle}/state", "exec", "-t", self.id, program]
        )
        with subprocess.Popen(
            ["script", "-qec", f"stty rows 40 cols 120; {command}", "/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "linux"},
        ) as child:
            assert child.stdin is not None
            try:
                time.sleep(1)
                child.stdin.write(b"q")
                return child.communicate(timeout=_LIMIT_S)[0].decode(errors="replace")
            finally:
                child.kill()

    def update(self, *, memory: int) -> None:
        """Resize in place, as the runtime does it when the pod is resized."""
        self._runc("update", "--memory", str(memory), self.id)

    def pause(self) -> None:
        """Freeze all its processes by its cgroup."""
        self._runc("pause", self.id)

    def resume(self) -> None:
        self._runc("resume", self.id)

    def kill(self) -> None:
        super().kill()
        self._call("delete", "--force", self.id)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._bundle, ignore_errors=True)
        for root in [CGROUP] if V2 else [path for path in CGROUP.iterdir() if path.is_dir()]:
            eventually(partial(remove_cgroup, root / self.parent / self.id), "an empty cgroup")
            remove_cgroup(root / self.parent)  # the last one of several succeeds

    def _runc(self, *arguments: str) -> None:
        done = self._call(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # A file, not a pipe: the container would hold the pipe open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                ["runc", "--root", str(self._bundle / "state"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_LIMIT_S,
                check=False,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), "")

    def _configuration(self, root: Path) -> dict[str, Any]:
        """config.json (OCI runtime specification 1.0)."""
        more = () if self.kind is Kind.PLAIN else ("SYS_ADMIN",)
        capabilities = [f"CAP_{name}" for name in (*_CAPABILITIES, *more)]
        sets = ("bounding", "effective", "permitted")
        process = {
            "user": {"uid": 0, "gid": 0},
            "args": list(self.command),
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TERM=linux"],
            "cwd": "/",
            "capabilities": dict.fromkeys(sets, capabilities),
        }
        return {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": str(root), "readonly": True},
            "hostname": self.name,
            "annotations": dict(self.annotations),
            "mounts": [*_mounts(), *(_bind(place, str(at)) for place, at in self.binds.items())],
            "linux": self._linux(),
        }

    def _linux(self) -> dict[str, Any]:
        namespaces: list[dict[str, str]] = [{"type": name} for name in _NAMESPACES]
        if self.pid_namespace_of is not None:
            namespaces[0]["path"] = f"/proc/{self.pid_namespace_of}/ns/pid"
        linux: dict[str, Any] = {
            "cgroupsPath": f"/{self.parent}/{self.id}",
            "resources": {
                "memory": {"limit": self.memory},
                "cpu": {
                    "quota": int(self.cpus * 100_000),
                    "period": 100_000,
                    **({"cpus": self.cpuset} if self.cpuset else {}),
                },
            },
            "namespaces": namespaces,
        }
        if self.seccomp is not None:
            linux["seccomp"] = dict(self.seccomp)
        if self.kind is not Kind.PRIVILEGED:
            linux["maskedPaths"] = [f"/proc/{name}" for name in _MASKED] + ["/sys/firmware"]
            linux["readonlyPaths"] = [f"/proc/{name}" for name in _READ_ONLY]
        if self.kind is Kind.USER_NAMESPACE:
            namespaces.append({"type": "user"})
            mapping = [{"containerID": 0, "hostID": _FIRST_ID, "size": 65536}]
            linux |= {"uidMappings": mapping, "gidMappings": mapping}
        return linux


def _mounts() -> Sequence[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    kernels = {
        "/proc": ("proc", []),
        "/sys": ("sysfs", [*quiet, "ro"]),
        "/sys/fs/cgroup": ("cgroup", [*quiet, "ro", "relatime"]),
        "/dev": ("tmpfs", ["nosuid", "mode=755", "size=65536k"]),
        "/dev/pts": ("devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        "/dev/shm": ("tmpfs", [*quiet, "mode=1777"]),
        "/tmp": ("tmpfs", ["nosuid", "nodev", "mode=1777"]),
    }
    return [
        {"destination": place, "type": kind, "source": kind, "options": options}
        for place, (kind, options) in kernels.items()
    ] + [_bind(place, place) for place in ("/usr", "/etc")]


def _bind(place: str, source: str) -> dict[str, Any]:
    options = ["bind", "ro", "nosuid"]
    return {"destination": place, "type": "bind", "source": source, "options": options}
