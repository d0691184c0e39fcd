# SPDX-License-Identifier: Apache-2.0
"""How soon somebody acts on a container that has more than it may have.

From the moment at which it holds too much to its end, with no grace, so that the first act is
SIGTERM (with one it is a warning, at the same moment). The moment is drawn at random within the
period. Once on a device with room; once under pressure: it is within its limit (burst), and others
lack what they are guaranteed.

The peer is the loop that MetaGPU makes every 5 seconds: each process by itself against what its
container may have, and SIGKILL. It reads the same simulated driver, from this process, and does
nothing else.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.hostfs import PROC
from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.simulated.state import SimulatedState
from tests.bench.measure import Context, Row, at_most, median, quantile
from tests.bench.workplace import RunningAgent, Workplace, needs_kernel, workplace
from tests.fakes.containers import exists
from tests.fakes.gpu_tenants import children

GIB = 1 << 30
_RESOURCE = "nodeshare/gpu-memory"
_LIMIT_S = 30.0
#: How long the agent has to see what was there before, and what was ended.
_SETTLE_S = 1.5
#: A first process without GPU memory, and always one child that takes some.
_KERNELS = "while :; do sleep 1000 & wait $!; done"
_PEER_PERIOD_S = 5.0
_MACHINE = "v100x2"


@dataclass(frozen=True, slots=True)
class _Pod:
    """`keeps` is what its first process holds, in GiB, and `takes` what a child takes."""

    name: str
    units: int
    keeps: float
    takes: float = 0.0


#: 32 units of a V100: little is free, ben lacks a part of his, and ada may burst.
_PRESSURE = (_Pod("ada", 4, 3.5, 1.5), _Pod("ben", 24, 23.3), _Pod("eve", 3, 3.0))
_ROOM = (_Pod("ada", 4, 3.5, 1.5),)


def measure(context: Context) -> Sequence[Row]:
    """Raises NotHere, where containers cannot run."""
    needs_kernel(context)
    with workplace(context) as place:
        peer = _peer(place)
        return [
            *_rows("with room", _ours(place, _ROOM, "request"), peer, goal_s=1.2),
            *_rows("under pressure", _ours(place, _PRESSURE, "burst"), peer, goal_s=0.25),
        ]


def _ours(place: Workplace, pods: Sequence[_Pod], policy: str) -> list[float]:
    with _node(place, pods, {"grace": "0s", "pressure_grace": "0s"}, policy) as node:
        agent = place.agent("gpu")
        try:
            node.admit(agent)
            return node.react(place.context.pick(40, 5), period_s=1.0)
        finally:
            agent.stop()


def _peer(place: Workplace) -> list[float]:
    """The containers come by the agent's units; it enforces nothing."""
    with _node(place, _ROOM, {"mode": "disabled"}, "request") as node:
        agent = place.agent("gpu")
        try:
            node.admit(agent)
            with node.peer(4 * GIB):
                # What counts there is a process alone, so it takes more than the whole share.
                return node.react(place.context.pick(10, 1), _PEER_PERIOD_S, extra=4 * GIB)
        finally:
            agent.stop()


def _rows(title: str, ours: Sequence[float], peer: Sequence[float], *, goal_s: float) -> list[Row]:
    name, what = "per-process loop of 5 s", f"{title}: too much → ended"
    return [
        Row(
            f"{what}, median",
            median(ours, "s"),
            name,
            median(peer, "s"),
            note=f"{len(ours)} times; peer {len(peer)}",
        ),
        Row(
            f"{what}, p99",
            quantile(ours, 0.99, "s"),
            name,
            quantile(peer, 0.99, "s"),
            goal=at_most(goal_s, "s"),
        ),
    ]


class _Node:
    """Pods of real processes on a simulated GPU."""

    def __init__(self, kubelet: EmbeddedKubelet, state: Path, pods: Sequence[_Pod]) -> None:
        self._kubelet, self._pods = kubelet, pods
        self._state_path = state
        self._state = SimulatedState(state)
        self._random = random.Random(1)
        self._device = ""
        self._first: dict[str, int] = {}

    def admit(self, agent: RunningAgent) -> None:
        """All pods, on one device, with what their first processes hold."""
        agent.until(self._offered, "units are offered")
        agent.until_ready()
        for pod in self._pods:
            spec = ContainerSpec("main", ("sh", "-c", _KERNELS), resources={_RESOURCE: pod.units})
            status = self._kubelet.admit(PodSpec(pod.name, [spec], namespace="bench"))
            if status.phase is not PodPhase.RUNNING:
                raise RuntimeError(status.message)
            container = status.containers[0]
            assert container.pid is not None
            self._device = container.devices[_RESOURCE][0].partition("::")[0]
            self._first[pod.name] = container.pid
            self._state.hold(self._device, container.pid, int(pod.keeps * GIB))

    def _offered(self) -> bool:
        known = self._kubelet.resources().get(_RESOURCE)
        return known is not None and known.allocatable > 0

    def react(self, number: int, period_s: float, *, extra: int = 0) -> list[float]:
        """Seconds from too much to the end, so many times."""
        greedy = self._pods[0]
        return [
            self._once(self._first[greedy.name], int(greedy.takes * GIB) + extra, period_s)
            for _ in range(number)
        ]

    def _once(self, first: int, takes: int, period_s: float) -> float:
        found: list[int] = []

        def there() -> bool:
            found[:] = [pid for pid in children(first) if _runs_sleep(pid)]
            return len(found) == 1

        self._until(there, "a child that can take memory")
        time.sleep(_SETTLE_S + self._random.random() * period_s)
        with closing(_Watched(found[0])) as child:
            self._state.hold(self._device, found[0], takes)
            began = time.monotonic()
            if not child.ends(_LIMIT_S):
                raise RuntimeError(f"nothing was done within {_LIMIT_S:g} s")
            return time.monotonic() - began

    @contextmanager
    def peer(self, share: int) -> Iterator[None]:
        """Ends every process that alone holds more than the share."""
        nvml = SimulatedNvml(load_machine(_MACHINE), self._state_path)
        done = threading.Event()

        def loop() -> None:
            while not done.wait(_PEER_PERIOD_S):
                for process in nvml.processes(self._device):
                    if process.used is not None and process.used > share:
                        os.kill(process.pid, signal.SIGKILL)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        if not self._kubelet.wait_for(condition, _LIMIT_S):
            raise RuntimeError(f"not within {_LIMIT_S:g} s: {what}")


class _Watched:
    """Tells of the end of a process as soon as it ends."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def ends(self, timeout_s: float) -> bool:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def close(self) -> None:
        os.close(self._descriptor)


def _runs_sleep(pid: int) -> bool:
    try:
        return (PROC / f"{pid}/comm").read_text() == "sleep\n" and exists(pid)
    except OSError:
        return False


@contextmanager
def _node(
    place: Workplace, pods: Sequence[_Pod], enforcement: dict[str, str], policy: str
) -> Iterator[_Node]:
    state = place.directory / "gpu-state"
    state.unlink(missing_ok=True)
    place.configure(
        gpu_plugin={
            "simulate": _MACHINE,
            "simulated_state": str(state),
            "enforcement": enforcement,
            "resources": [{"name": _RESOURCE, "limit": {"policy": policy}}],
        }
    )
    with place.cluster() as (kubelet, _):
        yield _Node(kubelet, state, pods)
    shutil.rmtree(place.node.state_dir / "gpu")
