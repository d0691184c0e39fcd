# SPDX-License-Identifier: Apache-2.0
"""The program that enters other mount namespaces: one request, one forked child, one answer.

setns(2) into a mount namespace is refused to a process with threads (EINVAL), and forking a process
with threads is a gamble; so this runs as an interpreter of its own that never starts a thread. It
imports the standard library, `agents.mounts` and `agents.processes` alone, which keeps it small and
quick to start; it knows no agent.

Every request is one datagram of JSON with descriptors beside it: the socket for the answer, the
pidfd of the process whose namespace is meant and, to attach, the detached mount. A child that hangs
in the kernel holds up nobody else, and an alarm ends it. The program ends when the last sender has
closed its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents import processes
from agents.mounts import LinuxMounts, Propagation

#: How long one request may take in its child.
LIMIT_S = 5.0
#: Descriptors of a request, in this order: answer, pidfd, detached mounts.
MAX_DESCRIPTORS = 64
MAX_MESSAGE = 16384

_CLONE_NEWNS = 0x20000


def main(arguments: list[str]) -> int:
    """Serve the socket with this descriptor number until nobody can send any more."""
    requests = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need no reaping
    os.chdir("/")
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_MESSAGE, MAX_DESCRIPTORS)
        if not data:
            return 0
        _answer(requests, data, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _answer(requests: socket.socket, data: bytes, descriptors: list[int]) -> None:
    try:
        child = os.fork()
    except OSError as error:
        _reply(descriptors[0], error)
        return
    if child == 0:
        requests.close()  # held on here, it would take a request that nobody reads after our parent
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # the default action of SIGALRM ends us
        try:
            _perform(json.loads(data), descriptors)
            _reply(descriptors[0], None)
        except OSError as error:
            _reply(descriptors[0], error)
        # also after a bug: the caller then sees the answer's end, and must never see two loops
        finally:
            os._exit(0)


def _reply(answer: int, error: OSError | None) -> None:
    number = 0 if error is None else error.errno or errno.EIO
    name = None if error is None else error.filename
    message = {"errno": number, "path": None if name is None else os.fsdecode(name)}
    with socket.socket(fileno=os.dup(answer)) as channel:
        channel.send(json.dumps(message).encode())


def _perform(request: dict[str, Any], descriptors: list[int]) -> None:
    mounts = LinuxMounts()
    if request["do"] == "cover":
        _cover(mounts, request, descriptors[1], descriptors[2])
        return
    if request["do"] == "attach_all":
        _attach_all(mounts, request, descriptors[1], descriptors[2:])
        return
    target = _enter(Path(request["proc"]), descriptors[1], request["target"])
    match request["do"]:
        case "attach":
            mounts.attach(descriptors[2], target, beneath=request["beneath"])
        case "replace":
            mounts.attach(descriptors[2], target, beneath=True)
            mounts.unmount(target, detach=True)
        case "detach":
            mounts.unmount(target, detach=True)
        case _:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _enter(proc: Path, pidfd: int, target: str) -> Path:
    """Become part of the mount namespace, in the directory of `target`; its last name is what is
    left.

    The way there starts at the root of the process itself (it may differ from its namespace's) and
    is walked one name at a time without following a link, so that no container can lead us astray.
    What is done then concerns that name in that directory, however the path is rearranged
    meanwhile.
    """
    directory = _open_directory(_root_of(proc, pidfd), Path(target))
    _call("setns", pidfd, _CLONE_NEWNS)
    return _name_in(directory, target)


def _name_in(directory: int, target: str) -> Path:
    """The last name of `target`, in its directory, where we are then."""
    os.fchdir(directory)
    name = Path(Path(target).name)
    if stat.S_ISLNK(os.lstat(name).st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
    return name


def _attach_all(
    mounts: LinuxMounts, request: dict[str, Any], pidfd: int, detached: Sequence[int]
) -> None:
    """Each at its target; all ways there are walked before the namespace is entered."""
    root = _root_of(Path(request["proc"]), pidfd)
    places = []
    for mount, target in zip(detached, request["targets"], strict=True):
        with contextlib.suppress(OSError):
            places.append((mount, target, _open_directory(root, Path(target))))
    _call("setns", pidfd, _CLONE_NEWNS)
    for mount, target, directory in places:
        with contextlib.suppress(OSError):
            mounts.attach(mount, _name_in(directory, target))


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _cover(mounts: LinuxMounts, request: dict[str, Any], pidfd: int, mount: int) -> None:
    """What is covered is held by a descriptor from the look at it on: the way there does not matter
    any more."""
    proc, target = Path(request["proc"]), Path(request["target"])
    if request["below"] is not None:
        mount = _on_copy(mounts, mount, **request["below"])
    directory = _open_directory(_root_of(proc, pidfd), target)
    place = os.open(target.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    if _mount_id(proc, place) != request["top"]:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(target))
    _call("setns", pidfd, _CLONE_NEWNS)
    mounts.attach_to(mount, place)


def _mount_id(proc: Path, descriptor: int) -> int:
    lines = (proc / "self/fdinfo" / str(descriptor)).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def _on_copy(
    mounts: LinuxMounts, mount: int, *, path: str, depth: int, device: Sequence[int]
) -> int:
    """A detached copy of what lies below the mounts at `path`, with `mount` on it.

    No path leads to what is covered. So the covers are taken away, in a mount namespace of our own
    that nobody else sees: made a slave first, it tells nobody, and it ends with us.
    """
    _call("unshare", _CLONE_NEWNS)
    mounts.set_propagation(Path("/"), Propagation.SLAVE, recursive=True)
    for _ in range(depth):
        mounts.unmount(Path(path), detach=True)
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    shown = os.fstat(place).st_dev
    if (os.major(shown), os.minor(shown)) != tuple(device):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    mounts.attach_to(mount, place)
    return mounts.clone_of(place, recursive=True)


def _root_of(proc: Path, pidfd: int) -> int:
    """The root directory of the process behind `pidfd`, which still runs once it is open."""
    pid = processes.of_pidfd(proc, pidfd)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if pid is not None:
        root = os.open(proc / str(pid) / "root", os.O_PATH | os.O_DIRECTORY)
        if not poller.poll(0):
            return root
    raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))


def _open_directory(root: int, target: Path) -> int:
    """The directory that holds `target` below `root`."""
    if not target.is_absolute() or ".." in target.parts or target.name == "":
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), target)
    directory = root
    for name in target.parts[1:-1]:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
        directory = os.open(name, flags, dir_fd=directory)
    return directory


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
