# SPDX-License-Identifier: Apache-2.0
"""The console command `nodeshare`: verbs of the runtime here, verbs of an agent from its package.

Translates errors to exit codes, once: 0 done, 1 failed, 2 wrong configuration or command line,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from agents import config
from agents.__main__ import EXIT_INTERRUPTED
from agents.agent import EXIT_CONFIG, Agent, installed, models
from agents.errors import AgentError, ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    agents = installed()
    options = parser(agents).parse_args(arguments)
    try:
        code = int(options.run(options))
        print(end="", flush=True)  # while an error can still be told
        return code
    except ConfigError as error:
        print(f"nodeshare: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except AgentError as error:
        print(f"nodeshare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head`
        discard_output()
        return EXIT_INTERRUPTED
    except OSError as error:  # a full disk, a file that may not be read
        print(f"nodeshare: {error}", file=sys.stderr)
        discard_output()
        return 1


def discard_output() -> None:
    """Let what cannot be written go nowhere, instead of failing once more at the very end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def parser(agents: Sequence[Agent]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nodeshare", description="Let many people share one Kubernetes node honestly."
    )
    parser.add_argument("--version", action="version", version=f"nodeshare {version('nodeshare')}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_up(verbs, agents)
    _add_run(verbs, agents)
    _add_check(verbs, agents)
    _add_explain(verbs, agents)
    _add_status(verbs, agents)
    _add_support_bundle(verbs, agents)
    _add_uninstall(verbs, agents)
    for agent in agents:
        agent.verbs(verbs)
    for agent in agents:
        noun = verbs.add_parser(agent.noun, help=f"what belongs to {agent.section}")
        agent.commands(noun.add_subparsers(required=True, metavar="VERB"))
    return parser


def _add_run(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], agents: Sequence[Agent]
) -> None:
    parser = verbs.add_parser(
        "run", help="run one agent, or the holder of clients (the entry point of its container)"
    )
    parser.add_argument("noun", choices=[*(agent.noun for agent in agents), "holder"])
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")

    def run(options: argparse.Namespace) -> int:
        if options.noun == "holder":
            from agents.holder_start import become  # heavy: trio

            become(config.load(options.config, models(agents), only="node").node)
        from agents.lifecycle import run_agent  # heavy: only a running agent needs it

        agent = next(agent for agent in agents if agent.noun == options.noun)
        return run_agent(agent, models(agents), options.config.absolute())

    parser.set_defaults(run=run)


def _add_check(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], agents: Sequence[Agent]
) -> None:
    parser = verbs.add_parser("check", help="check a file; exit code 2 if it is wrong")
    parser.add_argument("file", type=Path, metavar="FILE")

    def run(options: argparse.Namespace) -> int:
        loaded = config.load(options.file, models(agents))
        names = ", ".join(sorted(loaded.sections)) or "no agent"
        print(f"{options.file}: valid; configures {names}")
        return 0

    parser.set_defaults(run=run)


def _add_explain(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], agents: Sequence[Agent]
) -> None:
    parser = verbs.add_parser("explain", help="what a file would do on this machine")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--machine", metavar="M", help="on a described machine (a name or a YAML file) instead"
    )

    parser.add_argument("--json", action="store_true", help="one document, by agent")

    def run(options: argparse.Namespace) -> int:
        loaded = config.load(options.file, models(agents))
        reports = {
            agent.section: agent.explain(loaded.node, section, options.machine)
            for agent in agents
            if (section := loaded.sections.get(agent.section)) is not None
        }
        if options.json:
            print(json.dumps({name: report.document for name, report in reports.items()}, indent=2))
            return 0
        for name, report in reports.items():
            if not report.lines:  # its configuration says everything itself
                continue
            print("\n".join([f"{name}:", *(f"  {line}".rstrip() for line in report.lines)]))
        return 0

    parser.set_defaults(run=run)


def _add_up(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], agents: Sequence[Agent]
) -> None:
    parser = verbs.add_parser(
        "up", help="run the agents on this machine; without a file, the demonstration"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="run what this file configures")
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="where the demonstration keeps everything it makes (default /run/nodeshare/demo)",
    )
    parser.add_argument(
        "--free-ports", action="store_true", help="take free ports instead of 9401-9413"
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of a live table")

    def run(options: argparse.Namespace) -> int:
        from agents.standin.up import up  # heavy: the stand-in node, and rich

        return up(agents, options)

    parser.set_defaults(run=run)


def _add_support_bundle(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], agents: Sequence[Agent]
) -> None:
    parser = verbs.add_parser(
        "support-bundle", help="state, configuration and logs in one archive, without secrets"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="what the agents run with")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write it; - is the standard output"
    )

    def run(options: argparse.Namespace) -> int:
        from agents.support_bundle import write  # heavy: everything there is to look at

        path, missing = write(agents, options.config, options.output)
        lacks = f"; {missing} parts are missing, as not-collected.txt in it says" if missing else ""
        print(f"wrote {path}{lacks}; look at it before you hand it on", file=sys.stderr)
        return 0

    parser.set_defaults(run=run)


def _add_uninstall(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], agents: Sequence[Agent]
) -> None:
    parser = verbs.add_parser("uninstall", help="take every trace off this machine")
    parser.add_argument("--config", type=Path, metavar="FILE", help="what the agents ran with")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, only")
    parser.add_argument(
        "--force", action="store_true", help="also what containers still use, and unsent data"
    )

    def run(options: argparse.Namespace) -> int:
        from agents.uninstall import uninstall  # heavy: trio, and what the agents left

        known, path = models(agents), options.config
        loaded = config.parse("", known) if path is None else config.load(path, known)
        path = None if path is None else path.absolute()
        return uninstall(
            agents, loaded, path, dry_run=options.dry_run, force=options.force, say=print
        )

    parser.set_defaults(run=run)


def _add_status(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], agents: Sequence[Agent]
) -> None:
    parser = verbs.add_parser("status", help="this node at a glance")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where the agents' sockets are")
    parser.add_argument("--json", action="store_true", help="the agents' own documents")
    parser.add_argument("--watch", action="store_true", help="again every two seconds")

    def run(options: argparse.Namespace) -> int:
        from agents.overview import show  # heavy: rich

        return show(agents, options.run_dir, as_json=options.json, watch=options.watch)

    parser.set_defaults(run=run)
