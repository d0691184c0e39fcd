# SPDX-License-Identifier: Apache-2.0
"""`python -m fuse_mounter.passthrough SOURCE TARGET`: mount SOURCE at TARGET and serve it.

Ends when the last mount of it is gone. A signal ends it too and leaves the mount behind, dead:
whoever started it replaces or removes that.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import resource
import signal
import sys
from pathlib import Path

import trio

from agents import fuse, hostfs, mountinfo
from agents.errors import AgentError
from agents.fuse_in_place import ManyTasks
from agents.mountinfo import MountEntry
from agents.mounts import LinuxMounts, MountFlag
from fuse_mounter.passthrough import syscalls
from fuse_mounter.passthrough.filesystem import SWEEP_S, Passthrough
from fuse_mounter.passthrough.tree import Settings

SUBTYPE = "nodeshare"
_NOBODY = 65534
#: Some hosts allow a thousand million descriptors; this many inodes take about 100 MB.
_MOST_INODES = 1 << 18


def main() -> int:
    """Returns the exit code: 0 when it was unmounted, 1 with a reason on stderr."""
    options = _options()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    descriptors = _take_descriptors()
    options.inodes = min(options.inodes, descriptors * 3 // 4)
    os.umask(0)  # the caller's counts, not ours
    try:
        syscalls.keep_capabilities()
        syscalls.give_up_resource_privilege()
        trio.run(_serve, options)
    except AgentError as error:
        print(f"passthrough: {error}", file=sys.stderr)  # noqa: T201 -- stderr is its log
        return 1
    except OSError as error:
        print(f"passthrough: {error}", file=sys.stderr)  # noqa: T201 -- stderr is its log
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    root = _source(options.source)
    target = options.target.resolve()
    if target.is_relative_to(options.source.resolve()):
        raise AgentError(f"{str(target)!r} is in {str(options.source)!r}, which it would show")
    flags = fuse.POSIX_ACL | int(MountFlag.NOSUID | MountFlag.NODEV)
    if options.read_only:
        flags |= int(MountFlag.RDONLY)
    descriptor = fuse.mount(
        LinuxMounts(),
        options.device,
        target,
        source=options.name,
        subtype=SUBTYPE,
        flags=flags,
    )
    settings = Settings(options.cache_timeout, options.inodes, options.writeback)
    shrink = functools.partial(_shrink, target, _shown(target), flags)
    filesystem = Passthrough(root, settings, shrink)
    if not filesystem.storage.distant:
        # What a disk keeps in reserve for root is not for those in whose name we write. A server
        # would see this name, too, and might let it do nothing.
        syscalls.set_creator(_NOBODY, _NOBODY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(filesystem.housekeeping, options.sweep)
        if options.writeback:
            nursery.start_soon(_end_with_nothing_unwritten, target, nursery.cancel_scope)
        await fuse.serve(filesystem, descriptor, ManyTasks(lambda: filesystem.storage.busy))
        nursery.cancel_scope.cancel()


def _source(path: Path) -> int:
    """Its descriptor. Raises AgentError."""
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise AgentError(
            f"cannot serve {str(path)!r}: {error.strerror}",
            remedy="source must be a directory that is there, on this node",
        ) from error


def _shown(target: Path) -> MountEntry | None:
    """What is mounted there now."""
    return next(reversed(mountinfo.at(mountinfo.read(hostfs.PROC), target)), None)


def _shrink(target: Path, made: MountEntry | None, flags: int) -> None:
    """A remount that changes nothing: with it the kernel forgets all names that nobody uses, and
    leaves alone whoever works in a directory, and what is mounted inside.
    """
    shown = _shown(target)
    if shown is not None and made is not None and shown.device == made.device:
        with contextlib.suppress(OSError):  # it was taken away meanwhile
            LinuxMounts().mount("none", target, "none", MountFlag(flags) | MountFlag.REMOUNT)


async def _end_with_nothing_unwritten(target: Path, scope: trio.CancelScope) -> None:
    """At SIGTERM: what the kernel has not written back yet would be lost with us."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            await trio.to_thread.run_sync(_sync, target)
            scope.cancel()


def _sync(target: Path) -> None:
    """Where it is not mounted any more, the kernel has written everything, or is at it."""
    with contextlib.suppress(OSError):
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.sync(directory)
        finally:
            os.close(directory)


def _take_descriptors() -> int:
    """One for every inode that the kernel knows: as many as we may have. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        most = int((hostfs.PROC / "sys/fs/nr_open").read_text())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="passthrough", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--name", default="passthrough", help="what mount tables show as its source"
    )
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--writeback", action="store_true", help="let the kernel write later")
    parser.add_argument("--cache-timeout", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--sweep", type=float, default=SWEEP_S, metavar="SECONDS")
    parser.add_argument(
        "--inodes",
        type=int,
        default=_MOST_INODES,
        metavar="COUNT",
        help="how many files to keep at hand; never more than three quarters of the descriptors",
    )
    parser.add_argument("--device", type=Path, default=hostfs.HostFs().fuse_device)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
