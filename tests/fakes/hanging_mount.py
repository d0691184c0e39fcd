# SPDX-License-Identifier: Apache-2.0
"""A FUSE mount whose server takes every request and answers none: who looks into it waits, and
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
_PROGRAM = (
    "import ctypes, os, sys\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "data = f'fd={sys.argv[2]},rootmode=40000,user_id=0,group_id=0,allow_other'.encode()\n"
    "if libc.mount(b'hanging', sys.argv[1].encode(), b'fuse', 0, data):\n"
    "    sys.exit(os.strerror(ctypes.get_errno()))\n"
)


class HangingMount:
    """At a path in the mount namespace of a process. Everybody who waits is let go at the end."""

    def __init__(self, pid: int, path: str) -> None:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._stop = threading.Event()
        enter = ["nsenter", "-t", str(pid), "-m"]
        done = subprocess.run(
            [*enter, "/usr/bin/python3", "-c", _PROGRAM, path, str(self._device)],
            pass_fds=(self._device,),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        #: Set when the first request was taken after the mount itself was answered.
        self.taken = threading.Event()
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def __enter__(self) -> HangingMount:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        os.close(self._device)  # ends the connection: waiters get ENOTCONN

    def _take(self) -> None:
        poller = select.poll()
        poller.register(self._device, select.POLLIN)
        while not self._stop.is_set():
            if not poller.poll(50):
                continue
            try:
                request = os.read(self._device, 1 << 17)
            except OSError:  # unmounted
                return
            _, opcode, unique = _IN.unpack_from(request)[:3]
            if opcode == _INIT:
                major, minor, ahead = struct.unpack_from("<III", request, _IN.size)
                answer = _INIT_OUT.pack(major, min(minor, 31), ahead, 0, 12, 9, 1 << 16)
                header = _OUT.pack(_OUT.size + len(answer), 0, unique)
                os.write(self._device, header + answer)
            else:
                self.taken.set()
