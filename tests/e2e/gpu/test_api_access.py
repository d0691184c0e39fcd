# SPDX-License-Identifier: Apache-2.0
"""The GPU agent as a process, with an API server: its part of the node object, and what it does
when that server hangs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agents.standin.kubelet import EmbeddedKubelet
from agents.standin.pods import ContainerSpec, PodSpec
from tests.fakes.api_server import ApiServer
from tests.fakes.containers import eventually
from tests.fakes.runtime import FakeRuntime

TAINT, BLOCK = "nodeshare/gpu-not-ready", "nodeshare/largest-free-block"
SHARED = "nodeshare/gpu-memory"

CONFIG = """
node:
  name: a
  run_dir: {0}/run
  state_dir: {0}/state
  kubelet_dir: {0}/kubelet
  cri_socket: {0}/cri.sock
  metrics: {{address: 127.0.0.1, ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
  status: {{ports: {{gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}}}
  api_server: {{enabled: {1}, kubeconfig: {0}/kubeconfig}}
gpu_plugin:
  simulate: v100x2
  resources: [{{name: nodeshare/gpu-memory}}]
"""


class Case:
    """A kubelet, an API server, and where they are."""

    def __init__(self, directory: Path, server: ApiServer) -> None:
        self.directory, self.server = directory, server
        self.kubelet = EmbeddedKubelet(directory / "kubelet", FakeRuntime())
        server.kubeconfig(directory / "kubeconfig")
        server.add_node("a", "other/taint", TAINT, annotations={"other": "stays"})

    @contextmanager
    def agent(self, *, access: bool = True) -> Iterator[subprocess.Popen[bytes]]:
        config = self.directory / "config.yaml"
        config.write_text(CONFIG.format(self.directory, str(access).lower()))
        command = [sys.executable, "-m", "agents", "run", "gpu", "--config", str(config)]
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def metric(self, name: str) -> float:
        started = next(line for line in self.log().splitlines() if "agent started" in line)
        url = f"{json.loads(started)['metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))

    def registered(self) -> bool:
        found = self.kubelet.resources().get(SHARED)
        return found is not None and found.allocatable > 0

    def largest(self) -> int | None:
        text = self.server.annotations("a").get(BLOCK)
        return None if text is None else int(json.loads(text)[SHARED])


@pytest.fixture
def case() -> Iterator[Case]:
    with ExitStack() as stack:
        # Short: a socket's path has at most 107 bytes.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nsapi")))
        case = Case(directory, stack.enter_context(ApiServer()))
        stack.callback(case.kubelet.stop)
        yield case


def test_the_taint_goes_and_the_annotation_comes(case: Case) -> None:
    with case.agent():
        eventually(lambda: case.largest() is not None or "agent started" in case.log(), "started")
        assert TAINT in case.server.taints("a"), "no kubelet yet, so it is not ready"
        case.kubelet.start()
        eventually(lambda: case.server.taints("a") == ["other/taint"], "untainted", timeout_s=20)
        eventually(lambda: case.largest() == 31, "a largest block", timeout_s=20)
        assert case.server.annotations("a")["other"] == "stays"
        eventually(lambda: "start-up taint removed" in case.log(), "a log line")


def test_a_server_that_hangs_holds_up_nothing(case: Case) -> None:
    case.server.hang.clear()
    case.kubelet.start()
    with case.agent():
        eventually(case.registered, "registered", timeout_s=20)
        eventually(lambda: len(case.server.requests) > 0, "a request that hangs", timeout_s=10)
        container = ContainerSpec("main", ["sleep"], resources={SHARED: 20})
        case.kubelet.admit(PodSpec("p", [container]))
        assert case.kubelet.resources()[SHARED].allocated == 20
        assert case.metric("nodeshare_agent_ready") == 1
        assert TAINT in case.server.taints("a")
        case.server.hang.set()
        eventually(lambda: case.server.taints("a") == ["other/taint"], "untainted", timeout_s=20)


def test_without_access_nobody_asks(case: Case) -> None:
    case.kubelet.start()
    with case.agent(access=False):
        eventually(case.registered, "registered", timeout_s=20)
        assert case.metric("nodeshare_agent_api_errors_total") == 0
        assert case.server.requests == []


def test_the_client_is_not_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, agents.lifecycle, agents.kube, gpu_plugin.daemon, gpu_plugin.failed_pods;"
        "sys.exit(any(name.partition('.')[0] in ('kubernetes', 'urllib3') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
