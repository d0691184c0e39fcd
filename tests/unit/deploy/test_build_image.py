# SPDX-License-Identifier: Apache-2.0
"""What `make image` says before it does anything, and what its base may be."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "deploy/docker"


def build_image(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DOCKER / "build-image", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("gpu",), {}, "'gpu' is none of nodeshare, mounts, clients DIR"),
        (("clients",), {}, "clients: '' is no directory with .deb packages"),
        (("clients", "/"), {}, "clients: '/' is no directory with .deb packages"),
        ((), {"ENGINE": "kaniko"}, "ENGINE=kaniko is none of docker, podman, buildah"),
    ],
)
def test_refused_with_the_reason(
    arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = build_image(*arguments, **environment)
    assert done.returncode == 2
    assert done.stderr == f"build-image: {said}\n"


def test_both_targets_end_alike() -> None:
    """The image for mounts is the other one, with clients."""
    stages = re.split(r"(?m)^(?=FROM )", (DOCKER / "Dockerfile").read_text())
    mounts, small = ([line for line in stage.splitlines() if line] for stage in stages[-2:])
    assert mounts[0] == "FROM mounts-runtime AS mounts"
    assert small[0] == "FROM runtime AS nodeshare"
    told = ("org.opencontainers.image.title", "org.opencontainers.image.description", "#", "FROM")

    def rest(lines: list[str]) -> list[str]:
        return [line for line in lines if not any(word in line for word in told)]

    assert rest(mounts) == rest(small)


def test_what_is_sent_to_the_builder_is_all_that_the_package_needs() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    packages = re.search(r"(?m)^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    assert set(re.findall(r'"(\w+)"', packages[1])) <= allowed
    assert {"requirements.lock", "requirements-build.lock", "pyproject.toml"} <= allowed


def test_base_of_the_page_is_that_of_both_files() -> None:
    (base,) = re.findall(r"(?m)^ARG BASE=(\S+)$", (DOCKER / "Dockerfile").read_text())
    assert f"default_base={base}\n" in (DOCKER / "build-image").read_text()
    assert f"`{base}`" in (DOCKER / "README.md").read_text()
