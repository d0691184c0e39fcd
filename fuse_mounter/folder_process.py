# SPDX-License-Identifier: Apache-2.0
"""The program that enters shared folders: one request, one forked child, one answer.

A look-up in a file system that hangs cannot be ended, so it is made by a process that nobody needs.
The child walks from the top of a staged mount to the folder, one name at a time, through no link
and into no other mount; it looks at owner, mode and default ACL of that folder alone (never at what
is in it), changes what is not as it shall be, and looks again. It imports the standard library and
three modules that do the same, and knows no configuration and no limit.

A request is one datagram of JSON with the socket for the answer beside it; the answer is JSON, with
a detached copy of the folder beside it when one was asked for and everything is right. The program
ends when the last sender has closed its end.
"""

from __future__ import annotations

import errno
import grp
import json
import os
import pwd
import signal
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.mounts import LinuxMounts
from fuse_mounter import posix_acl
from fuse_mounter.posix_acl import Tag

MAX_MESSAGE = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """`top`: where the mount is staged. Of `owner`, `group`, `mode` and `acl` (default entries as
    they were written) None is left alone. `copy`: a copy of the folder is wanted. `mount_id`: what
    must be mounted at the top; None: whatever is. `published`: where the same folder should be
    seen; None: that is known already.
    """

    proc: str
    top: str
    folder: str
    owner: str | int | None = None
    group: str | int | None = None
    mode: int | None = None
    acl: tuple[str, ...] | None = None
    create: bool = False
    copy: bool = False
    mount_id: int | None = None
    published: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`problem`: why the folder is not as it shall be, in words; None: it is. `mended`: what had to
    be changed for that. `elsewhere`: what is seen at `published` is another folder. `left`: the
    mount that was to be entered is not there any more, which says nothing about the folder.
    """

    problem: str | None = None
    mended: tuple[str, ...] = ()
    elsewhere: bool = False
    left: bool = False


class Wrong(Exception):
    """The folder is not as it shall be, and cannot be made so."""


class Left(Wrong):
    """The mount was taken away, or another one lies there."""


def main(arguments: list[str]) -> int:
    """Serve the socket with this descriptor number until nobody can send any more."""
    requests = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need no reaping
    os.chdir("/")
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_MESSAGE, 1)
        if not data:
            return 0
        try:
            if os.fork() == 0:
                _answer(requests, descriptors[0], data)
        except OSError:
            pass  # no child can be started: that says nothing about the folder
        os.close(descriptors[0])


def _answer(requests: socket.socket, descriptor: int, data: bytes) -> None:
    """Never returns: there must never be two who serve the requests."""
    try:
        requests.close()  # else those would vanish here when we hang and our parent was killed
        answer, copies = look_after(Request(**json.loads(data)))
        with socket.socket(fileno=descriptor) as channel:
            socket.send_fds(channel, [json.dumps(asdict(answer)).encode()], copies)
    finally:
        os._exit(0)


def look_after(request: Request) -> tuple[Answer, list[int]]:
    """Do what is asked; the copy is in the list, if there is one."""
    mended: list[str] = []
    try:
        folder = _walk(request, mended)
        _keep(request, f"{request.proc}/self/fd/{folder}", mended)
        elsewhere = request.published is not None and not _same(folder, request.published)
        copies = [LinuxMounts().clone_of(folder)] if request.copy else []
    except Wrong as wrong:
        return Answer(str(wrong), tuple(mended), left=isinstance(wrong, Left)), []
    except OSError as error:
        return Answer(f"{request.folder or 'the mount'!r}: {error.strerror}", tuple(mended)), []
    return Answer(None, tuple(mended), elsewhere), copies


def _same(folder: int, published: str) -> bool:
    place = os.open(published, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    return os.path.samestat(os.fstat(folder), os.fstat(place))


def _walk(request: Request, mended: list[str]) -> int:
    """The folder, without a right to read it."""
    try:
        place = os.open(request.top, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        raise Left("it is not mounted any more") from None
    mount = _mount_id(request.proc, place)
    if request.mount_id not in (None, mount):
        raise Left("another mount lies there by now")
    walked = Path()
    for name in Path(request.folder).parts:
        walked = walked / name
        place = _step(request, place, walked, mended)
        if _mount_id(request.proc, place) != mount:
            raise Wrong(f"{str(walked)!r} lies in another mount; publish that one")
    return place


def _step(request: Request, directory: int, walked: Path, mended: list[str]) -> int:
    try:
        place = _open(directory, walked.name)
    except FileNotFoundError:
        if not request.create:
            raise Wrong(f"there is no {str(walked)!r}; make it, or say create: true") from None
        # Nobody else enters it before it is as it shall be; those on the way there are for all.
        last = str(walked) == request.folder
        os.mkdir(walked.name, 0o700 if last else 0o755, dir_fd=directory)
        mended.append("folder")
        place = _open(directory, walked.name)
    mode = os.fstat(place).st_mode
    if not stat.S_ISDIR(mode):
        kind = "a symlink" if stat.S_ISLNK(mode) else "not a directory"
        raise Wrong(f"{str(walked)!r} is {kind}; remove it, or publish another folder")
    return place


def _open(directory: int, name: str) -> int:
    return os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)


def _mount_id(proc: str, descriptor: int) -> int:
    lines = Path(proc, "self/fdinfo", str(descriptor)).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def _keep(request: Request, folder: str, mended: list[str]) -> None:
    """The magic link of its descriptor cannot be led elsewhere. Owner first: changing it may clear
    bits of the mode.
    """
    owner = _number(request.owner, "user", lambda name: pwd.getpwnam(name).pw_uid)
    group = _number(request.group, "group", lambda name: grp.getgrnam(name).gr_gid)
    place = Path(folder)
    _set("owner", owner, lambda: place.stat().st_uid, lambda v: os.chown(folder, v, -1), mended)
    _set("group", group, lambda: place.stat().st_gid, lambda v: os.chown(folder, -1, v), mended)

    def mode() -> int:
        return stat.S_IMODE(place.stat().st_mode)

    _set("mode", request.mode, mode, place.chmod, mended)
    if request.acl is None:
        return
    entries = [posix_acl.parse(text) for text in request.acl]
    wanted = posix_acl.encode(posix_acl.complete(entries, mode()), _id_of) if entries else b""
    _set("default_acl", wanted, lambda: _acl(folder), lambda v: _set_acl(folder, v), mended)


def _set(
    what: str, wanted: Any, now: Callable[[], Any], change: Callable[[Any], None], mended: list[str]
) -> None:
    """Any: each kind of value with the two functions that belong to it."""
    if wanted is None or now() == wanted:
        return
    try:
        change(wanted)
    except OSError as error:
        raise Wrong(f"its {what} is another, and cannot be set: {error.strerror}") from error
    if now() != wanted:
        raise Wrong(f"its {what} cannot be set: this file system does not keep it")
    mended.append(what)


def _number(who: str | int | None, kind: str, look_up: Callable[[str], int]) -> int | None:
    if who is None or isinstance(who, int) or who.isdecimal():
        return None if who is None else int(who)
    try:
        return look_up(who)
    except KeyError:
        raise Wrong(f"no {kind} {who!r} is known here; write its number") from None


def _id_of(tag: Tag, who: str) -> int:
    if tag is Tag.USER:
        number = _number(who, "user", lambda name: pwd.getpwnam(name).pw_uid)
    else:
        number = _number(who, "group", lambda name: grp.getgrnam(name).gr_gid)
    assert number is not None
    return number


def _acl(folder: str) -> bytes:
    try:
        return os.getxattr(folder, posix_acl.DEFAULT_ATTRIBUTE)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        if error.errno == errno.EOPNOTSUPP:
            text = "this file system has no access control lists; leave default_acl out"
            raise Wrong(text) from error
        raise


def _set_acl(folder: str, value: bytes) -> None:
    if value:
        os.setxattr(folder, posix_acl.DEFAULT_ATTRIBUTE, value)
    else:
        os.removexattr(folder, posix_acl.DEFAULT_ATTRIBUTE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
