# SPDX-License-Identifier: Apache-2.0
"""`python -m fuse_mounter.passthrough SOURCE TARGET`: mount SOURCE at TARGET and serve it.

Ends when the last mount of it is gone. A signal ends it too and leaves the mount behind, dead:
whoever started it replaces or removes that.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
from pathlib import Path

import trio

from agents import fuse, hostfs
from agents.errors import AgentError
from agents.mounts import LinuxMounts, MountFlag
from fuse_mounter.passthrough import syscalls
from fuse_mounter.passthrough.filesystem import SWEEP_S, Passthrough

SUBTYPE = "nodeshare"
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
        trio.run(_serve, options)
    except AgentError as error:
        print(f"passthrough: {error}", file=sys.stderr)  # noqa: T201 -- stderr is its log
        return 1
    except OSError as error:
        print(f"passthrough: {error}", file=sys.stderr)  # noqa: T201 -- stderr is its log
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    root = os.open(options.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = fuse.POSIX_ACL | int(MountFlag.NOSUID | MountFlag.NODEV)
    if options.read_only:
        flags |= int(MountFlag.RDONLY)
    descriptor = fuse.mount(
        LinuxMounts(),
        options.device,
        options.target,
        source=options.name,
        subtype=SUBTYPE,
        flags=flags,
    )
    filesystem = Passthrough(root, options.cache_timeout, options.inodes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(filesystem.housekeeping, options.sweep)
        await fuse.serve(filesystem, descriptor)
        nursery.cancel_scope.cancel()


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
