# SPDX-License-Identifier: Apache-2.0
"""One agent as a process: start in the right order, serve, stop within five seconds.

Order of a start: configuration, namespace helper (it wants a process without threads), logs,
listeners, event loop. Until the listeners are bound nothing outside this process has been touched,
so an error in the configuration leaves nothing half-started. Knows no agent's work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from agents import config, endpoints, kube, listeners, orphans, reload, status_listener
from agents.agent import Agent, AgentContext, Readiness, Status
from agents.config import NodeConfig, Section
from agents.errors import AgentError, ConfigError
from agents.logs import configure, get_logger
from agents.namespaces import NamespaceHelper
from agents.node_object import Annotations, NodeKeeper
from agents.pod_event import tell_nobody
from agents.pod_events import PodEvents
from agents.published import Published
from agents.threads import share_heaps

#: An orderly stop takes at most this long; then the process ends, whatever still runs.
STOP_LIMIT_S = 5.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEARTBEAT_S = 1.0


def run_agent(agent: Agent, models: dict[str, type[Section]], path: Path) -> int:
    """The whole life of an agent's process; returns its exit code.

    0 after an orderly stop, 1 after a failure. Raises ConfigError when it could not even start.
    """
    if os.geteuid() != 0:
        raise ConfigError(
            "not root: an agent mounts, enters namespaces and reads every process",
            remedy=f"run it with sudo: sudo nodeshare run {agent.noun} --config {path}; "
            "in a container, as user 0",
        )
    loaded = config.load(path, models, only=agent.section)
    namespaces = NamespaceHelper.start()
    share_heaps()
    try:
        configure(loaded.node.log, agent=agent.section, node=loaded.node.node_name())
        return _Process(agent, models, path, loaded, namespaces).run()
    finally:
        namespaces.close()


def socket_path(node: NodeConfig, agent: Agent) -> Path:
    """Where this agent's status socket is."""
    return node.run_dir / f"{agent.noun}.sock"


