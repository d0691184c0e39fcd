# SPDX-License-Identifier: Apache-2.0
"""`python -m lxcfs_helper.compat TARGET`: mount the root at TARGET and serve it.

SIGUSR2 shows everybody the host's values, and his own again at the next; SIGUSR1 does nothing (with
lxcfs it exchanges its library). Any other signal ends it and leaves the mount behind, dead: whoever
started it replaces or removes that.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import resource
import signal
import sys
from pathlib import Path

import trio

from agents import fuse, hostfs, mountinfo
from agents.cgroups import LinuxCgroups
from agents.errors import AgentError
from agents.fuse_in_place import SingleTask
from agents.hostfs import HostFs
from agents.mounts import LinuxMounts, MountFlag
from lxcfs_helper.compat.answers import Answers
from lxcfs_helper.compat.callers import Callers
from lxcfs_helper.compat.containers import Containers
from lxcfs_helper.compat.filesystem import Root
from lxcfs_helper.compat.host_tree import HostTree
from lxcfs_helper.compat.report import Report
from lxcfs_helper.compat.standing import SUBTYPE, is_ours

_REPORT_S = 1.0


def main() -> int:
    """Returns the exit code: 0 when it was unmounted, 1 with a reason on stderr."""
    options = _options()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        trio.run(_serve, options)
    except (AgentError, OSError) as error:
        print(f"compat: {error}", file=sys.stderr)  # noqa: T201 -- stderr is its log
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    mounts = LinuxMounts()
    host = _bare(HostFs(options.proc, options.sys, options.dev, options.cgroup), mounts)
    callers, containers = Callers(host), Containers(host, LinuxCgroups(host))
    answers = Answers(HostTree(host), callers, containers)
    root = Root(answers)
    _detach_dead(host, mounts, options)
    descriptor = fuse.mount(
        mounts,
        host.fuse_device,
        options.target,
        source=options.name,
        subtype=SUBTYPE,
        flags=int(MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC),
        check_permissions=False,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_follow_signals, answers)
        if options.report is not None:
            nursery.start_soon(_report, host, root, answers, options)
        await fuse.serve(root, descriptor, SingleTask(root.prepare))
        nursery.cancel_scope.cancel()


def _bare(host: HostFs, mounts: LinuxMounts) -> HostFs:
    """The same without what is mounted over single files there: it may be this very root."""

    def clone(path: Path) -> Path:
        return hostfs.PROC / "self/fd" / str(mounts.clone(path))

    return HostFs(clone(host.proc), clone(host.sys), host.dev, host.cgroup)


async def _follow_signals(answers: Answers) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as received:
        async for number in received:
            if number == signal.SIGUSR2:
                answers.virtual = not answers.virtual


def _detach_dead(host: HostFs, mounts: LinuxMounts, options: argparse.Namespace) -> None:
    """What the process before us left."""
    while _mounted(host, options) is not None:
        mounts.unmount(options.target, detach=True)


def _mounted(host: HostFs, options: argparse.Namespace) -> tuple[int, int] | None:
    """The device of our mount at the target; None: there is none on top."""
    stack = mountinfo.at(mountinfo.read(host.proc), options.target)
    return stack[-1].device if stack and is_ours(stack[-1], options.name) else None


async def _report(host: HostFs, root: Root, answers: Answers, options: argparse.Namespace) -> None:
    """Whenever something happened, at most once a second."""
    device, told = _mounted(host, options), None
    while True:
        now = Report(
            device,
            answers.virtual,
            dict(answers.opens),
            dict(answers.fallbacks),
            root.failed + root.unexpected,
        )
        if now != told:
            told = now
            with contextlib.suppress(OSError):  # the agent's directory; we serve without it, too
                now.write(options.report)
        await trio.sleep(_REPORT_S)


def _options() -> argparse.Namespace:
    default = HostFs()
    parser = argparse.ArgumentParser(prog="compat", description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--name", default="nodeshare-lxcfs", help="what mount tables show")
    parser.add_argument("--report", type=Path, help="the file that says what was opened")
    parser.add_argument("--proc", type=Path, default=default.proc)
    parser.add_argument("--sys", type=Path, default=default.sys)
    parser.add_argument("--dev", type=Path, default=default.dev)
    parser.add_argument("--cgroup", type=Path, default=default.cgroup)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
