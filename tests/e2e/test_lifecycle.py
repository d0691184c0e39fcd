# SPDX-License-Identifier: Apache-2.0
"""An agent whose event loop hangs: it is told to be dead, and ends all the same."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from agents import endpoints, lifecycle
from agents.agent import Agent
from agents.config import Section

endpoints.HEARTBEAT_LIMIT_S = 1.0

async def hang(context):
    print("hanging", flush=True)
    time.sleep(60)

agent = Agent("gpu_plugin", "demo", Section, lambda: hang, lambda _: None, lambda *_: None)
sys.exit(lifecycle.run_agent(agent, {"gpu_plugin": Section}, Path(sys.argv[1])))
"""


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"node:\n  run_dir: {tmp_path}/run\n"
        "  metrics: {address: 127.0.0.1, ports: {gpu_plugin: 0}}\n"
        "  status: {ports: {gpu_plugin: 0}}\n"
        "gpu_plugin: {}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_a_loop_that_hangs_is_unhealthy_and_is_ended(hanging: subprocess.Popen[str]) -> None:
    assert hanging.stdout is not None
    started = json.loads(hanging.stdout.readline())
    assert hanging.stdout.readline() == "hanging\n"
    deadline = time.monotonic() + 10
    while (code := healthz(started["metrics"])) != 503:
        assert code == 200
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = time.monotonic()
    hanging.send_signal(signal.SIGTERM)
    assert hanging.wait(20) == 1
    assert time.monotonic() - before < 10
    last = json.loads(hanging.stdout.read().splitlines()[-1])
    assert last["event"] == "agent did not stop in time"


def healthz(address: str) -> int:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
