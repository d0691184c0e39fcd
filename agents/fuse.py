# SPDX-License-Identifier: Apache-2.0
"""FUSE for our own file systems: the mount call, one session for a process, and a guard round every
handler. Knows no file system.

pyfuse3 keeps its session in module globals: a second one in the same process would silently orphan
the first. And an exception that leaves a handler ends the whole mount; here it becomes an errno.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pyfuse3

from agents.errors import AgentError, FsError, Unavailable
from agents.fuse_in_place import ManyTasks, SingleTask
from agents.mounts import MountFlag, Mounts

_log = logging.getLogger(__name__)
_HANDLERS = frozenset(
    name for name in vars(pyfuse3.Operations) if not name.startswith("_") and name.islower()
) - {"init", "stacktrace", "supports_dot_lookup", "enable_writeback_cache", "enable_acl"}
#: There is no reply to these: an error can only be logged.
_WITHOUT_REPLY = frozenset({"forget"})

R = TypeVar("R")
Handler = Callable[..., Awaitable[R]]


class Operations(pyfuse3.Operations):
    """Base of our file systems. Handlers may raise OSError or FsError: the caller gets the errno.

    Anything else is a bug: the caller gets EIO, `unexpected` one more, and the log a traceback when
    it is the first of its kind: whoever can provoke it must not be able to fill a disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unexpected = 0
        self.logged: set[tuple[str, type[Exception]]] = set()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in _HANDLERS & vars(cls).keys():
            setattr(cls, name, guarded(vars(cls)[name]))


def guarded(handler: Handler[R]) -> Handler[R | None]:
    """`handler`, so that nothing but a FUSEError leaves it."""

    @functools.wraps(handler)
    async def guard(self: Operations, *arguments: Any, **keywords: Any) -> R | None:  # Any: theirs
        try:
            return await handler(self, *arguments, **keywords)
        except Exception as error:
            number = _errno(self, handler, error)
            if handler.__name__ in _WITHOUT_REPLY:
                return None
            raise pyfuse3.FUSEError(number) from error

    return guard


def _errno(operations: Operations, handler: Handler[R], error: Exception) -> int:
    if isinstance(error, pyfuse3.FUSEError | FsError):
        return error.errno
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    operations.unexpected += 1
    if (kind := (handler.__name__, type(error))) not in operations.logged:
        operations.logged.add(kind)
        _log.error("unexpected error in a handler: %s", handler.__name__, exc_info=error)
    return errno.EIO


#: SB_POSIXACL for mount(2): the kernel leaves the umask to us, so that default ACLs can replace it.
POSIX_ACL = 1 << 16


def mount(
    mounts: Mounts,
    device: Path,
    target: Path,
    *,
    source: str,
    subtype: str,
    flags: int = 0,
    check_permissions: bool = True,
) -> int:
    """Mount a new FUSE connection at `target`; returns its descriptor, to be served at once.

    Callers block until it is served. Every user may enter (`allow_other`); the kernel checks
    permissions by the attributes that are served, or leaves that to the handlers
    (`check_permissions` False). Raises Unavailable when there is no device.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(
            f"cannot open {str(device)!r}: {error.strerror}",
            remedy="load the kernel module (modprobe fuse) and let this process have the device",
        ) from error
    options = (
        f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other"
        f"{',default_permissions' if check_permissions else ''}"
    )
    try:
        mounts.mount(source, target, f"fuse.{subtype}", MountFlag(flags), options)
    except OSError as error:
        os.close(descriptor)
        raise AgentError(f"cannot mount at {str(target)!r}: {error.strerror}") from error
    return descriptor


_served = False


async def serve(
    operations: Operations, descriptor: int, tasks: SingleTask | ManyTasks | None = None
) -> None:
    """Serve a mounted connection until its last mount is gone, or it was aborted.

    The mount stays: whoever made it takes it away. At most one for a process. `tasks` says how
    requests are taken (`agents.fuse_in_place`); without it handlers may wait for anything.
    """
    global _served
    if _served:
        raise AgentError("a process serves one FUSE connection; start another process")
    _served = True
    pyfuse3.init(operations, f"/dev/fd/{descriptor}", {"default_permissions"})
    logging.getLogger(pyfuse3.__name__).addFilter(_not_about_replies)
    tasks = ManyTasks(busy=lambda: True) if tasks is None else tasks
    pyfuse3.trio = tasks  # type: ignore[attr-defined] # not in its types
    try:
        await pyfuse3.main(max_tasks=tasks.most_tasks)
    except* OSError as group:
        # An abort through fusectl ends the session this way; it is not a bug of ours.
        _log.error("the FUSE connection ended: %s", group.exceptions[0])
    finally:
        pyfuse3.close(unmount=False)


def _not_about_replies(record: logging.LogRecord) -> bool:
    """A reply fails when nobody waits for it any more: the caller, or the whole mount, is gone."""
    return "fuse_reply_* failed" not in record.msg
