# SPDX-License-Identifier: Apache-2.0
"""`nodeshare up`: the agents of this machine, supervised, and what they do, live in the terminal.

With a configuration it runs what that says. Without one it makes a node first: an embedded kubelet,
a container runner, a folder to mount and simulated GPUs, and three pods that use all of it. Ctrl-C
takes everything away again; what a killed run left is swept away by the next.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from agents import config, listeners
from agents.agent import Agent, models
from agents.config import NodeConfig
from agents.errors import AgentError, ConfigError
from agents.hostfs import DEMONSTRATION_DIR, HostFs
from agents.screen import Screen
from agents.standin import demonstration, interruption, run_directory
from agents.standin.cri_server import CriServer
from agents.standin.demonstration import Demonstration, PodRunner
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.leftovers import sweep
from agents.standin.missing_runtime import MissingRuntime
from agents.standin.run import Run
from agents.standin.runtime import ContainerRunner

R = TypeVar("R", bound=PodRunner)

_PODS = "pods"


def up(agents: Sequence[Agent], options: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if os.geteuid() != 0:
        raise ConfigError("not root: agents mount and enter namespaces", remedy="run it with sudo")
    with interruption.raised():
        if options.config is not None:
            return _up_configured(agents, options.config.absolute(), options)
        return _up_demonstration(agents, options)


def _up_configured(agents: Sequence[Agent], path: Path, options: argparse.Namespace) -> int:
    loaded = config.load(path, models(agents))
    wanted = [agent for agent in agents if agent.section in loaded.sections]
    if not wanted:
        known = ", ".join(agent.section for agent in agents)
        raise ConfigError(f"{path}: configures no agent", remedy=f"write a section: {known}")
    run_dir = run_directory.settle(loaded.node.run_dir)
    with run_directory.only_one(run_dir):
        run = Run(wanted, path, loaded.node, run_dir / "log", mark=run_dir)
        run.end_orphans()
        _ports_are_free(wanted, loaded.node)
        return run.until_stopped(Screen(plain=options.plain))


def _up_demonstration(agents: Sequence[Agent], options: argparse.Namespace) -> int:
    directory = run_directory.settle((options.dir or DEMONSTRATION_DIR).absolute())
    if directory.is_mount():
        raise ConfigError(f"{str(directory)!r} is a mount", remedy="name a directory below it")
    data = demonstration.load(directory, free_ports=options.free_ports)
    loaded = config.parse(yaml.safe_dump(data["config"]), models(agents), name="demonstration")
    with run_directory.only_one(directory):
        try:
            _ports_are_free(agents, loaded.node)
        except ConfigError as error:
            raise ConfigError(
                error.message,
                remedy="stop what listens on it (ss -ltnp shows it), or use --free-ports",
            ) from error
        screen = Screen(plain=options.plain)
        return _in_stand_in_node(agents, directory, data, loaded.node, screen)


def _in_stand_in_node(
    agents: Sequence[Agent], directory: Path, data: dict[str, Any], node: NodeConfig, screen: Screen
) -> int:
    host = HostFs()
    if removed := clean_up(directory, host):
        screen.say(removed)
    try:
        path = demonstration.prepare(run_directory.claim(directory), data)
        run = Run(agents, path, node, directory / "logs", mark=directory)
        with _serving(node, _runner_if_any(directory, host)) as (kubelet, runner):
            return run.until_stopped(screen, Demonstration(directory, data, kubelet, runner))
    finally:
        with interruption.ignored():
            clean_up(directory, host)


def cgroup_parent(directory: Path) -> str:
    """The parent of all cgroups of a run: its own for each directory, so that runs do not mix."""
    return f"nodeshare-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:8]}"


def clean_up(directory: Path, host: HostFs) -> str:
    """Remove all that a demonstration in this directory has left; says what that was, or nothing.

    Raises AgentError for what resists.
    """
    # The runner's directory is a run's own too: its containers carry that mark.
    swept = [
        sweep(place, cgroup_parent(directory), host) for place in (directory / _PODS, directory)
    ]
    if remaining := [what for one in swept for what in one.remaining]:
        raise AgentError(f"cannot remove {', '.join(remaining)}", remedy="see what uses it (lsof)")
    return swept[0].plus(swept[1]).describe()


@contextmanager
def stand_in_node(
    directory: Path, node: NodeConfig, host: HostFs
) -> Iterator[tuple[EmbeddedKubelet, ContainerRunner]]:
    """A kubelet and a container runner on the sockets where agents of this `node` look.

    Raises AgentError on a machine that cannot run containers.
    """
    with _serving(node, _runner(directory, host)) as parts:
        yield parts


@contextmanager
def _serving(node: NodeConfig, runner: R) -> Iterator[tuple[EmbeddedKubelet, R]]:
    kubelet = EmbeddedKubelet(node.kubelet_dir, runner)
    runtime = CriServer(node.cri_socket, runner, kubelet.sandboxes)
    try:
        kubelet.start()
        runtime.start()
        yield kubelet, runner
    finally:
        runner.close()
        kubelet.stop()
        runtime.stop()


def _runner(directory: Path, host: HostFs) -> ContainerRunner:
    return ContainerRunner(directory / _PODS, cgroup_parent(directory), host)


def _runner_if_any(directory: Path, host: HostFs) -> PodRunner:
    """Where containers cannot be run (no cgroups), the pods alone wait, and say why."""
    try:
        return _runner(directory, host)
    except AgentError as error:
        return MissingRuntime(error)


def _ports_are_free(agents: Sequence[Agent], node: NodeConfig) -> None:
    """Before anything is started: the agents would each say so, one after the other. Raises
    ConfigError, also for a port that is configured twice.
    """
    names = [agent.section for agent in agents]
    with ExitStack() as bound:
        for kind, listener, wanted in (
            ("metrics", node.metrics, names),
            ("status", node.status, [*names, "up"]),
        ):
            for name in wanted:
                key, port = f"node.{kind}.ports.{name}", getattr(listener.ports, name)
                server = listeners.bind_tcp(listener.address, port, {}, key=key).server
                bound.callback(server.server_close)
