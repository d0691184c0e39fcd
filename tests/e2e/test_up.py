# SPDX-License-Identifier: Apache-2.0
"""`nodeshare up` as an operator sees it: everything comes up, heals, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.hostfs import HostFs
from agents.mountinfo import below, read
from agents.standin.up import cgroup_parent, clean_up
from tests.fakes.demonstration import NODESHARE, Up, all_pods_read_the_file

PROC = Path("/proc")


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not below tmp_path: the name of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nodeshare-") as parent:
        path = Path(parent) / "node"
        yield path
        clean_up(path, HostFs())


@pytest.fixture
def up(directory: Path, tmp_path: Path) -> Iterator[Up]:
    running = Up(directory, tmp_path / "output")
    yield running
    running.process.kill()
    running.process.wait(10)


def marked(directory: Path) -> list[int]:
    """Processes that carry the mark of a run in this directory."""
    wanted = f"NODESHARE_RUN_DIR={directory}".encode()
    found = []
    for name in os.listdir(PROC):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environment = (PROC / name / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(entry.startswith(wanted) for entry in environment):
                found.append(int(name))
    return found


def leftovers(directory: Path) -> list[str]:
    found = [f"process {pid}" for pid in marked(directory)]
    found += [f"mount {entry.mount_point}" for entry in below(read(PROC), directory)]
    name = cgroup_parent(directory)
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{name}")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(name)]
    return found + ([str(directory)] if directory.exists() else [])


def exposition(documents: dict[str, dict[str, object]]) -> str:
    """HELP and TYPE of everything of ours that the agents expose, sorted."""
    lines = set()
    for document in documents.values():
        with urllib.request.urlopen(f"{document['metrics']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines |= {line for line in text.splitlines() if line.startswith("# ")}
    ours = [line for line in lines if line.split()[2].startswith("nodeshare_")]
    created = [line for line in ours if line.split()[2].endswith("_created")]
    return "\n".join(sorted(set(ours) - set(created), key=lambda x: (x.split()[2], x))) + "\n"


def last_rows(up: Up) -> list[str]:
    """What was last shown of each pod; a row is shown again when it changes."""
    rows = [line for line in up.text().splitlines() if line.startswith("  jupyterhub/")]
    return list({row.split()[0]: row for row in rows if "m, " in row}.values())


def held(documents: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Who holds units of a device, and how many GiB of it are in use."""
    return {
        holder["pod"]: device["memory_used"] >> 30
        for device in documents["gpu_plugin"]["devices"]
        for holder in device["holders"] or ()
    }


def test_everything_comes_up_heals_and_goes(up: Up, directory: Path, update_golden: bool) -> None:
    up.until(lambda: all_pods_read_the_file(up))
    # What each pod sees of itself: CPUs (its quota, rounded up) and memory in MiB, not the node's.
    for pod, cpus, memory in (("ada", 2, 512), ("grace", 1, 256), ("emmy", 1, 1024)):
        up.until_shown(rf"jupyterhub/{pod} +Running.* {cpus} +{memory} ")
    text = up.text()
    assert "SIMULATED" in text
    assert "/metrics" in text
    assert "/status.json" in text

    documents = up.status()
    assert all(document.get("ready") for document in documents.values()), documents
    devices = documents["gpu_plugin"]["devices"]
    assert isinstance(devices, list)
    models = [device["model"] for device in devices if device["kind"] == "gpu"]
    assert sum("V100" in model for model in models) == 2, models
    # Each pod holds a part of its share: in GiB.
    up.until(lambda: held(up.status()) == {"ada": 6, "grace": 9, "emmy": 7}, 20)

    golden = Path(__file__).parents[1] / "fixtures/exposition.txt"
    if update_golden:
        golden.write_text(exposition(documents))
    assert exposition(documents) == golden.read_text(), "--update-golden, then make docs"

    first = up.client()
    assert first is not None
    assert f"kill -9 {first}" in text
    os.kill(first, signal.SIGKILL)
    up.until(lambda: up.client() not in (None, first), 20)
    time.sleep(4)  # so that each pod reads it once more
    up.until(lambda: all("FUSE client" in row for row in last_rows(up)), 20)

    up.stop()
    assert leftovers(directory) == []


