# SPDX-License-Identifier: Apache-2.0
"""`nodeshare uninstall`: every trace off this machine, once no agent runs any more. Knows no
agent's content: packages say what remains of them (`remains`), and how it is taken away (their
command `clear`).

Refuses while an agent runs, which would put everything back, and, unless told to, while containers
use something. Says what it does; goes on after a problem, and names what is left. Doing it again is
fine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from agents import cri_listing, holder_start, inhabitants, kube, mountinfo, overview
from agents.agent import Agent
from agents.command import NODESHARE, Result, run
from agents.config import Config, NodeConfig
from agents.errors import AgentError, ConfigError
from agents.hostfs import HostFs
from agents.node_object import operations
from agents.plain_text import plain
from agents.remains import Remains
from agents.removal import remove_if_empty, remove_whole
from agents.standin import run_directory

_CLEAR_S = 60.0
#: Where `nodeshare up --config` keeps the agents' output.
_LOGS = "log"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """`remains` by section. `users` are containers by name, with what each of them loses."""

    node: NodeConfig
    remains: Mapping[str, Remains]
    users: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class Left:
    """What could not be taken away, in words."""

    problems: list[str] = field(default_factory=list)

    def attempt(self, say: Say, what: str, act: Callable[[], bool | None]) -> None:
        """`act` answers False when there was nothing to do; None: it was done."""
        try:
            if act() is not False:
                say(f"removed {what}")
        except (OSError, AgentError) as error:
            self.problems.append(f"{what}: {error}")


def uninstall(
    agents: Sequence[Agent],
    loaded: Config,
    path: Path | None,
    *,
    dry_run: bool,
    force: bool,
    say: Say,
) -> int:
    """The command; returns its exit code. `path` None: there is no configuration. Raises AgentError
    when it must not be done.
    """
    if os.geteuid() != 0:
        raise ConfigError("not root: mounts and other users' files go", remedy="run it with sudo")
    node = loaded.node
    with run_directory.only_one(run_directory.settle(node.run_dir)):
        _refuse_while_running(agents, node)
        plan = _plan(agents, loaded)
        _refuse([what for one in plan.remains.values() for what in one.running])
        for user, losses in plan.users.items():
            say("\n  - ".join([f"{user} loses", *losses]))
        if dry_run:
            _rehearse(agents, plan, say, force=force)
            return 0
        if plan.users and not force:
            raise AgentError(
                f"{len(plan.users)} containers use something of nodeshare (see above)",
                remedy="end them (kubectl drain), or take it away from them with --force",
            )
        left = Left()
        _clear(agents, path, say, left)
        _remove(plan, say, left, force=force)
        _remove_common(agents, node, say, left)
        if node.api_server.enabled:
            left.attempt(say, "our keys and taints of the node object", partial(_forget, plan))
        for problem in left.problems:
            say(f"NOT removed: {problem}")
        return 1 if left.problems else 0


def _refuse_while_running(agents: Sequence[Agent], node: NodeConfig) -> None:
    _refuse(
        [
            f"{one.agent.section}{_whose(node.run_dir / f'{one.agent.noun}.sock')}"
            for one in overview.look(agents, node.run_dir)
            if one.problem != overview.NOT_RUNNING
        ],
        f" of {str(node.run_dir)!r}",
    )


def _refuse(running: Sequence[str], whose: str = "") -> None:
    if running:
        raise AgentError(
            f"agents{whose} run: {', '.join(running)}",
            remedy="stop them first (their DaemonSets, services, or nodeshare up)",
        )


def _whose(path: Path) -> str:
    """Who serves a socket; empty where that cannot be known."""
    pid = overview.serving_pid(path)
    return "" if pid is None else f" (pid {pid})"


def _plan(agents: Sequence[Agent], loaded: Config) -> Plan:
    node = loaded.node
    found = {
        agent.section: agent.remains(node, loaded.sections.get(agent.section)) for agent in agents
    }
    return Plan(node, found, _users(node, list(found.values())))


def _users(node: NodeConfig, remains: Sequence[Remains]) -> Mapping[str, Sequence[str]]:
    """Every other mount namespace in which something of ours is mounted, without those that have
    the node's whole tree (an exporter, an agent of storage): they use nothing of it.
    """
    host = node.host.host_fs()
    top = mountinfo.at(mountinfo.read(host.proc, 1), "/")[-1]
    found: dict[int, list[str]] = {}
    for who in inhabitants.Inhabitants(host).look().values():
        try:
            entries = mountinfo.read(host.proc, who.process.pid)
        except OSError:  # it has ended
            continue
        if any((entry.device, entry.root) == (top.device, top.root) for entry in entries):
            continue
        losses = [loss for entry in entries for one in remains if (loss := one.used(entry))]
        if losses:
            found[who.process.pid] = list(dict.fromkeys(losses))
    names = _names(node, host, found) if found else {}
    return {names[pid]: losses for pid, losses in found.items()}


def _names(node: NodeConfig, host: HostFs, pids: Iterable[int]) -> dict[int, str]:
    """As the runtime calls them, where one answers."""
    known: dict[int | None, str] = {}
    with contextlib.suppress(AgentError):
        for one in trio.run(cri_listing.containers, node.cri_socket):
            named = f"pod {one.pod.namespace}/{one.pod.name}, container {one.name}"
            known[one.pid] = plain(named)
    return {
        pid: f"{known.get(pid, f'process {inhabitants.command(host, pid)!r}')} (pid {pid})"
        for pid in pids
    }


def _rehearse(agents: Sequence[Agent], plan: Plan, say: Say, *, force: bool) -> None:
    """The same, in words."""
    for agent in agents:
        if agent.clear:
            say(f"would run: nodeshare {' '.join(agent.clear)}")
    remains = plan.remains.values()
    files = [path for one in remains for path in (*one.files, *(one.valuable if force else ()))]
    files += _common(agents, plan.node)
    found = [repr(str(path)) for path in files if os.path.lexists(path)]
    for what in (*(errand.what for one in remains for errand in one.errands), *found):
        say(f"would remove {what}")
    _say_kept(plan, say, force=force)
    if plan.node.api_server.enabled:
        say("would remove our keys and taints of the node object")


def _say_kept(plan: Plan, say: Say, *, force: bool) -> None:
    for one in plan.remains.values():
        for path in () if force else one.valuable:
            if path.exists():
                why = "a client may have left there what its server does not have"
                say(f"kept: {str(path)!r}: {why}; --force removes it")


def _clear(agents: Sequence[Agent], path: Path | None, say: Say, left: Left) -> None:
    """By the agents' own commands: they know their mounts, views and clients."""
    configuration = [] if path is None else ["--config", str(path)]
    for agent in agents:
        if not agent.clear:
            continue
        words = f"nodeshare {' '.join(agent.clear)}"
        try:
            result = trio.run(_run_clear, [*NODESHARE, *agent.clear, *configuration])
        except OSError as error:
            left.problems.append(f"{words}: {error}")
            continue
        for line in result.output.splitlines() if result.ok else ():
            say(f"{agent.section}: {line}")
        if not result.ok:
            left.problems.append(f"{words}: {result.output.strip() or result.describe()}")


