# SPDX-License-Identifier: Apache-2.0
"""The kernel level: real mounts, namespaces, cgroups and children. Needs root, and says so once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import PROC
from agents.mounts import LinuxMounts

_UNAVAILABLE = "kernel level unavailable: needs root"


@pytest.fixture(scope="session", autouse=True)
def kernel_level() -> None:
    """Skip the whole level where it cannot run; in CI that is a failure."""
    if os.geteuid() == 0 and LinuxMounts().features().open_tree:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(_UNAVAILABLE)
    pytest.skip(_UNAVAILABLE)


@pytest.fixture(scope="session")
def beneath() -> bool:
    """Whether this kernel attaches a mount beneath another (6.5 and later)."""
    return LinuxMounts().features().beneath


@pytest.fixture(autouse=True)
def no_mount_left(kernel_level: None, tmp_path: Path) -> Iterator[None]:
    """No test leaves a mount below its directory; one that does fails, and it is detached."""
    yield
    left = mountinfo.below(mountinfo.read(PROC), tmp_path)
    for entry in reversed(left):
        LinuxMounts().unmount(Path(entry.mount_point), detach=True)
    assert not left, f"mounts left: {[entry.mount_point for entry in left]}"
