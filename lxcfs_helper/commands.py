# SPDX-License-Identifier: Apache-2.0
"""`nodeshare view ls | show | eject`: what a person or a script asks on the node.

Only the words are here; imports what a command needs when it is run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agents import config
from agents.agent import installed, models
from agents.config import NodeConfig
from agents.errors import AgentError

_SECTION = "lxcfs_helper"


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of `nodeshare view`."""
    listing = verbs.add_parser("ls", help="the containers that run here and what each is shown")
    listing.set_defaults(run=_list)
    show = verbs.add_parser("show", help="what one container sees, next to the host's value")
    show.add_argument(
        "who", metavar="PID|POD", help="a process, or a pod as NAME, NAMESPACE/NAME or its uid"
    )
    show.add_argument("--json", action="store_true", help="the same as JSON")
    show.set_defaults(run=_show)
    away = verbs.add_parser(
        "eject", help="take every view out of every container, when no agent runs any more"
    )
    away.set_defaults(run=_eject)
    for verb in (listing, show, away):
        verb.add_argument("--config", type=Path, metavar="FILE", help="the node's configuration")


def _node(options: argparse.Namespace) -> NodeConfig:
    if options.config is None:
        return NodeConfig()
    return config.load(options.config, models(installed()), only=_SECTION).node


def _list(options: argparse.Namespace) -> int:
    from lxcfs_helper.explain import attached, containers
    from lxcfs_helper.explain_text import listing

    node = _node(options)
    running = [
        (one, None if one.pid is None else attached(node, one.pid)) for one in containers(node)
    ]
    print(listing(running))
    return 0


def _show(options: argparse.Namespace) -> int:
    from lxcfs_helper.explain import explain
    from lxcfs_helper.explain_text import report

    print(report(explain(_node(options), options.who)).text(as_json=options.json))
    return 0


def _eject(options: argparse.Namespace) -> int:
    import trio

    from agents.mounts import LinuxMounts
    from agents.namespaces import NamespaceHelper
    from agents.overview import NOT_RUNNING, look
    from lxcfs_helper.compat.removal import remove
    from lxcfs_helper.eject import eject
    from lxcfs_helper.files import ViewFiles, views_directory

    node = _node(options)
    (agent,) = look([one for one in installed() if one.section == _SECTION], node.run_dir)
    if agent.problem != NOT_RUNNING:
        raise AgentError(
            f"the agent of {str(node.run_dir)!r} runs, and would put everything back",
            remedy="stop it first",
        )
    host = node.host.host_fs()
    namespaces = NamespaceHelper.start(host.proc)
    try:
        files = ViewFiles(views_directory(node.run_dir), LinuxMounts(), host.proc)
        done = eject(host, namespaces, files)
    finally:
        namespaces.close()
    roots, problems = trio.run(remove, node.run_dir, host, LinuxMounts())
    print(f"{done.mounts} mounts taken out of {done.namespaces} mount namespaces")
    if roots:
        print("the lxcfs-compatible root taken away")
    for problem in (*done.problems, *problems):
        print(f"not taken away: {problem}")
    return 1 if done.problems or problems else 0