async def _run_clear(argv: Sequence[str]) -> Result:
    return await run(argv, timeout_s=_CLEAR_S)


def _remove(plan: Plan, say: Say, left: Left, *, force: bool) -> None:
    proc = plan.node.host.proc
    for one in plan.remains.values():
        for errand in one.errands:
            left.attempt(say, errand.what, errand.run)
        for path in (*one.files, *(one.valuable if force else ())):
            left.attempt(say, repr(str(path)), partial(remove_whole, path, proc))
        for path in one.directories:
            left.attempt(say, repr(str(path)), partial(_emptied, path))
    _say_kept(plan, say, force=force)


def _emptied(path: Path) -> bool:
    """Whether it was there, and is gone now."""
    return path.is_dir() and remove_if_empty(path)


def _common(agents: Sequence[Agent], node: NodeConfig) -> list[Path]:
    return [
        *(node.run_dir / f"{agent.noun}.sock" for agent in agents),
        node.run_dir / _LOGS,
    ]


def _remove_common(agents: Sequence[Agent], node: NodeConfig, say: Say, left: Left) -> None:
    """What the runtime itself leaves, and then the directories, unless somebody else is in them."""
    proc, host = node.host.proc, node.host.host_fs()
    for path in _common(agents, node):
        left.attempt(say, repr(str(path)), partial(remove_whole, path, proc))
    holder = holder_start.socket_path(node.run_dir)
    if pid := _whose(holder):
        left.problems.append(
            f"the holder{pid}: it still answers calls of containers, or keeps a client; "
            "end those containers, and uninstall again"
        )
    else:
        trio.run(holder_start.clear, node.run_dir, host)
    for directory in (node.run_dir, node.state_dir):
        if not directory.is_dir():
            continue
        left.attempt(say, repr(str(directory)), partial(_directory, directory))


def _directory(directory: Path) -> bool:
    """An empty one that stays is a mount: an operator's, or a volume of the pod we run in."""
    if remove_if_empty(directory):
        return True
    names = ", ".join(sorted(path.name for path in directory.iterdir())[:5])
    if names:
        raise AgentError(f"not ours is in it: {names}")
    return False


def _forget(plan: Plan) -> bool:
    """What agents wrote at the node object; whether there was anything."""
    node = plan.node
    taints = node.api_server.startup_taints
    with contextlib.closing(kube.connect(node.api_server.kubeconfig)) as cluster:
        changed = False
        for section, one in plan.remains.items():
            wanted = operations(
                cluster.node(node.node_name()),
                getattr(taints, section),
                dict.fromkeys(one.annotations),
                dict.fromkeys(one.labels),
            )
            if wanted:
                cluster.patch_node(node.node_name(), wanted)
                changed = True
    return changed
