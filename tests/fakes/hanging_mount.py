# SPDX-License-Identifier: Apache-2.0
"""FUSE mounts whose server takes every request and answers none: who looks into them waits, and
SIGKILL does not help."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import threading

_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_INIT = 26
_INIT_OUT = struct.Struct("<IIIIHHI40x")
#: Several at once: a program that starts may look into the first, and then would wait there.
_PROGRAM = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for path, device in zip(sys.argv[1::2], sys.argv[2::2]):
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hanging", path.encode(), b"fuse", 0, data):
        sys.stderr.write(os.strerror(ctypes.get_errno()))
        os._exit(1)
os._exit(0)
"""


class HangingMounts:
    """At paths in the mount namespace of a process. Everybody who waits is let go at the end."""

    def __init__(self, pid: int, *paths: str) -> None:
        self._devices = [os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC) for _ in paths]
        self._stop = threading.Event()
        words = [word for pair in zip(paths, map(str, self._devices), strict=True) for word in pair]
        done = subprocess.run(
            ["nsenter", "-t", str(pid), "-m", "/usr/bin/python3", "-c", _PROGRAM, *words],
            pass_fds=self._devices,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        #: Set when the first request was taken after the mounts themselves were answered.
        self.taken = threading.Event()
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def __enter__(self) -> HangingMounts:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        for device in self._devices:
            os.close(device)  # ends the connection: waiters get ENOTCONN

    def _take(self) -> None:
        poller = select.poll()
        for device in self._devices:
            poller.register(device, select.POLLIN)
        while not self._stop.is_set():
            for device, _ in poller.poll(50):
                self._answer(device, poller)

    def _answer(self, device: int, poller: select.poll) -> None:
        try:
            request = os.read(device, 1 << 17)
        except OSError:  # unmounted
            poller.unregister(device)
            return
        _, opcode, unique = _IN.unpack_from(request)[:3]
        if opcode == _INIT:
            major, minor, ahead = struct.unpack_from("<III", request, _IN.size)
            answer = _INIT_OUT.pack(major, min(minor, 31), ahead, 0, 12, 9, 1 << 16)
            header = _OUT.pack(_OUT.size + len(answer), 0, unique)
            os.write(device, header + answer)
        else:
            self.taken.set()
