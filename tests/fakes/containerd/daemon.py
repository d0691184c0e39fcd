# SPDX-License-Identifier: Apache-2.0
"""A real containerd (Debian's package, unpacked and never installed) with directories of its own.

A machine that runs containers already keeps its own: nothing is shared but the kernel. Knows no
kubelet and no agent.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from agents import mountinfo
from agents.hostfs import CGROUP, PROC

_REPOSITORY = Path(__file__).parents[3]
_PACKAGE = _REPOSITORY / "build/containerd"
_BUSYBOX = Path("/bin/busybox")
IMAGE = "nodeshare.test/busybox:1"
_START_LIMIT_S = 20.0

_CONFIG = """
version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{0}/containerd.sock"
[ttrpc]
address = "{0}/containerd.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{1}"
# Where one may not protect processes from the kernel's choice of victims, go without.
restrict_oom_score_adj = true
# Where the machine has AppArmor, its profile would have to be loaded.
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{0}/cni"
bin_dir = "{0}/cni"
"""


def programs() -> Path:
    """Where containerd's programs are; they are downloaded the first time."""
    if not _PACKAGE.exists():
        _PACKAGE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_PACKAGE.parent) as directory:
            fetched = subprocess.run(
                ["apt-get", "download", "-q", "containerd"],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            packages = list(Path(directory).glob("*.deb"))
            assert packages, f"apt-get could not download containerd: {fetched.stderr.strip()}"
            unpacked = Path(directory) / "unpacked"
            subprocess.run(["dpkg", "-x", packages[0], unpacked], check=True, timeout=120)
            try:
                unpacked.rename(_PACKAGE)
            except OSError:  # another run was quicker
                assert _PACKAGE.exists()
    return _PACKAGE / "usr/bin"


class Containerd:
    """The daemon. All containers have to be below `cgroup`: there `close` finds them."""

    def __init__(self, directory: Path, cgroup: str) -> None:
        self.directory, self._cgroup = directory, cgroup
        self.socket = directory / "containerd.sock"
        self._config = directory / "containerd.toml"
        self._config.write_text(_CONFIG.format(directory, IMAGE))
        self._programs = programs()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises AssertionError, with the end of its log, when it does not answer in time."""
        environment = {**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}"}
        with (self.directory / "containerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "containerd", "--config", self._config],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._has_image():
            assert time.monotonic() < deadline, self.log()
            self._ctr("images", "import", "-", input=_image())

    def _has_image(self) -> bool:
        return IMAGE in self._ctr("images", "ls", "-q")

    def _ctr(self, *words: str, input: bytes = b"") -> str:
        """Empty when there was no answer."""
        where = ["--address", str(self.socket), "--timeout", "5s", "--namespace", "k8s.io"]
        command = [str(self._programs / "ctr"), *where, *words]
        done = subprocess.run(command, input=input, capture_output=True, timeout=60, check=False)
        return done.stdout.decode() if done.returncode == 0 else ""

    def log(self) -> str:
        """The end of what it wrote."""
        return (self.directory / "containerd.log").read_text()[-4000:]

    def kill(self) -> None:
        """SIGKILL to the daemon; containers go on, as after a crash or an upgrade."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        """Take everything away, also what a test left half done."""
        self.kill()
        directories = [Path(one) for root in _hierarchies() for one in root.glob(self._cgroup)]
        for pid in {pid for one in directories for pid in _processes(one)} | self._shims():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for directory in directories:
            _remove_cgroups(directory)
        for entry in reversed(mountinfo.below(mountinfo.read(PROC), self.directory)):
            subprocess.run(["umount", "-l", entry.mount_point], timeout=30, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _shims(self) -> set[int]:
        """The processes beside the containers: they carry the path of our socket."""
        address = str(self.socket).encode()
        found = set()
        for path in PROC.glob("[0-9]*"):
            try:
                if address in (path / "cmdline").read_bytes().split(b"\0"):
                    found.add(int(path.name))
            except OSError:
                continue
        return found


def _hierarchies() -> list[Path]:
    unified = (CGROUP / "cgroup.controllers").exists()
    return [CGROUP] if unified else [path for path in CGROUP.iterdir() if path.is_dir()]


def _processes(directory: Path) -> set[int]:
    return {
        int(pid) for file in directory.rglob("cgroup.procs") for pid in file.read_text().split()
    }


def _remove_cgroups(directory: Path) -> None:
    deadline = time.monotonic() + 10
    while directory.exists():
        below = sorted(path for path in directory.rglob("*") if path.is_dir())
        for one in [*reversed(below), directory]:
            try:
                one.rmdir()
            except OSError:
                pass  # its processes are still ending
        assert time.monotonic() < deadline, f"{directory} cannot be removed"
        time.sleep(0.02)


def _image() -> bytes:
    """An image of busybox alone, as `docker save` would write it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "usr", "lib", "lib64", "data", "run", "var"):
            _add(tar, name, kind=tarfile.DIRTYPE)
        _add(tar, "bin/busybox", _BUSYBOX.read_bytes())
        for program in subprocess.check_output([_BUSYBOX, "--list"], text=True).split():
            if program != "busybox":
                _add(tar, f"bin/{program}", kind=tarfile.SYMTYPE, link="busybox")
    content = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "layer.tar", content)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return whole.getvalue()


def _add(
    tar: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    *,
    kind: bytes | None = None,
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size, entry.linkname = 0o755, len(content), link
    if kind is not None:
        entry.type = kind
    tar.addfile(entry, io.BytesIO(content))
