# SPDX-License-Identifier: Apache-2.0
"""`nodeshare mounts …`: the verbs of this agent. Imports what a verb needs when it runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents import config
from agents.agent import Status, installed, models
from agents.config import NodeConfig
from agents.errors import ConfigError, Unavailable
from agents.tables import Table, lines, text
from fuse_mounter import attached
from fuse_mounter.config import MounterConfig
from fuse_mounter.credentials.tables import token_table
from fuse_mounter.scratch.outcome_text import status_table as scratch_table

if TYPE_CHECKING:
    from fuse_mounter.requests import Verb
    from fuse_mounter.show import Seen

_SECTION = "fuse_mounter"
_COLUMNS = ("mount", "driver", "path", "source", "client", "recoveries", "last gap", "state")


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    listing = _verb(verbs, "ls", "mounts and their state", _list)
    listing.add_argument("--json", action="store_true", help="the agent's own document")
    show = _verb(verbs, "show", "all that is known of one mount", _show)
    show.add_argument("name", metavar="NAME")
    show.add_argument("--json", action="store_true", help="one document")
    pods = _verb(verbs, "pods", "how pods bound mounts, and what recoveries do not reach", _pods)
    pods.add_argument("--json", action="store_true", help="one document")
    replace = _verb(verbs, "replace", "a new client in the place of the old one, no gap", _replace)
    replace.add_argument("name", metavar="NAME")
    probe = _verb(verbs, "probe", "ask a mount whether it answers; also without an agent", _probe)
    probe.add_argument("name", metavar="NAME")
    drain = _verb(verbs, "drain", "take a mount away, or all of them without an agent", _drain)
    drain.add_argument("name", metavar="NAME", nargs="?", help="one mount, by the agent that runs")
    drain.add_argument("--all", action="store_true", help="all of them, their clients, the holder")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text)
    verb.add_argument("--config", type=Path, metavar="FILE", help="where to find the agent")
    verb.set_defaults(run=run)
    return verb


def tables(status: Status) -> Sequence[Table]:
    """The agent's status document for people."""
    mounts: Sequence[Mapping[str, Any]] = status.get("mounts", ())
    rows = [_row(one) for one in mounts]
    root = status.get("root")
    where = f"pods see them below {root} (HostToContainer)" if root else ""
    mounted = Table("Mounts", _COLUMNS, rows, where if rows else "no mount is configured")
    others = (token_table(status.get("credentials", {})), scratch_table(status.get("scratch", ())))
    shown = (one for one in others if one is not None)
    return (mounted, *attached.troubled(status.get("pods", ())), *shown)


def _row(one: Mapping[str, Any]) -> list[str]:
    state = one["state"] + (f": {one['cause']}" if one["cause"] else "")
    gap = one["last_gap_s"]
    return [
        one["name"],
        one["driver"],
        one["path"],
        text(one["source"]),
        text(one["client_pid"]),
        str(sum(one["recoveries"].values())),
        text(None if gap is None else f"{gap:.2f} s"),
        state,
    ]


def _load(options: argparse.Namespace) -> tuple[NodeConfig, MounterConfig]:
    """Without a file: what an agent without a file would use."""
    if options.config is None:
        return NodeConfig(), MounterConfig()
    loaded = config.load(options.config, models(installed()), only=_SECTION)
    section = loaded.sections.get(_SECTION, MounterConfig())
    assert isinstance(section, MounterConfig)
    return loaded.node, section


def _document(node: NodeConfig) -> tuple[Status | None, str]:
    """What the agent says; None with the reason: it runs not, or does not answer."""
    from agents import overview  # heavy: rich
    from fuse_mounter.agent import AGENT

    (seen,) = overview.look((AGENT,), node.run_dir)
    return seen.document, f"the agent of {str(node.run_dir)!r}: {seen.problem}"


def _list(options: argparse.Namespace) -> int:
    node, section = _load(options)
    document, problem = _document(node)
    if options.json:
        print(json.dumps(document, indent=1))
        return 0 if document is not None else 1
    found = tables(document) if document is not None else _from_kernel(node, section, problem)
    print("\n".join(lines(found)))
    return 0


