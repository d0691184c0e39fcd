# SPDX-License-Identifier: Apache-2.0
"""One run of `nodeshare up`: agents as supervised processes, shown until they are to stop, then
stopped in order with all they left. Knows no agent's code: it starts commands and reads sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import trio

from agents import command, overview, status_listener
from agents.agent import Agent
from agents.command import NODESHARE, own_environment
from agents.config import LogConfig, LogFormat, NodeConfig
from agents.errors import AgentError, ConfigError
from agents.listeners import serving
from agents.logs import configure, get_logger
from agents.node_page import NodePage
from agents.page import Source
from agents.panels import of_tables
from agents.screen import Screen
from agents.standin import interruption, run_directory
from agents.standin.demonstration import Demonstration
from agents.supervise import Supervisor, end_orphans
from agents.tables import UNKNOWN

_REFRESH_S = 1.0
_CLEAR_S = 15.0
#: The row of the table of agents that names the page of all of them.
_ALL = "all of them"


class Run:
    """Some agents, supervised and shown until a signal comes, then stopped with all they left."""

    def __init__(
        self, agents: Sequence[Agent], path: Path, node: NodeConfig, logs: Path, *, mark: Path
    ) -> None:
        try:
            logs.mkdir(parents=True, exist_ok=True)
            # The log of the supervisor itself lies beside the agents': the terminal is for tables.
            stream = (logs / "up.log").open("a", buffering=1)
        except OSError as error:
            raise ConfigError(
                f"cannot write logs in {str(logs)!r}: {error.strerror}",
                remedy="name a directory that can be made and written, or free space there",
            ) from error
        configure(
            LogConfig(format=LogFormat.TEXT), agent="up", node=node.node_name(), stream=stream
        )
        self._agents, self._path, self._node, self._logs = agents, path, node, logs
        self._mark = run_directory.environment(mark)
        self._environment = {**own_environment(), **self._mark}
        self._commands = {
            agent.section: [*NODESHARE, "run", agent.noun, "--config", str(path)]
            for agent in agents
        }
        self._supervisor = Supervisor(self._commands, logs, self._environment)
        self._stopping = trio.Event()
        self._page = NodePage(node.node_name(), agents)

    def end_orphans(self) -> None:
        """End the agents that an earlier run with this configuration left when it was killed.

        Raises AgentError when one of them cannot be ended.
        """
        (mark,) = self._mark.items()
        commands = list(self._commands.values())
        if not trio.run(end_orphans, commands, mark, self._node.host.proc):
            raise AgentError("an agent of an earlier run cannot be ended", remedy="see dmesg")

    def until_stopped(self, screen: Screen, shown: Demonstration | None = None) -> int:
        """Blocks until a signal comes or nobody reads, and until everything is taken away."""
        bound = status_listener.bind(self._node, "up", self._page.routes())
        with screen, serving(bound):
            trio.run(self._main, screen, shown, bound.where)
        return 0

    async def _main(self, screen: Screen, shown: Demonstration | None, page: str) -> None:
        with trio.open_signal_receiver(*interruption.stop_signals()) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_signals, signals, screen)
                async with trio.open_nursery() as agents:
                    agents.start_soon(self._supervisor.run)
                    async with trio.open_nursery() as tasks:
                        tasks.start_soon(self._refresh, screen, shown, page)
                        if shown is not None:
                            tasks.start_soon(shown.run)
                        await self._stopping.wait()
                        tasks.cancel_scope.cancel()
                    if shown is not None:
                        await trio.to_thread.run_sync(shown.stop)
                    agents.cancel_scope.cancel()
                await self._clear(screen)
                nursery.cancel_scope.cancel()

    async def _await_signals(self, signals: AsyncIterator[int], screen: Screen) -> None:
        """The first one ends the run; those of an impatient user find it ending already."""
        async for _ in signals:
            screen.say("still stopping" if self._stopping.is_set() else "stopping")
            self._stopping.set()

    async def _refresh(self, screen: Screen, shown: Demonstration | None, page: str) -> None:
        while not screen.unread:
            seen = await trio.to_thread.run_sync(
                overview.look, self._agents, self._node.run_dir, abandon_on_cancel=True
            )
            explained = [self._explained(one) for one in seen]
            for one in explained:
                self._page.saw(one.agent.section, one.document, one.problem)
            agents, *rest = overview.tables(explained)
            agents = replace(agents, rows=[*agents.rows, (_ALL, "ready", UNKNOWN, page)])
            steps = [
                f"logs: {self._logs}",
                f"also: nodeshare status --run-dir {self._node.run_dir}",
            ]
            if shown is None:
                screen.show([agents, *rest], [*steps, "Ctrl-C ends everything"])
            else:
                pods = shown.table()
                self._page.add(Source("demonstration", None, of_tables([pods])))
                screen.show([agents, pods, *rest], steps + shown.next_steps(seen))
            await trio.sleep(_REFRESH_S)
        self._stopping.set()

    def _explained(self, seen: overview.Seen) -> overview.Seen:
        """For an agent whose socket nobody serves: how its process ended, with its last words."""
        if seen.document is not None or seen.problem != overview.NOT_RUNNING:
            return seen
        state = self._supervisor.states[seen.agent.section]
        how = state.describe_end()
        if state.pid is not None:
            problem = f"starting ({how})" if how else "starting"
        elif how:
            problem = f"unavailable: {how}"
            if state.last_exit is not None and state.last_exit > 0:
                problem += f": {_last_line(self._logs / f'{seen.agent.section}.log')}"
        else:
            problem = seen.problem
        return overview.Seen(seen.agent, None, problem)

    async def _clear(self, screen: Screen) -> None:
        """Take away what outlives the agents: mounts and their clients, views."""
        for agent in self._agents:
            if agent.clear:
                argv = [*NODESHARE, *agent.clear, "--config", str(self._path)]
                try:
                    result = await command.run(argv, timeout_s=_CLEAR_S, env=self._environment)
                    problem = None if result.ok else result.describe()
                except OSError as error:
                    problem = str(error)
                if problem is not None:
                    get_logger().warning("not cleared", child=agent.section, error=problem)
                    screen.say(f"{agent.section}: {problem}")


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 2000))
            return log.read().decode(errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return f"see {path}"