class _Process:
    """What the parts of one agent's process share."""

    def __init__(
        self,
        agent: Agent,
        models: dict[str, type[Section]],
        path: Path,
        loaded: config.Config,
        namespaces: NamespaceHelper,
    ) -> None:
        self._agent, self._path, self._node = agent, path, loaded.node
        self._section = loaded.sections.get(agent.section)
        self._registry = CollectorRegistry()
        self._readiness = Readiness()
        self._status = Published[Status]({})
        self._annotations = Published[Annotations]({})
        self._labels = Published[Annotations]({})
        self._more_metrics = Published("")
        self._heartbeat = endpoints.Heartbeat()
        self._namespaces = namespaces
        self._log = get_logger()
        self._stopping = False
        self._reloader = reload.Reloader(agent, models, path, loaded, self._registry)
        self._common_metrics()

    def run(self) -> int:
        bound = self._bind()
        try:
            trio.run(self._main, bound)
        except BaseExceptionGroup as group:
            return self._failed(group)
        self._log.info("agent stopped")
        return 0 if self._stopping else 1

    def _bind(self) -> list[listeners.Listener]:
        agent, node = self._agent, self._node
        metrics = endpoints.metrics_routes(
            self._registry, self._heartbeat, self._readiness, self._more_metrics
        )
        identity = {
            "agent": agent.section,
            "node": node.node_name(),
            "version": version("nodeshare"),
        }
        bound: list[listeners.Listener] = []
        try:
            bound.append(
                listeners.bind_tcp(
                    node.metrics.address,
                    getattr(node.metrics.ports, agent.section),
                    metrics,
                    key=f"node.metrics.ports.{agent.section}",
                )
            )
            # Which ports were taken (0 means any) is part of the status.
            identity["metrics"] = bound[0].where
            status = endpoints.status_routes(
                agent, identity, self._readiness, self._status, self._heartbeat
            )
            bound.append(status_listener.bind(node, agent.section, status))
            identity["page"] = bound[1].where
            bound.append(listeners.bind_unix(socket_path(node, agent), status))
        except ConfigError:
            for listener in bound:
                listener.server.server_close()
            raise
        return bound

    def _common_metrics(self) -> None:
        ProcessCollector(registry=self._registry)
        Gauge(
            "nodeshare_agent_info",
            "Always 1; the version of this agent.",
            ["agent", "version"],
            registry=self._registry,
        ).labels(self._agent.section, version("nodeshare")).set(1)
        Gauge(
            "nodeshare_agent_ready",
            "1 if this agent does its job.",
            registry=self._registry,
        ).set_function(lambda: float(self._readiness.reason is None))
        # Always there, so that the metric does not come and go with the configuration.
        self._api_errors = Counter(
            "nodeshare_agent_api_errors",
            "Failed requests to the API server; 0 without API access.",
            registry=self._registry,
        )
        self._pod_events = PodEvents(
            self._node.node_name(),
            f"nodeshare-{self._agent.noun}",
            connect=lambda: kube.connect(self._node.api_server.kubeconfig),
            errors=self._api_errors,
            dropped=Counter(
                "nodeshare_agent_pod_events_dropped",
                "Events about pods that could not be told, or were too many; 0 without API access.",
                registry=self._registry,
            ),
        )

    async def _main(self, bound: Sequence[listeners.Listener]) -> None:
        send, receive = trio.open_memory_channel[Section](1)
        with (
            # Before anybody can see this agent: a signal from then on stops it in order.
            trio.open_signal_receiver(*_STOP_SIGNALS) as signals,
            _stop_limited(),
            listeners.serving(*bound),
        ):
            self._log.info(
                "agent started",
                metrics=bound[0].where,
                status=[listener.where for listener in bound[1:]],
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_on_signal, signals, nursery.cancel_scope)
                nursery.start_soon(self._beat)
                if os.getpid() == orphans.INIT:
                    nursery.start_soon(orphans.keep_reaped)
                nursery.start_soon(self._reloader.run, send)
                nursery.start_soon(self._keep_node_object)
                if self._node.api_server.enabled:
                    nursery.start_soon(self._pod_events.run)
                await self._work(receive)
                # An agent has no reason to return: whoever supervises it shall start it again.
                nursery.cancel_scope.cancel()

    async def _work(self, changes: trio.MemoryReceiveChannel[Section]) -> None:
        """An agent that is not configured is ready and idle, until its section is written."""
        section = self._section
        if section is None:
            self._readiness.ready()
            section = await changes.receive()
            self._readiness.not_ready("starting")
        run = self._agent.load()
        context = AgentContext(
            node=self._node,
            section=section,
            changes=changes,
            host=self._node.host.host_fs(),
            log=self._log,
            registry=self._registry,
            readiness=self._readiness,
            status=self._status,
            namespaces=self._namespaces,
            annotations=self._annotations,
            labels=self._labels,
            more_metrics=self._more_metrics,
            tell_pod=self._pod_events.tell if self._node.api_server.enabled else tell_nobody,
            config_file=self._path,
        )
        await run(context)

    async def _keep_node_object(self) -> None:
        api = self._node.api_server
        if api.enabled:
            await NodeKeeper(
                self._node.node_name(),
                getattr(api.startup_taints, self._agent.section),
                connect=lambda: kube.connect(api.kubeconfig),
                readiness=self._readiness,
                annotations=self._annotations,
                labels=self._labels,
                errors=self._api_errors,
            ).run()

    async def _beat(self) -> None:
        while True:
            self._heartbeat.beat()
            await trio.sleep(_HEARTBEAT_S)

    async def _stop_on_signal(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            self._log.info("agent stopping", signal=signal.Signals(number).name)
            self._stopping = True
            self._readiness.not_ready("stopping")
            scope.cancel()

    def _failed(self, group: BaseExceptionGroup[BaseException]) -> int:
        """Say once what ended the agent: a known error in one line, a bug with its traceback."""
        known, bugs = group.split(AgentError)
        if bugs is None and known is not None:
            for error in _leaves(known):
                self._log.error("agent failed", error=str(error))
            return 2 if known.subgroup(ConfigError) else 1
        self._log.error("agent failed", exc_info=group)
        return 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


@contextlib.contextmanager
def _stop_limited() -> Iterator[None]:
    """From a signal on, the process has `STOP_LIMIT_S`. Decided in the signal's handler: an event
    loop that hangs never hears of the signal."""
    former = {number: signal.getsignal(number) for number in _STOP_SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        _end_after(STOP_LIMIT_S)
        handler = former[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    for number in _STOP_SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end_after(limit_s: float) -> None:
    """A call that hangs in the kernel cannot be cancelled; the process can be ended."""

    def end() -> None:
        get_logger().error("agent did not stop in time", duration_s=limit_s)
        sys.stdout.flush()
        os._exit(1)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
