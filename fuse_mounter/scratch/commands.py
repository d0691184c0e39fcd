# SPDX-License-Identifier: Apache-2.0
"""`nodeshare scratch …`: what would go, let it go now, and why a file stays or goes. Imports what a
verb needs when it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agents import config
from agents.agent import installed, models
from agents.config import NodeConfig
from agents.errors import AgentError, ConfigError
from agents.tables import Table, lines
from fuse_mounter.config import MounterConfig
from fuse_mounter.scratch.config import ScratchRule

if TYPE_CHECKING:  # heavy
    from fuse_mounter.scratch.outcome import Outcome
    from fuse_mounter.scratch.run import Guard, Run

_SECTION = "fuse_mounter"


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the noun and its verbs."""
    noun = verbs.add_parser("scratch", help="scratch space that cleans itself")
    below = noun.add_subparsers(required=True, metavar="VERB")
    plan = below.add_parser("plan", help="what would go now, and what later; removes nothing")
    plan.add_argument("--list", action="store_true", help="every file, one JSON object a line")
    plan.set_defaults(run=_plan)
    run = below.add_parser("run", help="one run now: announce, and remove what is due")
    # As an agent has it done: progress as JSON lines, and only when it is time for it.
    run.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    run.add_argument("--if-due", action="store_true", help="only when the last run is old enough")
    run.set_defaults(run=_run)
    for parser in (plan, run):
        parser.add_argument("rule", nargs="?", metavar="RULE", help="one rule, by its name")
        parser.add_argument("--json", action="store_true", help="numbers as one JSON document")
    explain = below.add_parser("explain", help="why a file stays or goes, and when")
    explain.add_argument("path", type=Path, metavar="PATH")
    explain.set_defaults(run=_explain)
    for parser in (plan, run, explain):
        parser.add_argument("--config", type=Path, required=True, metavar="FILE")


def _load(options: argparse.Namespace) -> tuple[NodeConfig, MounterConfig]:
    loaded = config.load(options.config, models(installed()), only=_SECTION)
    section = loaded.sections.get(_SECTION, MounterConfig())
    assert isinstance(section, MounterConfig)
    if not section.scratch:
        raise ConfigError(
            f"{options.config}: fuse_mounter.scratch names no directory",
            remedy="add a rule, such as {mount: scratch, older_than: 30d}",
        )
    return loaded.node, section


def _chosen(section: MounterConfig, name: str | None) -> Sequence[ScratchRule]:
    found = [rule for rule in section.scratch if name in (None, rule.name)]
    if not found:
        known = ", ".join(rule.name for rule in section.scratch)
        raise ConfigError(f"there is no scratch rule {name!r}", remedy=f"use one of: {known}")
    return found


def _run_of(node: NodeConfig, section: MounterConfig, rule: ScratchRule, *, dry: bool) -> Run:
    from agents import mountinfo
    from fuse_mounter.scratch.place import place_of
    from fuse_mounter.scratch.run import Run

    path = next((one.path for one in section.mounts if one.name == rule.mount), None)
    published = None if path is None else section.root.resolve() / path
    proc = node.host.proc
    place = place_of(rule, published, mountinfo.read(proc))
    return Run(rule, place, proc, node.node_name(), dry, guard=_guard(node))


def _guard(node: NodeConfig) -> Guard | None:
    """Where there is an API server, a Lease is held besides the lock on the file system."""
    if not node.api_server.enabled:
        return None
    from agents import kube, lease  # heavy

    @contextmanager
    def hold(identity: str) -> Iterator[Callable[[], None]]:
        name = f"nodeshare-scratch-{identity}"
        with (
            closing(kube.connect(node.api_server.kubeconfig)) as cluster,
            lease.held(cluster, name, node.node_name()) as renew,
        ):
            yield renew

    return hold


def _plan(options: argparse.Namespace) -> int:
    from dataclasses import replace

    node, section = _load(options)
    done: list[tuple[ScratchRule, Outcome]] = []
    for rule in _chosen(section, options.rule):
        run = _run_of(node, section, rule, dry=True)
        if options.list:
            run = replace(run, told=_print_file)
        done.append((rule, _watched(run, quiet=options.list or options.json)))
    if options.list:
        return 0
    return _report(done, as_json=options.json)


def _run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    node, section = _load(options)
    done: list[tuple[ScratchRule, Outcome]] = []
    for rule in _chosen(section, options.rule):
        run = replace(_run_of(node, section, rule, dry=False), if_due=options.if_due)
        if options.lines:
            run = replace(run, progress=_print_progress)
        done.append((rule, _watched(run, quiet=options.lines or options.json)))
    if options.lines:
        for _, outcome in done:
            _print_progress(outcome)
        return 0
    return _report(done, as_json=options.json)


def _watched(run: Run, *, quiet: bool) -> Outcome:
    """Do it, with a bar for whoever watches at a terminal."""
    from dataclasses import replace

    import trio  # heavy

    if quiet or not sys.stderr.isatty():
        return trio.run(run.run)
    from agents.progress import bar  # heavy: rich
    from fuse_mounter.scratch.sizes import size_text

    # How many files there are nobody knows: the inodes in use are the most that it can be.
    space = os.statvfs(run.place.path)
    with bar(run.rule.name, space.f_files - space.f_ffree or None) as show:

        def progress(outcome: Outcome) -> None:
            found = f"{outcome.removed} to go, {size_text(outcome.removed_bytes)}"
            show(outcome.scanned, found)

        return trio.run(replace(run, progress=progress).run)


def _report(done: Sequence[tuple[ScratchRule, Outcome]], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({rule.name: outcome.document() for rule, outcome in done}, indent=2))
    else:
        print("\n".join(lines([table(done)])))
    problems = [problem for _, outcome in done for problem in outcome.problems]
    for problem in problems:
        print(f"nodeshare: {problem}", file=sys.stderr)
    return 1 if problems else 0


def table(done: Sequence[tuple[ScratchRule, Outcome]]) -> Table:
    """For people."""
    from fuse_mounter.scratch.outcome_text import COLUMNS, row

    unarmed = [rule.name for rule, _ in done if not rule.armed]
    note = f"not armed, so nothing was removed: {', '.join(unarmed)}" if unarmed else ""
    return Table("Scratch", COLUMNS, [row(rule, outcome) for rule, outcome in done], note)


def _print_file(path: str, size: int, last_use: float, goes: float | None) -> None:
    print(json.dumps({"path": path, "size_bytes": size, "last_use": last_use, "goes": goes}))


def _print_progress(outcome: Outcome) -> None:
    print(json.dumps(outcome.document()), flush=True)


def _explain(options: argparse.Namespace) -> int:
    from fuse_mounter.scratch.explain import explain

    node, section = _load(options)
    given = Path(os.path.abspath(options.path))  # noqa: PTH100 -- resolve() follows links
    problems: list[str] = []
    for rule in section.scratch:
        try:
            run = _run_of(node, section, rule, dry=True)
        except AgentError as error:
            problems.append(f"{rule.name}: {error}")
            continue
        # As it was given, or by the way there without links; a link itself is not followed.
        for path in (given, given.parent.resolve() / given.name):
            if path != run.place.path and path.is_relative_to(run.place.path):
                print("\n".join(explain(run, path)))
                return 0
    known = ", ".join(rule.name for rule in section.scratch)
    raise AgentError(
        "\n".join([f"no scratch rule is about {str(path)!r}", *problems]),
        remedy=f"name a path below one of: {known}",
    )
