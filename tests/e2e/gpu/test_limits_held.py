# SPDX-License-Identifier: Apache-2.0
"""Limits held by the whole agent: real pods, whose processes hold memory of simulated GPUs."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator

import pytest

from agents.hostfs import PROC
from tests.fakes.containers import exists
from tests.fakes.gpu_node import Agent
from tests.fakes.gpu_pods import GpuPods, gpu_pods
from tests.fakes.gpu_tenants import children

GIB = 1 << 30
#: A server that starts kernels, and lives on when they end.
SERVER = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; while :; do wait; sleep 0.1; done"
STUBBORN = "(trap '' TERM; exec sleep 1000) & while :; do wait; sleep 0.1; done"


@pytest.fixture
def pods() -> Iterator[GpuPods]:
    with gpu_pods(f"nodeshare-test-{secrets.token_hex(4)}") as made:
        yield made


def kernels(pods: GpuPods, first: int, number: int) -> list[int]:
    """Children of a pod's first process, oldest first."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [pid for pid in children(first) if _runs_sleep(pid)]
        return len(found) == number

    pods.until(there, f"{number} kernels")
    return found


def _runs_sleep(pid: int) -> bool:
    try:
        return (PROC / f"{pid}/comm").read_text() == "sleep\n"
    except OSError:
        return False


def test_eight_kernels_of_one_gib_in_a_share_of_four(pods: GpuPods) -> None:
    """The newest go, the server and its neighbours stay, and the reason is told inside."""
    agent = pods.start("{grace: 1s, pressure_grace: 0s}")
    server = pods.pod("ada", 4, command=("sh", "-c", SERVER))
    neighbour = pods.pod("ben", 16)
    found = kernels(pods, server, 8)
    for pid in found:
        pods.state.hold(pods.device("ada"), pid, GIB)
    pods.state.hold(pods.device("ben"), neighbour, 16 * GIB)
    pods.until(lambda: not any(map(exists, found[4:])), "the newest four end")
    labels = {"action": "terminate", "reason": "over_limit", "outcome": "done"}
    pods.until(lambda: agent.metric("enforcement_actions_total", **labels) == 4, "it is counted")
    pods.until(lambda: "within your share" in pods.shown("ada"), "it is within its share")
    assert all(map(exists, (*found[:4], server, neighbour)))
    container = pods.kubelet.pod("jupyterhub/ada").containers[0]
    assert (container.pid, container.restarts) == (server, 0)
    told = pods.shell("cat /run/nodeshare/gpu/events")
    assert told.count("over_limit") >= 2, told
    assert agent.metric("reaction_seconds_count", reason="over_limit") == 1
    assert agent.metric("limited_containers", backend="terminate") == 2
    assert agent.metric("enforcing") == 1
    assert pods.shell("cat /run/nodeshare/gpu/events", "ben") == ""


def test_an_agent_is_killed_between_sigterm_and_sigkill(pods: GpuPods) -> None:
    """The next one finds the container over its limit, and begins anew."""
    agent = pods.start("{grace: 0s, pressure_grace: 0s, kill_after: 1h}")
    server = pods.pod("ada", 4, command=("sh", "-c", STUBBORN))
    (kernel,) = kernels(pods, server, 1)
    pods.until(lambda: _ignores_sigterm(kernel), "it ignores SIGTERM")
    pods.state.hold(pods.device("ada"), kernel, 5 * GIB)
    done = {"reason": "over_limit", "outcome": "done"}
    pods.until(
        lambda: agent.metric("enforcement_actions_total", action="terminate", **done) == 1,
        "it is asked to end",
    )
    agent.end(signal.SIGKILL)
    assert exists(kernel)
    again = pods.start("{grace: 1s, pressure_grace: 0s, kill_after: 500ms}")
    pods.until(lambda: not exists(kernel), "it is ended")
    for action in ("warn", "terminate", "kill"):
        assert again.metric("enforcement_actions_total", action=action, **done) == 1
    assert exists(server)


