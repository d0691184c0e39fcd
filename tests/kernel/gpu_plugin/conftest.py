# SPDX-License-Identifier: Apache-2.0
"""A node with two V100 and one A100 in slices, told by the C library, and real containers on it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from agents.standin.cgroup_tree import CgroupTree, hierarchies
from agents.standin.leftovers import sweep
from agents.standin.runtime import ContainerRunner
from gpu_plugin.simulated.description import load_machine
from tests.fakes.gpu_tenants import GpuTenants
from tests.fakes.nvml.remote import DriverProcess, driver_process
from tests.fakes.nvml.shared_object import build


@pytest.fixture(scope="session")
def library_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriverProcess]:
    with driver_process(build(tmp_path_factory.mktemp("nvml"))) as process:
        yield process


@contextmanager
def _tenants(directory: Path, library_driver: DriverProcess | None) -> Iterator[GpuTenants]:
    host, parent = HostFs(), f"nodeshare-test-{secrets.token_hex(4)}"
    runner = ContainerRunner(directory / "run", parent, host)
    made = GpuTenants(directory, runner, load_machine("demo"), library_driver)
    try:
        yield made
        made.nvml.close()
        runner.close()
    finally:
        sweep(directory / "run", parent, host)
        tree = CgroupTree(host, parent)
        if any((root / parent).exists() for root in hierarchies(host.cgroup)):
            tree.kill(tree.parent, timeout_s=5)
            tree.remove(tree.parent)


@pytest.fixture
def tenants(tmp_path: Path, library_driver: DriverProcess) -> Iterator[GpuTenants]:
    """Gone after the test, with every cgroup."""
    with _tenants(tmp_path, library_driver) as made:
        yield made


@pytest.fixture
def tenants_without_library(tmp_path: Path) -> Iterator[GpuTenants]:
    """The same, on a simulated machine: where to load a driver takes long."""
    with _tenants(tmp_path, None) as made:
        yield made
