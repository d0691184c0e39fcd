# SPDX-License-Identifier: Apache-2.0
"""An agent as its pod runs it: from the image, by runc, with exactly what the manifest gives.

A manifest is a DaemonSet as the API server gets it. What the kubelet and containerd make of it is
written down here: users, capabilities, what is masked, volumes and their propagation. Seccomp's and
AppArmor's profiles of a runtime are not.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.hostfs import DEV, PROC
from tests.fakes.image import Image

Manifest = Mapping[str, Any]

#: containerd's, for whoever drops none (its default specification).
_DEFAULT_CAPABILITIES = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_RAW"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
#: By number (linux/capability.h).
_ALL_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
_MASKED = ("acpi", "asound", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_PROPAGATION = {None: "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}
_LIMIT_S = 60.0


class PodAgent:
    """A running container: what is used of a `subprocess.Popen`. `host` tells where a path of the
    node lies, and is seen inside, too; `config` is the text of the configuration.
    """

    def __init__(
        self,
        manifest: Manifest,
        image: Image,
        directory: Path,
        *,
        host: Callable[[str], Path],
        config: str,
        log: Path,
    ) -> None:
        self._pod = manifest["spec"]["template"]["spec"]
        (self._container,) = self._pod["containers"]
        self._security = self._container.get("securityContext", {})
        self._image, self._directory, self._host, self._log = image, directory, host, log
        self._id = f"nodeshare-{self._container['name']}-{secrets.token_hex(4)}"
        for name in ("upper", "work", "root", "state", "config"):
            (directory / name).mkdir(parents=True)
        (directory / "config/nodeshare.yaml").write_text(config)
        self._runc: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        layers = ",".join(
            [f"lowerdir={':'.join(map(str, self._image.files))}"]
            + [f"{name}dir={self._directory / name}" for name in ("upper", "work")]
        )
        _run("mount", "-t", "overlay", "overlay", "-o", layers, str(self._directory / "root"))
        (self._directory / "config.json").write_text(json.dumps(self._bundle(), indent=1))
        with self._log.open("ab") as log:
            self._runc = subprocess.Popen(
                [*self._command("run"), "--bundle", self._directory, *self._pid_file(), self._id],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """The agent's, on the host."""
        return int((self._directory / "pid").read_text())

    def poll(self) -> int | None:
        assert self._runc is not None
        return self._runc.poll()

    def send_signal(self, number: int) -> None:
        """Nothing, when it has ended."""
        told = [*self._command("kill"), self._id, str(number)]
        subprocess.run(told, check=False, timeout=_LIMIT_S, capture_output=True)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        assert self._runc is not None
        return self._runc.wait(timeout)

    def ends_when_told(self) -> bool:
        """Whether it does something about SIGTERM by now."""
        try:
            status = (PROC / str(self.pid) / "status").read_text()
        except FileNotFoundError:
            return False
        (caught,) = re.findall(r"SigCgt:\t(\w+)", status)
        return "python" in _command_line(self.pid) and bool(
            int(caught, 16) >> (signal.SIGTERM - 1) & 1
        )

    def exec(
        self, *argv: str, options: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command beside the agent, as `kubectl exec` runs it; `options` are those of runc."""
        return subprocess.run(
            [*self._command("exec"), *options, self._id, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=check,
        )

    def remove(self) -> None:
        """Whatever came before: nothing stays."""
        if self._runc is not None and self._runc.poll() is None:
            self.kill()
            self._runc.wait(_LIMIT_S)
        remove = [*self._command("delete"), "--force", self._id]
        subprocess.run(remove, check=False, timeout=_LIMIT_S, capture_output=True)
        root = str(self._directory / "root")
        subprocess.run(["umount", "--lazy", root], check=False, capture_output=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _command(self, verb: str) -> list[str]:
        return ["runc", "--root", str(self._directory / "state"), verb]

    def _pid_file(self) -> list[str]:
        return ["--pid-file", str(self._directory / "pid")]

    def _bundle(self) -> dict[str, Any]:
        """config.json (OCI runtime specification 1.0)."""
        privileged = self._security.get("privileged", False)
        user = {**self._pod.get("securityContext", {}), **self._security}
        mounts = [*_kernels(privileged=privileged), *self._volumes()]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user.get("runAsUser", 0), "gid": user.get("runAsGroup", 0)},
                "args": [*self._image.configuration["Entrypoint"], *self._container["args"]],
                "env": [*self._image.configuration["Env"], *self._environment()],
                "cwd": "/",
                "capabilities": dict.fromkeys(
                    ("bounding", "effective", "permitted"), capabilities(self._security)
                ),
                "noNewPrivileges": not self._security.get("allowPrivilegeEscalation", True),
            },
            "root": {
                "path": str(self._directory / "root"),
                "readonly": self._security.get("readOnlyRootFilesystem", False),
            },
            **({} if self._pod.get("hostNetwork") else {"hostname": "node"}),
            "mounts": mounts,
            "linux": self._linux(mounts, privileged=privileged),
        }

    def _linux(self, mounts: Sequence[Mapping[str, Any]], *, privileged: bool) -> dict[str, Any]:
        namespaces = ["mount", "ipc", *([] if self._pod.get("hostNetwork") else ["network", "uts"])]
        if not self._pod.get("hostPID"):
            namespaces.append("pid")
        options = {option for mount in mounts for option in mount["options"]}
        wanted = [name for name in ("rshared", "rslave") if name in options]
        linux: dict[str, Any] = {
            "cgroupsPath": f"/{self._id}",
            "namespaces": [{"type": name} for name in namespaces],
            "resources": {"devices": [{"allow": privileged, "access": "rwm"}]},
            "rootfsPropagation": wanted[0] if wanted else "rprivate",
        }
        if privileged:
            return linux | {"devices": list(_devices())}
        return linux | {
            "maskedPaths": [f"/proc/{name}" for name in _MASKED] + ["/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in _READ_ONLY],
        }

    def _environment(self) -> Iterator[str]:
        fields = {"spec.nodeName": "node", "metadata.name": "pod", "metadata.namespace": "here"}
        for one in self._container.get("env", ()):
            source = one.get("valueFrom")
            value = fields[source["fieldRef"]["fieldPath"]] if source else one["value"]
            yield f"{one['name']}={value}"

    def _volumes(self) -> Iterator[dict[str, Any]]:
        volumes = {one["name"]: one for one in self._pod["volumes"]}
        for mount in self._container["volumeMounts"]:
            volume = volumes[mount["name"]]
            place = mount["mountPath"]
            if "configMap" in volume:
                source = self._directory / "config"
            elif "emptyDir" in volume:
                source = self._host(place)
                place = str(source)
            else:
                source = self._host(volume["hostPath"]["path"])
                # Where the node has it elsewhere, so does the configuration.
                place = str(source) if str(source) != volume["hostPath"]["path"] else place
            if volume.get("hostPath", {}).get("type") != "Directory":
                source.mkdir(parents=True, exist_ok=True)
            propagation = _PROPAGATION[mount.get("mountPropagation")]
            options = ["rbind", propagation, "ro" if mount.get("readOnly") else "rw"]
            yield {"destination": place, "type": "bind", "source": str(source), "options": options}


def _command_line(pid: int) -> str:
    return (PROC / str(pid) / "cmdline").read_text()


def capabilities(security: Mapping[str, Any]) -> list[str]:
    """What containerd makes of `securityContext`."""
    if security.get("privileged"):
        # All that this machine lets root have.
        (own,) = re.findall(r"CapBnd:\t(\w+)", (PROC / "self/status").read_text())
        every = enumerate(_ALL_CAPABILITIES)
        return [f"CAP_{name}" for number, name in every if int(own, 16) >> number & 1]
    said = security.get("capabilities", {})
    left = [] if "ALL" in said.get("drop", ()) else list(_DEFAULT_CAPABILITIES)
    dropped = [name for name in left if name not in said.get("drop", ())]
    return [f"CAP_{name}" for name in [*dropped, *said.get("add", ())]]


def _kernels(*, privileged: bool) -> Iterator[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    how = "rw" if privileged else "ro"
    kernels = {
        "/proc": ("proc", quiet),
        "/dev": ("tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        "/dev/pts": ("devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        "/dev/shm": ("tmpfs", [*quiet, "mode=1777", "size=65536k"]),
        "/dev/mqueue": ("mqueue", quiet),
        "/sys": ("sysfs", [*quiet, how]),
        "/sys/fs/cgroup": ("cgroup", [*quiet, how]),
    }
    for place, (kind, options) in kernels.items():
        yield {"destination": place, "type": kind, "source": kind, "options": options}


def _devices() -> Iterator[dict[str, Any]]:
    """All of the host's, as a privileged container has them."""
    for directory, _, names in os.walk(DEV):
        if Path(directory).name in ("pts", "shm", "mqueue"):
            continue
        for name in names:
            path = Path(directory, name)
            found = path.lstat()
            if not stat.S_ISCHR(found.st_mode) and not stat.S_ISBLK(found.st_mode):
                continue
            yield {
                "path": str(path),
                "type": "c" if stat.S_ISCHR(found.st_mode) else "b",
                "major": os.major(found.st_rdev),
                "minor": os.minor(found.st_rdev),
                "fileMode": stat.S_IMODE(found.st_mode),
                "uid": found.st_uid,
                "gid": found.st_gid,
            }


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