def test_of_two_agents_in_an_update_one_acts(pods: GpuPods) -> None:
    """The other one says that it only watches, and takes over."""
    keys = "{grace: 0s, pressure_grace: 0s}"
    old = pods.start(keys)
    ada, ben = pods.pod("ada", 4), pods.pod("ben", 4)
    pods.until(lambda: old.metric("enforcing") == 1, "the first one acts")
    new = pods.another("new", keys)
    try:
        pods.until(lambda: _says(new, f"(pid {old.process.pid}) enforces"), "the second watches")
        pods.state.hold(pods.device("ada"), ada, 5 * GIB)
        pods.until(lambda: not exists(ada), "it is ended")
        asked = {"action": "terminate", "reason": "over_limit"}
        done = {**asked, "outcome": "done"}
        pods.until(lambda: old.metric("enforcement_actions_total", **done) == 1, "by the first")
        old.end(signal.SIGTERM)
        pods.until(lambda: new.metric("enforcing") == 1, "the second one acts")
        assert new.metric("enforcement_actions_total", **done) == 0
        pods.until(lambda: not _says(new, "enforces on this node"), "and says so")
        pods.state.hold(pods.device("ben"), ben, 5 * GIB)
        pods.until(lambda: not exists(ben), "the next is ended by the second")
    finally:
        new.process.kill()
        new.process.wait(10)


def _says(agent: Agent, words: str) -> bool:
    try:
        return any(words in problem for problem in agent.status()["problems"])
    except (OSError, KeyError, ValueError):
        return False  # it is only just starting


def _ignores_sigterm(pid: int) -> bool:
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
    return bool(ignored & 1 << (signal.SIGTERM - 1))


def test_the_driver_holds_the_limit_until_the_setting_changes(pods: GpuPods) -> None:
    pods.let_the_driver_limit()
    agent = pods.start()
    ada = pods.pod("ada", 4)
    pods.state.hold(pods.device("ada"), ada, 3 * GIB)
    pods.until(lambda: agent.metric("limited_containers", backend="driver") == 1, "it is held")
    pods.until(lambda: "CUDA out-of-memory" in pods.shown("ada"), "and told so")
    record = pods.directory / "state/gpu/driver-limits"
    assert len(list(record.iterdir())) == 1
    agent.end(signal.SIGKILL)
    agent = pods.start("{backend: terminate}")
    pods.until(lambda: not list(record.iterdir()), "the driver lets go")
    limits = [line for line in pods.state.path.read_text().splitlines() if " limit " in f" {line}"]
    assert [line.split()[2:4] for line in limits] == [[str(4 * GIB)] * 2, ["-", "-"]]
    held = {"backend": "terminate"}
    pods.until(lambda: agent.metric("limited_containers", **held) == 1, "it is watched")
    assert exists(ada)


def test_what_a_pod_says_of_its_limit(pods: GpuPods) -> None:
    agent = pods.start("{grace: 0s, pressure_grace: 0s}")
    key = "nodeshare/gpu-memory-limit"
    ada = pods.pod("ada", 4, annotations={key: "6GiB", f"{key}.other": "8GiB"})
    ben = pods.pod("ben", 4, annotations={f"{key}.notebook": "lots"})
    pods.state.hold(pods.device("ada"), ada, 6 * GIB)
    pods.state.hold(pods.device("ben"), ben, 4 * GIB)
    pods.until(lambda: agent.metric("limit_problems") == 2, "neither makes sense as a whole")
    pods.until(lambda: f"{key}.other speaks of no container" in pods.shown("ada"), "a wrong name")
    pods.until(lambda: "'lots' is not a size" in pods.shown("ben"), "its owner is told")
    limits = {"ada": 6 * GIB, "ben": 4 * GIB}
    for pod, limit in limits.items():
        assert agent.metric("container_memory_limit_bytes", pod=pod) == limit
    pods.state.hold(pods.device("ada"), ada, 6 * GIB + 1)
    pods.until(lambda: not exists(ada), "the one who has more than he said is ended")
    assert exists(ben)