def test_killed_run_is_swept_by_the_next(directory: Path, tmp_path: Path) -> None:
    first = Up(directory, tmp_path / "first")
    first.until(lambda: all_pods_read_the_file(first))
    first.process.kill()
    first.process.wait(10)
    assert marked(directory), "agents, clients and pods outlive it"
    second = Up(directory, tmp_path / "second")
    second.until(lambda: all_pods_read_the_file(second))
    assert re.match(r"removed what an earlier run left \(processes: \d+, mounts: ", second.text())
    second.stop()
    assert leftovers(directory) == []


def test_a_pod_that_dies_is_told_and_comes_back(up: Up, directory: Path) -> None:
    def held() -> list[list[str]]:
        path = directory / "gpu-state"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    up.until(lambda: len(held()) == 3 and all_pods_read_the_file(up))
    device = held()[0][1]
    os.kill(int(held()[0][2]), signal.SIGKILL)
    up.until(lambda: len(held()) == 4 and held()[3][1] == device)
    os.kill(int(held()[3][2]), signal.SIGKILL)
    up.until_shown(r"CrashLoopBackOff .* - +- +back-off 10s restarting failed container")
    up.until(lambda: len(held()) == 5 and held()[4][1] == device)
    up.until(lambda: all(document.get("ready") for document in up.status().values()))
    up.stop()
    assert leftovers(directory) == []


def test_a_machine_without_cgroups_runs_all_but_pods(directory: Path, tmp_path: Path) -> None:
    hide = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    up = Up(directory, tmp_path / "output", "unshare", "--mount", "sh", "-c", hide, "sh")
    try:
        up.until_shown(r"jupyterhub/ada +CreateContainerError .*no cgroup hierarchy.*mount cgroup2")
        up.until(lambda: all(document.get("ready") for document in up.status().values()))
        up.until_shown(r"shared +passthrough .* published")
        up.stop()
    finally:
        up.process.kill()
        up.process.wait(10)
    assert leftovers(directory) == []


def test_a_reader_that_goes_ends_it_in_order(directory: Path) -> None:
    command = [*NODESHARE, "up", "--dir", str(directory), "--free-ports", "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            running.stdout.readline()
            running.stdout.close()
            # The reader may go before anything was started, or while the tables are drawn.
            assert running.wait(40) in (0, 130)
            assert running.stderr.read() == b""
        finally:
            running.kill()
    assert leftovers(directory) == []


@pytest.mark.parametrize("after_s", [0.7, 3.0])
def test_an_impatient_user_leaves_nothing(up: Up, directory: Path, after_s: float) -> None:
    time.sleep(after_s)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        up.process.send_signal(number)
        time.sleep(0.1)
    # The interpreter itself may not have begun yet: then the signal ends it, as any program.
    assert up.process.wait(60) in (0, 130, -signal.SIGINT)
    assert up.process.returncode == -signal.SIGINT or "Traceback" not in up.text()
    assert leftovers(directory) == []


def test_second_run_in_one_place_is_refused(up: Up, directory: Path) -> None:
    up.until(lambda: (directory / "config.yaml").exists())
    answer = subprocess.run(
        [*NODESHARE, "up", "--dir", str(directory), "--free-ports"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert answer.returncode == 2
    assert "another `nodeshare up` runs" in answer.stderr
    assert up.process.poll() is None


def test_directory_with_something_in_it_is_not_touched(directory: Path) -> None:
    directory.mkdir()
    (directory / "thesis.tex").write_text("years of work")
    answer = subprocess.run(
        [*NODESHARE, "up", "--dir", str(directory), "--free-ports"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert answer.returncode != 0
    assert "was not made by nodeshare" in answer.stderr
    assert (directory / "thesis.tex").read_text() == "years of work"
    (directory / "thesis.tex").unlink()
