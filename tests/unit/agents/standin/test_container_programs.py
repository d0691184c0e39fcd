# SPDX-License-Identifier: Apache-2.0
"""The pure parts of the small programs: exit codes, texts, finding a command, and imports."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents.errors import AgentError
from agents.standin.confinement import find_program
from agents.standin.container_init import describe, exit_code


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0, 0),
        (3 << 8, 3),
        (signal.SIGKILL, 137),
        (signal.SIGTERM, 143),
        (signal.SIGABRT | 128, 134),
    ],
    ids=["success", "failure", "killed", "terminated", "dumped core"],
)
def test_an_exit_code_is_what_a_runtime_reports(status: int, code: int) -> None:
    assert exit_code(status) == code


def test_an_error_names_its_path() -> None:
    error = OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/srv/data")
    assert describe(error) == "/srv/data: no such file or directory"
    assert describe(OSError(errno.EPERM, "Operation not permitted")) == "operation not permitted"
    assert describe(FileNotFoundError('exec: "x": not found')) == 'exec: "x": not found'
    assert describe(AgentError("refused", remedy="do this")) == "refused; do this"


def test_a_command_is_found_as_by_runc(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
    (first / "tool").touch()
    (second / "tool").touch(mode=0o755)
    (first / "data").touch()
    (first / "directory").mkdir(mode=0o755)
    env = {"PATH": f"{first}:{second}"}
    assert find_program("tool", env) == f"{second}/tool", "what cannot be executed is passed over"
    assert find_program(f"{second}/tool", {}) == f"{second}/tool"
    for name, error, text in (
        ("data", PermissionError, 'exec: "data": permission denied'),
        ("nope", FileNotFoundError, 'exec: "nope": executable file not found in $PATH'),
        ("directory", FileNotFoundError, "executable file not found in $PATH"),
        ("/nope", FileNotFoundError, 'exec: "/nope": stat /nope: no such file or directory'),
    ):
        with pytest.raises(error) as raised:
            find_program(name, env)
        assert text in str(raised.value)


@pytest.mark.processes
@pytest.mark.parametrize("program", ["container_init", "container_exec"])
def test_a_program_that_stays_imports_little(program: str) -> None:
    code = f"import sys, agents.standin.{program}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"trio", "pydantic", "grpc", "structlog", "yaml", "subprocess", "threading"}
