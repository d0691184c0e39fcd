# SPDX-License-Identifier: Apache-2.0
"""One agent as a process: exit codes, listeners, signals. What is wrong is said in one line."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import cli, mountinfo
from agents.agent import installed
from agents.hostfs import PROC

NODESHARE = [sys.executable, "-m", "agents"]
QUIET = "metrics: {address: 127.0.0.1, ports: {gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}"
PAGES = "status: {ports: {gpu_plugin: 0, fuse_mounter: 0, lxcfs_helper: 0}}"


def write(tmp_path: Path, rest: str = "", node: str = "") -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"node:\n  run_dir: {tmp_path}/run\n  state_dir: {tmp_path}/state\n"
        f"  kubelet_dir: {tmp_path}/kubelet\n  cri_socket: {tmp_path}/cri.sock\n"
        f"  {QUIET}\n  {PAGES}\n{node}{rest}"
    )
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODESHARE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def ask(path: Path, what: str) -> tuple[int, str]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(f"GET {what} HTTP/1.0\r\n\r\n".encode())
        text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    head, _, body = text.partition("\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture(params=["gpu", "mounts", "view"])
def noun(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Running:
    def __init__(self, noun: str, path: Path) -> None:
        self.socket = path.parent / "run" / f"{noun}.sock"
        self.log = path.parent / f"{noun}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*NODESHARE, "run", noun, "--config", str(path)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def answers(self) -> bool:
        try:
            return ask(self.socket, "/status.json")[0] == 200
        except OSError:
            return False

    def status(self) -> dict[str, object]:
        document = json.loads(ask(self.socket, "/status.json")[1])
        assert isinstance(document, dict)
        return document

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """What outlives a stopped agent goes with its own command; then nothing of it is mounted."""
    yield
    path = tmp_path / "config.yaml"
    if path.exists() and (tmp_path / "run").exists():
        for agent in installed():
            if agent.clear:
                answer = run(*agent.clear, "--config", str(path))
                assert answer.returncode == 0, answer.stderr
    left = [entry.mount_point for entry in mountinfo.below(mountinfo.read(PROC), tmp_path)]
    for mount_point in reversed(left):
        subprocess.run(["umount", "--lazy", mount_point], check=False)
    assert left == []


@pytest.fixture
def idle(noun: str, tmp_path: Path) -> Iterator[Running]:
    """An agent whose configuration gives it nothing to do."""
    running = Running(noun, write(tmp_path))
    yield running
    running.process.kill()
    running.process.wait(10)


def test_idle_agent_is_ready_and_stops_in_time(idle: Running, noun: str) -> None:
    deadline = time.monotonic() + 10
    while not idle.status()["ready"]:
        assert time.monotonic() < deadline, idle.status()
        time.sleep(0.05)
    address = str(idle.status()["metrics"]).removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request("GET", "/metrics")
    metrics = connection.getresponse().read().decode()
    connection.close()
    assert "nodeshare_agent_ready 1.0" in metrics
    assert "process_resident_memory_bytes" in metrics
    started = time.monotonic()
    assert idle.stop() == 0
    assert time.monotonic() - started < 5
    assert not idle.socket.exists()
    last = json.loads(idle.log.read_text().splitlines()[-1])
    assert last["event"] == "agent stopped"


def test_second_agent_in_one_place_is_refused(idle: Running, noun: str, tmp_path: Path) -> None:
    answer = run("run", noun, "--config", str(tmp_path / "config.yaml"))
    assert answer.returncode == 2
    assert "another agent serves" in answer.stderr
    assert idle.status()["agent"]


def test_killed_agent_can_be_started_again(noun: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    first = Running(noun, path)
    first.process.kill()
    first.process.wait(10)
    assert first.socket.exists(), "nobody could remove it"
    second = Running(noun, path)
    try:
        assert second.status()["agent"]
    finally:
        assert second.stop() == 0


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("gpu_plugin: {resourcs: []}\n", "gpu_plugin.resourcs: unknown key; known are"),
        ("gpu: {}\n", "gpu: unknown key; known are fuse_mounter, gpu_plugin, lxcfs_helper, node"),
        ("gpu_plugin: {resources: [{name: x.example/a, chunk: 1}]}\n", "1 is not a size"),
    ],
)
def test_wrong_configuration_is_exit_code_2(tmp_path: Path, rest: str, expected: str) -> None:
    path = write(tmp_path, rest)
    for answer in (run("check", str(path)), run("run", "gpu", "--config", str(path))):
        assert answer.returncode == 2
        assert expected in answer.stderr
        assert "Traceback" not in answer.stderr
    assert not (tmp_path / "run").exists(), "nothing half-started"


def test_port_in_use_is_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        path = write(tmp_path)
        path.write_text(path.read_text().replace("gpu_plugin: 0", f"gpu_plugin: {port}", 1))
        answer = run("run", "gpu", "--config", str(path))
    assert answer.returncode == 2
    assert f"node.metrics.ports.gpu_plugin: cannot listen on 127.0.0.1 port {port}" in answer.stderr
    assert "choose another port" in answer.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["run", "gpu", "--config"], "sudo nodeshare run gpu --config"),
        (["up", "--config"], "run it with sudo"),
    ],
)
def test_not_root_is_exit_code_2(
    words: list[str],
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process: the interpreter may lie where another user cannot read it.
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    assert cli.main([*words, str(write(tmp_path, "gpu_plugin: {}\n"))]) == 2
    said = capsys.readouterr().err
    assert "not root" in said
    assert remedy in said
    assert not (tmp_path / "run").exists()


def test_valid_file_is_said_to_be_valid(tmp_path: Path) -> None:
    answer = run("check", str(write(tmp_path, "lxcfs_helper: {}\n")))
    assert answer.returncode == 0
    assert "valid; configures lxcfs_helper" in answer.stdout


def test_idle_agent_begins_when_its_section_is_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    running = Running("mounts", path)
    try:
        source = tmp_path / "source"
        source.mkdir()
        path.write_text(
            path.read_text()
            + f"fuse_mounter: {{root: {tmp_path}/shared, mounts:"
            + f" [{{name: a, driver: bind, source: {source}, path: a}}]}}\n"
        )
        deadline = time.monotonic() + 20
        while not running.status().get("mounts") or not running.status()["ready"]:
            assert time.monotonic() < deadline, running.log.read_text()
            time.sleep(0.05)
        (source / "file").write_text("there")
        assert (tmp_path / "shared/a/file").read_text() == "there"
    finally:
        assert running.stop() == 0
