# SPDX-License-Identifier: Apache-2.0
"""`nodeshare plan` and the running agent say the same: the same pods, in the same order, go through
the rehearsal and, over real sockets, through a kubelet and the agent. Machines, rules and pods are
made up.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import yaml
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from agents import config
from agents.agent import AgentContext, Readiness
from agents.config import NodeConfig, Section
from agents.cri import CriContainers
from agents.hostfs import HostFs
from agents.logs import get_logger
from agents.namespaces import Namespaces
from agents.podresources import KubeletPodResources
from agents.published import Published
from agents.standin.kubelet import Behaviour, EmbeddedKubelet, PodStatus
from agents.standin.pods import ContainerSpec, PodPhase, PodSpec
from gpu_plugin import rejection, units
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.daemon import GpuAgent, Timing
from gpu_plugin.driver_watch import Timing as DriverTiming
from gpu_plugin.holders_watch import Timing as HoldersTiming
from gpu_plugin.pod_request import Pod
from gpu_plugin.rehearsal import Node, Outcome, Verdict
from gpu_plugin.resources import Plan, plan
from gpu_plugin.simulated.description import load_machine
from gpu_plugin.simulated.nvml import SimulatedNvml
from tests.fakes.runtime import FakeRuntime

SHARED, SLICES = "nodeshare/gpu-memory", "example.org/slice"
FAST = Timing(
    driver=DriverTiming(usage_s=0.02, idle_s=0.02, pause_s=0.01, inventory_s=0.05),
    holders=HoldersTiming(look_s=0.02),
    sockets_s=0.02,
)
LIMIT_S = 5.0

sizes = st.sampled_from(["1GiB", "1500MiB", "3GiB"])
memories = st.integers(4000, 24000).map("{}MiB".format)
whole_gpus = st.fixed_dictionaries(
    {
        "model": st.just("Tesla V100-PCIE-32GB"),
        "count": st.integers(1, 3),
        "memory": memories,
        "reserved": st.sampled_from([0, "269MiB"]),
        "numa": st.sampled_from([[], [0], [0, 1]]),
    }
)
cut_gpus = st.lists(memories, min_size=1, max_size=3).map(
    lambda found: {
        "model": "NVIDIA A100-SXM4-80GB",
        "memory": "80GiB",
        "mig": "enabled",
        "slices": [
            {"profile": "2g.20gb", "gpu_instance": number, "memory": memory}
            for number, memory in enumerate(found)
        ],
    }
)
machines = st.tuples(st.lists(whole_gpus, min_size=1, max_size=2), st.lists(cut_gpus, max_size=1))
placements = st.sampled_from(["pack", "spread", "numa"])
shared_rules = st.fixed_dictionaries(
    {
        "name": st.just(SHARED),
        "select": st.just({"mig": "none"}),
        "chunk": sizes,
        "placement": placements,
    },
    optional={
        "split": st.just(True),
        "overcommit": st.sampled_from([0.7, 1.5]),
        "reserved": st.just("1GiB"),
    },
)
honest_rules = st.fixed_dictionaries(
    {
        "name": st.just(SHARED),
        "select": st.just({"mig": "none"}),
        "honest_capacity": st.lists(st.integers(1, 7), min_size=1, max_size=2).map(
            lambda found: {"sizes": found}
        ),
    }
)
block_rules = st.fixed_dictionaries(
    {
        "name": st.just(SHARED),
        "select": st.just({"mig": "none"}),
        "blocks": st.just({"small": "1GiB", "large": "3GiB"}),
    }
)
slice_rules = st.fixed_dictionaries(
    {"name": st.just(SLICES), "select": st.just({"mig": "any"})},
    optional={"exclusive": st.just(True)},
)
rules = st.tuples(shared_rules | honest_rules | block_rules, slice_rules)
asks = st.lists(
    st.dictionaries(st.integers(0, 2), st.integers(1, 12), min_size=1, max_size=2),
    min_size=4,
    max_size=12,
)


class RunningAgent:
    """A kubelet and the agent, with everything below one directory."""

    def __init__(self, directory: Path, section: GpuPluginConfig) -> None:
        behaviour = Behaviour(tick_s=0.01, podresources_per_s=1e6, podresources_burst=1000)
        self.kubelet = EmbeddedKubelet(directory / "k", FakeRuntime(), behaviour=behaviour)
        self.readiness = Readiness()
        self._directory, self._section = directory, section
        self._thread = threading.Thread(target=lambda: trio.run(self._main))
        self._stop: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._started = threading.Event()

    def __enter__(self) -> RunningAgent:
        self.kubelet.start()
        self._thread.start()
        assert self._started.wait(LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None and self._stop is not None:
            self._token.run_sync_soon(self._stop.cancel)
        self._thread.join(LIMIT_S)
        self.kubelet.stop()
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._stop:
            self._started.set()
            await self._agent()

    async def _agent(self) -> None:
        machine = load_machine(self._section.simulate or "")
        nvml = SimulatedNvml(machine, self._directory / "nothing")
        socket = self._directory / "k/pod-resources/kubelet.sock"
        podresources = KubeletPodResources(socket, timeout_s=5.0)
        _, changes = trio.open_memory_channel[Section](1)
        (self._directory / "proc").mkdir()
        context = AgentContext(
            node=NodeConfig(
                state_dir=self._directory / "state",
                run_dir=self._directory / "run",
                kubelet_dir=self._directory / "k",
            ),
            section=self._section,
            changes=changes,
            host=HostFs(proc=self._directory / "proc"),
            log=get_logger(),
            registry=CollectorRegistry(),
            readiness=self.readiness,
            status=Published({}),
            namespaces=cast("Namespaces", None),
        )
        containers = CriContainers(self._directory / "cri.sock")
        try:
            await GpuAgent(context, self._section, nvml, podresources, containers, FAST).run()
        finally:
            podresources.close()
            containers.close()

    def until_offered(self, node: Node, names: list[str]) -> None:
        """Until the kubelet counts the same free units as the rehearsal."""

        def free() -> dict[str, int]:
            known = self.kubelet.resources()
            return {
                name: found.allocatable - found.allocated
                for name in names
                if (found := known.get(name)) is not None
            }

        expected = {name: sum(node.free(name).values()) for name in names}
        assert self.kubelet.wait_for(lambda: free() == expected, LIMIT_S), (free(), expected)

    def admit(self, pod: Pod) -> PodStatus:
        containers = [ContainerSpec("main", ["sleep"], resources=pod.asks)]
        key = self.kubelet.create(PodSpec(pod.name, containers)).key

        def is_decided() -> bool:
            status = self.kubelet.pod(key)
            return bool(status.message) or status.phase is PodPhase.RUNNING

        assert self.kubelet.wait_for(is_decided, LIMIT_S)
        return self.kubelet.pod(key)


@contextmanager
def short_directory() -> Iterator[Path]:
    # A socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="ns"))
    yield directory
    shutil.rmtree(directory)


def compare(machine: dict[str, Any], wanted: list[Any], pods: list[dict[int, int]]) -> None:
    with short_directory() as directory:
        path = directory / "machine.yaml"
        path.write_text(yaml.safe_dump({"machine": machine}))
        text = yaml.safe_dump({"gpu_plugin": {"resources": wanted, "simulate": str(path)}})
        note(text)
        section = config.parse(text, {"gpu_plugin": GpuPluginConfig}).sections["gpu_plugin"]
        assert isinstance(section, GpuPluginConfig)
        seen = SimulatedNvml(load_machine(path), directory / "nothing").machine()
        decided = plan(section.resources, seen)
        with RunningAgent(directory, section) as agent:
            _compare(agent, decided, pods)


def _compare(agent: RunningAgent, decided: Plan, pods: list[dict[int, int]]) -> None:
    names = [resource.name for resource in decided.resources]
    node = Node(decided.resources)
    offered = [resource.name for resource in decided.resources if resource.devices]
    # What a rejected pod keeps of one resource counts for others for an uncertain time.
    alone = any(resource.classes or resource.honest_sizes for resource in decided.resources)
    for number, asked in enumerate(pods):
        asks = {names[key % len(names)]: size for key, size in asked.items()}
        pod = Pod(f"p{number}", dict(list(asks.items())[:1]) if alone else asks)
        agent.until_offered(node, offered)
        verdict = node.admit(pod)
        assert shown(agent.admit(pod)) == expected(verdict), pod
    agent.until_offered(node, offered)


def shown(status: PodStatus) -> Any:
    """What the kubelet made of a pod."""
    held = {name: set(ids) for name, ids in status.container("main").devices.items()}
    return status.reason, status.message, held


def expected(verdict: Verdict) -> Any:
    """What the rehearsal says of it, in the same form."""
    reasons = {
        Outcome.LANDS: "",
        Outcome.WAITS: "Unschedulable",
        Outcome.REJECTED: rejection.REASON,
    }
    held = {
        share.resource: {
            units.unit_id(device.uuid, number)
            for device in share.devices
            for number in device.numbers
        }
        for share in verdict.shares
    }
    return reasons[verdict.outcome], verdict.message or "", held


def machine_of(gpus: tuple[list[Any], list[Any]]) -> dict[str, Any]:
    return {"name": "made-up", "driver_version": "580.95.05", "gpus": [*gpus[0], *gpus[1]]}


# The long count is for --soak.
FEW, MANY = 12, 400


@pytest.mark.timeout(1800)
@pytest.mark.loud  # a simulated machine is logged as a warning
def test_the_plan_says_what_the_plugin_does(soak: bool) -> None:
    @settings(
        max_examples=MANY if soak else FEW,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        # Smaller examples of a failure would be looked for with a kubelet and an agent each.
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    @given(machines, rules, asks)
    def run(gpus: Any, wanted: Any, pods: list[dict[int, int]]) -> None:
        compare(machine_of(gpus), list(wanted), pods)

    run()
