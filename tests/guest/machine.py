# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that boots a kernel over this machine's own files, read-only, and answers on a
port.

Knows the processes that it takes, and lines of JSON; not what is asked of the guest.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.guest import boot
from tests.guest.boot import Kernel, Missing

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]
_QEMU = "qemu-system-x86_64"
_VIRTIOFSD = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"))
#: Until the guest says that it is up. Without KVM it takes two to three seconds.
_BOOT_S = {"kvm": 20.0, "tcg": 120.0}


class GuestError(Exception):
    """The guest did not do what it should, in its own words."""


class Machine:
    """Boots once; is gone when it is closed, or when this process dies."""

    def __init__(self, kernel: Kernel, *, memory_mib: int, cpus: int) -> None:
        self._kernel, self._memory_mib, self._cpus = kernel, memory_mib, cpus
        # A short path: that of a socket has at most 107 bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="nodeshare-guest-", dir="/tmp"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._port = socket.socket(socket.AF_UNIX)
        self._pending = b""

    def boot(self) -> str:
        """How the processor is had: `kvm` or `tcg`. Raises Missing, GuestError."""
        boot.require(_QEMU, "setpriv", "unshare")
        start = f"exec switch_root /root {sys.executable} -I {_HERE}/init.py {_REPOSITORY}\n"
        boot.make_initramfs(self._kernel, self._directory / "initramfs", start)
        accelerators = ("kvm", "tcg") if os.access("/dev/kvm", os.W_OK) else ("tcg",)
        for accelerator in accelerators:
            try:
                self._start(accelerator)
                self.receive(_BOOT_S[accelerator])
            except (GuestError, OSError) as error:
                # A KVM that is there need not work: one in a virtual machine often does not.
                if accelerator == accelerators[-1]:
                    raise GuestError(f"it does not boot: {error}\n{self._console()}") from None
                self._stop()
            else:
                return accelerator
        raise AssertionError("there is always one that is tried")

    def send(self, message: Mapping[str, Any]) -> None:
        self._port.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Raises GuestError when there is no answer in time, or the guest has ended."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            self._port.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._port.recv(1 << 16)
            except TimeoutError:
                raise GuestError("the guest does not answer") from None
            if not data:
                raise GuestError("the guest has ended")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Its memory is all that there is of it: nothing has to be saved."""
        self._stop()
        self._port.close()
        # Qemu's own virtiofsd leaves this behind when it is killed.
        name = str(self._directory / "files").replace("/", ".")
        Path(f"/run/virtiofsd/{name}.pid").unlink(missing_ok=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self, accelerator: str) -> None:
        files, port = self._directory / "files", self._directory / "port"
        share = self._directory / "share"
        share.mkdir(exist_ok=True)
        options = [f"--socket-path={files}", "-o", f"source={share}", "-o", "sandbox=chroot"]
        serve = [sys.executable, "-m", "tests.guest.share", str(share), str(_virtiofsd())]
        self._spawn("files.log", ["unshare", "--mount", *serve, *options, "-o", "cache=always"])
        self._until(files.exists, "the server of its files")
        self._spawn("console", [_QEMU, *self._arguments(accelerator, files, port)])
        self._until(port.exists, "its port")
        self._port.connect(str(port))

    def _stop(self) -> None:
        self._port.close()
        self._port, self._pending = socket.socket(socket.AF_UNIX), b""
        for process in reversed(self._processes):
            process.kill()
            process.wait(timeout=10)
        self._processes.clear()
        for name in ("files", "port"):
            (self._directory / name).unlink(missing_ok=True)

    def _arguments(self, accelerator: str, files: Path, port: Path) -> Iterator[str]:
        memory = f"{self._memory_mib}M"
        yield from ("-accel", accelerator, "-cpu", "max", "-smp", str(self._cpus), "-m", memory)
        # The server of the files reads and writes the guest's memory.
        yield from ("-object", f"memory-backend-memfd,id=memory,size={memory},share=on")
        yield from ("-machine", "pc,memory-backend=memory", "-no-reboot", "-nodefaults")
        yield from ("-display", "none", "-serial", "stdio")
        yield from ("-kernel", str(self._kernel.image), "-initrd", f"{self._directory}/initramfs")
        yield from ("-append", "console=ttyS0 panic=-1 quiet")
        yield from ("-chardev", f"socket,id=files,path={files}")
        yield from ("-device", "vhost-user-fs-pci,chardev=files,tag=host")
        yield from ("-chardev", f"socket,id=port,path={port},server=on,wait=off")
        yield from ("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port")
        yield from ("-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network")

    def _spawn(self, log: str, argv: Sequence[str]) -> None:
        with (self._directory / log).open("wb") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                cwd=_REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.monotonic() > deadline:
                raise GuestError(f"{what} did not come up")
            time.sleep(0.01)

    def _console(self) -> str:
        """The end of what was said by the processes and by the kernel."""
        logs = [self._directory / name for name in ("files.log", "console")]
        return "\n".join(log.read_text(errors="replace")[-4000:] for log in logs if log.exists())


def _virtiofsd() -> Path:
    found = [path for path in _VIRTIOFSD if path.exists()]
    if not found:
        raise Missing("no virtiofsd here: install the package virtiofsd or qemu-system-common")
    return found[0]