def _show(options: argparse.Namespace) -> int:
    from fuse_mounter import show

    node, _ = _load(options)
    status = _running(node)
    mounts = {one["name"]: one for one in status.get("mounts", ())}
    mount = mounts.get(options.name)
    if mount is None:
        raise _unknown(options.name, mounts)
    seen = _seen(node, status, mount)
    if options.json:
        print(json.dumps(show.document(mount, status, seen), indent=1))
    else:
        print("\n".join(lines(show.tables(mount, status, seen))))
    return 0


def _pods(options: argparse.Namespace) -> int:
    status = _running(_load(options)[0])
    rows = status.get("pods", ())
    print(json.dumps(rows, indent=1) if options.json else "\n".join(lines(attached.tables(rows))))
    return 0


def _running(node: NodeConfig) -> Status:
    """The document of the agent. Raises Unavailable: none answers."""
    status, problem = _document(node)
    if status is None:
        raise Unavailable(
            problem,
            remedy="start it, or name its configuration with --config; `nodeshare mounts ls` "
            "shows what the kernel has mounted",
        )
    return status


def _unknown(name: str, known: Iterable[str]) -> ConfigError:
    listed = ", ".join(sorted(known)) or "none"
    return ConfigError(f"no mount is called {name!r}", remedy=f"known are: {listed}")


def _seen(node: NodeConfig, status: Status, mount: Mapping[str, Any]) -> Seen:
    """Reads the kernel's tables alone, so it cannot hang."""
    from agents import mountinfo
    from fuse_mounter.client_command import command_line
    from fuse_mounter.observe import is_anchor
    from fuse_mounter.show import Seen

    stack = mountinfo.at(mountinfo.read(node.host.proc), f"{status.get('root')}/{mount['path']}")
    top = stack[-1] if stack and not is_anchor(stack[-1]) else None
    return Seen(top, command_line(node.host.host_fs(), mount["client_pid"], mount["name"]))


def _replace(options: argparse.Namespace) -> int:
    from fuse_mounter.requests import Verb

    return _ask(options, Verb.REPLACE)


def _ask(options: argparse.Namespace, verb: Verb) -> int:
    """One request to the agent that runs. 1: it could not be done."""
    from fuse_mounter import requests

    node, _ = _load(options)
    reply = requests.ask(node.run_dir, requests.Request(verb, options.name))
    print(f"{options.name}: {reply.text}")
    return 0 if reply.done else 1


def _probe(options: argparse.Namespace) -> int:
    import trio  # heavy

    from fuse_mounter import probe_once
    from fuse_mounter.places import Places
    from fuse_mounter.requests import Verb

    node, section = _load(options)
    if _document(node)[0] is not None:
        return _ask(options, Verb.PROBE)
    found = probe_once.staged(Places.of(section.root, node.run_dir), node.host.host_fs())
    place = found.get(options.name)
    if place is None:
        raise _unknown(options.name, found)
    done, text = trio.run(probe_once.probe, place, section.health.hang_after)
    print(f"{options.name}: {text} (no agent answers)")
    return 0 if done else 1


def _from_kernel(node: NodeConfig, section: MounterConfig, problem: str) -> Sequence[Table]:
    """Without an agent: what is mounted below the root, whoever serves it."""
    from agents import mountinfo
    from fuse_mounter.observe import is_anchor

    table = mountinfo.read(node.host.proc)
    root = str(section.root.resolve())
    rows = [
        [entry.mount_point.removeprefix(root + "/"), entry.fstype, entry.source]
        for entry in mountinfo.below(table, root)
        if entry.mount_point != root and not is_anchor(entry)
    ]
    note = f"{problem}; this is the kernel's mount table"
    return (Table("Mounts", ("path", "type", "source"), rows, note),)


def _drain(options: argparse.Namespace) -> int:
    import sys

    import trio  # heavy

    from agents.logs import configure
    from fuse_mounter.drain import drain_all
    from fuse_mounter.places import Places
    from fuse_mounter.requests import Verb

    if options.all and options.name is not None:
        raise ConfigError(
            f"--all and {options.name!r} exclude each other", remedy="say one of them"
        )
    if options.name is not None:
        return _ask(options, Verb.DRAIN)
    if not options.all:
        raise ConfigError(
            "nothing to drain was named",
            remedy="name a mount, or say --all (every mount of this node; stop the agent first)",
        )
    node, section = _load(options)
    configure(node.log, agent=_SECTION, node=node.node_name(), stream=sys.stderr)
    trio.run(drain_all, section, Places.of(section.root, node.run_dir), node.host.host_fs())
    return 0
