# SPDX-License-Identifier: Apache-2.0
"""The console command in the hands of a shell: where its output goes, and who runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NODESHARE = [sys.executable, "-m", "agents"]


def run(*arguments: str, stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODESHARE, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        answer = run("status", "--run-dir", str(tmp_path), stdout=full.fileno())
    assert answer.returncode == 1
    assert answer.stderr == "nodeshare: [Errno 28] No space left on device\n"


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m agents status --run-dir {tmp_path}"
    answer = subprocess.run(
        ["bash", "-c", f"{shell} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["up", "--dir", "/"], "cannot hold a run; name an absolute path"),
        (["up", "--dir", "/dev/null"], "is not a directory"),
        (["up", "--dir", "/dev/shm"], "is a mount; name a directory below it"),
        (["up", "--config", "/nonexistent"], "cannot read '/nonexistent': No such file"),
        (["run", "gpu", "--config", "/nonexistent"], "cannot read '/nonexistent': No such file"),
        (["check", "/proc/self/mem"], "cannot read '/proc/self/mem'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(arguments: list[str], expected: str) -> None:
    answer = run(*arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert expected in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_explain_tells_units_without_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "gpu_plugin: {resources: [{name: nodeshare/gpu-memory, select: {mig: none}},"
        " {name: nodeshare/none, select: {models: [T4]}}]}\n"
    )
    answer = run("explain", str(path), "--machine", "v100x2")
    assert answer.returncode == 0, answer.stderr
    assert "SIMULATED machine: 2 GPUs" in answer.stdout
    assert "nodeshare/none" in answer.stdout.partition("problem:")[2], "a rule without a device"


def test_plan_and_explain_need_no_driver_and_no_kubelet(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("gpu_plugin: {resources: [{name: nodeshare/gpu-memory}]}\n")
    commands = [
        ["plan", str(path), "--machine", "v100x2", "--pod", "8*3", "--json"],
        ["explain", str(path), "--machine", "v100x2"],
        ["gpu", "describe", "--machine", "v100x2"],
        ["check", str(path)],
    ]
    code = (
        "import sys; from agents import cli\n"
        f"assert not any(cli.main(words) for words in {commands!r})\n"
        "heavy = {'pynvml', 'grpc', 'kubernetes', 'rich', 'pyfuse3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert answer.returncode == 0, answer.stderr
