# SPDX-License-Identifier: Apache-2.0
"""Hosts with one container, written down in tests/fixtures/views with what its views must say.

A case has `files` below / (over those of host.yaml) and what is `expected`, worked out by hand: its
comments say how. Process 4242 is the container's; it was started 1000 s after boot, now it is 1100.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agents.cgroups import LinuxCgroups
from agents.hostfs import HostFs
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.host_reading import HostReader
from lxcfs_helper.reading import ContainerReader
from lxcfs_helper.sources import EVERYTHING
from tests.fakes.recorded_hosts import PID, host_fs

_CASES = Path(__file__).parents[1] / "fixtures/views"
NAMES = tuple(sorted(path.stem for path in _CASES.glob("v*.yaml")))
STARTED_S, NOW_S = 1000.0, 1100.0


@dataclass(frozen=True, slots=True)
class Case:
    """What was read of it, and what it must look like."""

    fs: HostFs
    host: HostFacts
    container: ContainerFacts
    expected: dict[str, Any]


def write(name: str, directory: Path) -> HostFs:
    """The host of one case, as a tree."""
    for path, text in {**_load("host"), **_load(name)["files"]}.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return host_fs(directory)


def read(name: str, directory: Path) -> Case:
    """Write it to an empty directory and read it as the agent does."""
    fs = write(name, directory)
    cgroups = LinuxCgroups(fs)
    reader = ContainerReader(cgroups.open(cgroups.paths(PID)), fs.proc, STARTED_S)
    host = HostReader(fs).read_for_people()
    container = reader.read(int(EVERYTHING), host, NOW_S)
    reader.close()
    assert container is not None
    return Case(fs, host, container, _load(name)["expected"])


@cache
def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((_CASES / f"{name}.yaml").read_text())
    return loaded
