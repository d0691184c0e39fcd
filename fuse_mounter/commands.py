# SPDX-License-Identifier: Apache-2.0
"""`nodeshare mounts …`: the verbs of this agent. Imports what a verb needs when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents import config
from agents.agent import Status, installed, models
from agents.config import NodeConfig
from agents.errors import ConfigError
from agents.tables import Table, lines, text
from fuse_mounter.config import MounterConfig

_SECTION = "fuse_mounter"
_COLUMNS = ("mount", "driver", "path", "source", "state", "client", "recoveries", "last gap")


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    listing = verbs.add_parser("ls", help="mounts and their state")
    listing.add_argument("--config", type=Path, metavar="FILE", help="where to find the agent")
    listing.set_defaults(run=_list)
    drain = verbs.add_parser("drain", help="take mounts down, when no agent runs any more")
    drain.add_argument("--config", type=Path, metavar="FILE")
    drain.add_argument("--all", action="store_true", help="all of them, their clients, the holder")
    drain.set_defaults(run=_drain)


def tables(status: Status) -> Sequence[Table]:
    """The agent's status document for people."""
    mounts: Sequence[Mapping[str, Any]] = status.get("mounts", ())
    rows = [_row(one) for one in mounts]
    root = status.get("root")
    where = f"pods see them below {root} (HostToContainer)" if root else ""
    return (Table("Mounts", _COLUMNS, rows, where if rows else "no mount is configured"),)


def _row(one: Mapping[str, Any]) -> list[str]:
    state = one["state"] + (f": {one['cause']}" if one["cause"] else "")
    gap = one["last_gap_s"]
    return [
        one["name"],
        one["driver"],
        one["path"],
        text(one["source"]),
        state,
        text(one["client_pid"]),
        str(sum(one["recoveries"].values())),
        text(None if gap is None else f"{gap:.2f} s"),
    ]


def _load(options: argparse.Namespace) -> tuple[NodeConfig, MounterConfig]:
    """Without a file: what an agent without a file would use."""
    if options.config is None:
        return NodeConfig(), MounterConfig()
    loaded = config.load(options.config, models(installed()), only=_SECTION)
    section = loaded.sections.get(_SECTION, MounterConfig())
    assert isinstance(section, MounterConfig)
    return loaded.node, section


def _list(options: argparse.Namespace) -> int:
    from agents import overview  # heavy: rich
    from fuse_mounter.agent import AGENT

    node, section = _load(options)
    (seen,) = overview.look((AGENT,), node.run_dir)
    shown = tables(seen.document) if seen.document is not None else _from_kernel(node, section)
    print("\n".join(lines(shown)))
    return 0


def _from_kernel(node: NodeConfig, section: MounterConfig) -> Sequence[Table]:
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
    note = "no agent answers: this is the kernel's mount table"
    return (Table("Mounts", ("PATH", "TYPE", "SOURCE"), rows, note),)


def _drain(options: argparse.Namespace) -> int:
    import sys

    import trio  # heavy

    from agents.logs import configure
    from fuse_mounter.drain import drain_all
    from fuse_mounter.places import Places

    if not options.all:
        raise ConfigError(
            "nothing to drain was named", remedy="--all takes every mount of this node down"
        )
    node, section = _load(options)
    configure(node.log, agent=_SECTION, node=node.node_name(), stream=sys.stderr)
    trio.run(drain_all, section, Places.of(section.root, node.run_dir), node.host.host_fs())
    return 0
