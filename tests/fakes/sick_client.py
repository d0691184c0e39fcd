# SPDX-License-Identifier: Apache-2.0
"""The program of a FUSE client whose health is what a file says: `ok`, `hang` (it takes requests
and answers none until it is well again), `die` (it ends), or the number of an errno that every
statfs gets. Its file system is one directory with one file, `who`, that holds the text it is
started with.

    sick_client.py MOUNTPOINT MOOD_FILE TEXT

Speaks the kernel's protocol itself (linux/fuse.h, 7.31): it starts at once, and hangs when told.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHI40x")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_STATFS = struct.Struct("<QQQQQIIII24x")
_INIT = 26
#: FORGET, INTERRUPT, BATCH_FORGET: there is no reply to them.
_SILENT = (2, 36, 42)


class Client:
    """Serves until the mount is gone."""

    def __init__(self, device: int, mood: Path, text: bytes) -> None:
        self._device, self._text = device, text
        # This very file, whatever has its name later.
        self._mood = os.open(mood, os.O_RDONLY)

    def serve(self) -> None:
        kept: list[bytes] = []
        poller = select.poll()
        poller.register(self._device, select.POLLIN)
        while True:
            taken = b""
            if poller.poll(20):
                try:
                    taken = os.read(self._device, 1 << 17)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EINTR):
                        return
            mood = os.pread(self._mood, 32, 0).decode().strip()
            if mood == "die":
                os._exit(3)
            kept += [taken] if taken else []
            if mood != "hang" or _IN.unpack_from(taken or bytes(_IN.size))[1] == _INIT:
                for request in kept:
                    self._handle(request, mood)
                kept.clear()

    def _handle(self, request: bytes, mood: str) -> None:
        _, opcode, unique, node = _IN.unpack_from(request)[:4]
        if opcode in _SILENT:
            return
        number, answer = self._answer(opcode, node, request[_IN.size :], mood)
        with suppress(OSError):  # it was interrupted meanwhile, or its mount is gone
            os.write(self._device, _OUT.pack(_OUT.size + len(answer), -number, unique) + answer)

    def _answer(self, opcode: int, node: int, body: bytes, mood: str) -> tuple[int, bytes]:
        match opcode:
            case 26:  # INIT
                major, minor, ahead = struct.unpack_from("<III", body)
                return 0, _INIT_OUT.pack(major, min(minor, 31), ahead, 0, 12, 9, 1 << 16)
            case 17 if mood.isdigit():  # STATFS
                return int(mood), b""
            case 17:
                return 0, _STATFS.pack(1000, 600, 500, 50, 40, 4096, 255, 4096, 0)
            case 1 if body.rstrip(b"\0") == b"who":  # LOOKUP
                return 0, _ENTRY.pack(2, 0, 0, 0, 0, 0) + self._attributes(2)
            case _:
                return self._answer_about(opcode, node, body)

    def _answer_about(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
        match opcode:
            case 1:  # LOOKUP
                return errno.ENOENT, b""
            case 3:  # GETATTR
                return 0, struct.pack("<QII", 0, 0, 0) + self._attributes(node)
            case 14 | 27:  # OPEN, OPENDIR; FOPEN_DIRECT_IO: every read comes here
                return 0, struct.pack("<QII", 0, 1, 0)
            case 15:  # READ
                return 0, self._text[struct.unpack_from("<QQ", body)[1] :]
            case 18 | 25 | 28 | 29:  # RELEASE, FLUSH, READDIR, RELEASEDIR
                return 0, b""
            case _:
                return errno.ENOSYS, b""

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o444
        size = 0 if node == 1 else len(self._text)
        return _ATTR.pack(node, size, 1, 0, 0, 0, 0, 0, 0, mode, 2, 0, 0, 0, 4096, 0)


def mount(path: str) -> int:
    """The descriptor of a new connection."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"nodeshare:sick", path.encode(), b"fuse.sick", 0, data):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return device


def main() -> int:
    place, mood, text = sys.argv[1:4]
    if Path(mood).read_text().strip() == "die":
        sys.stderr.write("it dies at once\n")
        return 3
    Client(mount(place), Path(mood), text.encode()).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
