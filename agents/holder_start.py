# SPDX-License-Identifier: Apache-2.0
"""Find the holder of a run directory, or start one; and take it away again. Knows no client.

On a bare machine the agent starts it, in its own session and, where cgroups can be made, in its own
cgroup: whatever ends the agent's service does not end the clients. In a cluster it is its own pod,
and is only found here.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio

from agents import command, holder, holder_socket, hostfs
from agents.errors import ConfigError, Unavailable
from agents.holder_client import HolderClient, HolderRefused, connect
from agents.hostfs import HostFs

if TYPE_CHECKING:
    from agents.config import NodeConfig

_START_LIMIT_S = 10.0
_END_LIMIT_S = 3.0
_LOOK_AGAIN_S = 0.01
_REMOVE_ATTEMPTS = 100

#: Holders we started: kept, so that one which ended is reaped.
_started: list[command.Child] = []


def socket_path(run_dir: Path) -> Path:
    return run_dir / "holder.sock"


async def find_or_start(
    nursery: trio.Nursery, run_dir: Path, host: HostFs, *, start: bool = True
) -> HolderClient:
    """A connection to the holder of `run_dir`. Raises Unavailable, with what its log says last.

    `start` False: it has a pod or a service of its own, and is only looked for.
    """
    reap()
    path = socket_path(run_dir)
    try:
        return await connect(nursery, path)
    except Unavailable as error:
        if not start:
            raise Unavailable(
                error.message,
                remedy="start its pod or service (nodeshare run holder), or set node.holder.start",
            ) from error
        return await _start(nursery, path, host)


async def _start(nursery: trio.Nursery, path: Path, host: HostFs) -> HolderClient:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    log = path.with_suffix(".log")
    with log.open("ab") as output:
        child = command.start(_command(path, host), cwd=Path(path.anchor), output=output)
    _started.append(child)
    move_to_own_cgroups(host.cgroup, path, child.pid)
    deadline = trio.current_time() + _START_LIMIT_S
    # When two are started at once, one gets the lock and answers, the other ends.
    while child.poll() in (None, holder.EXIT_ALREADY_RUNNING) and trio.current_time() < deadline:
        await trio.sleep(_LOOK_AGAIN_S)
        try:
            client = await connect(nursery, path)
        except Unavailable:
            continue
        if client.pid != child.pid:
            # Ours was the second; were the first to end now, it would find the lock free and stay.
            command.end(child)
        return client
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise Unavailable(
        f"the holder did not start: {last[0] if last else 'no output'}",
        remedy=f"see {str(log)!r}",
    )


def _command(path: Path, host: HostFs) -> list[str]:
    # By file and isolated: without site-packages it is half as large.
    interpreter = [sys.executable, "-I", "-S", str(Path(holder.__file__).resolve())]
    places = ["--socket", str(path), "--seccomp-socket", str(hostfs.seccomp_socket(path.parent))]
    return [*interpreter, *places, "--proc", str(host.proc)]


def become(node: NodeConfig) -> NoReturn:
    """Turn this process into the holder: the entry point of a pod, or a service, of its own.

    When that ends, so would its clients, by SIGKILL: told to end itself, it asks them to end first
    and waits, as whoever ends it has to (`terminationGracePeriodSeconds`).
    """
    path = socket_path(node.run_dir)
    if node.holder.start:
        raise ConfigError(
            "node.holder.start is true: agents would start a holder too",
            remedy="set it to false for the holder and for all agents of this node",
        )
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    argv = [*_command(path, node.host.host_fs()), "--end-clients", f"{node.holder.end_limit:g}"]
    if node.holder.seccomp_socket:
        argv.append("--listen")
    os.execv(argv[0], argv)  # noqa: S606 -- no shell is what we want


def reap() -> None:
    """Collect holders of ours that ended."""
    _started[:] = [child for child in _started if child.poll() is None]


def _cgroup_name(path: Path) -> str:
    return "nodeshare-holder-" + hashlib.sha256(str(path).encode()).hexdigest()[:8]


def _hierarchies(root: Path) -> list[Path]:
    """Where groups can be made: the one of v2, or those of v1 that need no set-up first."""
    if (root / "cgroup.procs").exists():
        return [root]
    try:
        found = [one for one in root.iterdir() if one.is_dir() and not one.is_symlink()]
    except OSError:
        return []
    return [one for one in found if one.name != "cpuset" and (one / "cgroup.procs").exists()]


def move_to_own_cgroups(root: Path, path: Path, pid: int) -> tuple[Path, ...]:
    """Best effort: where a group cannot be made, the holder shares the life of its starter."""
    moved = []
    for hierarchy in _hierarchies(root):
        group = hierarchy / _cgroup_name(path)
        try:
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(pid))
            moved.append(group)
        except OSError:
            _remove(group)
    return tuple(moved)


async def end_unused(holder: HolderClient, run_dir: Path, host: HostFs) -> None:
    """End the holder and remove what it needed, unless it still holds somebody's clients, or
    answers calls of containers."""
    if any(client.ended is None for client in await holder.clients()):
        return
    try:
        await holder.shutdown()
    except HolderRefused:
        return
    with trio.move_on_after(_END_LIMIT_S):
        async for _ in holder.exits:
            pass  # ends when the holder has
    await clear(run_dir, host)


async def clear(run_dir: Path, host: HostFs) -> None:
    """Remove the files and cgroups of a holder that has ended. Its successor's stay."""
    path = socket_path(run_dir)
    await remove_cgroups(host.cgroup, path)
    reap()
    locked = await _lock(path)
    if locked is None:
        return
    seccomp = hostfs.seccomp_socket(run_dir)
    for left in (path, path.with_suffix(".log"), Path(f"{path}.lock"), seccomp):
        left.unlink(missing_ok=True)
    os.close(locked)


async def _lock(path: Path) -> int | None:
    """None: another holder serves here, or there is nothing to lock. One that ends has told so
    before."""
    for _ in range(_REMOVE_ATTEMPTS):
        try:
            locked = holder_socket.lock(str(path))
        except OSError:
            return None
        if locked is not None:
            return locked
        await trio.sleep(_LOOK_AGAIN_S)
    return None


def own_cgroups(root: Path, path: Path) -> list[Path]:
    """Those that were made for the holder at this socket."""
    groups = [hierarchy / _cgroup_name(path) for hierarchy in _hierarchies(root)]
    return [group for group in groups if group.exists()]


async def remove_cgroups(root: Path, path: Path) -> None:
    """When the holder and its clients have ended: a group with a process in it stays."""
    left = own_cgroups(root, path)
    for _ in range(_REMOVE_ATTEMPTS):
        # The last process leaves its group a moment after it can be waited for.
        left = [group for group in left if not _remove(group)]
        if not left:
            return
        await trio.sleep(_LOOK_AGAIN_S)


def _remove(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
