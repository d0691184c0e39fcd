# SPDX-License-Identifier: Apache-2.0
"""Who holds an allocation's directory, judged by the kernel's own mount tables."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agents.hostfs import PROC
from gpu_plugin.allocation import Share, SharedDevice
from gpu_plugin.carriers import home_of
from gpu_plugin.cleanup import Cleaner, mounted_names
from gpu_plugin.identity import Allocations
from gpu_plugin.ledger import Ledger, held

SHARE = Share("nodeshare/gpu-memory", (SharedDevice("GPU-1", "V100", None, (0,), 1),), True)


@contextmanager
def container(directory: Path, mount_point: Path) -> Iterator[None]:
    """A process with a mount namespace of its own, in which the directory is bound read-only."""
    script = 'mount --bind "$0" "$1" && mount -o remount,bind,ro "$1" && echo bound && read _'
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, str(directory), str(mount_point)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"bound\n"
        yield
    finally:
        process.communicate(timeout=10)


def test_units_stay_in_use_while_a_process_carries_their_directory(tmp_path: Path) -> None:
    """Also when podresources lists nothing, as that of a kubelet that has just started."""
    allocations = Allocations(tmp_path / "gpu")
    allocations.prepare()
    directory = allocations.make(SHARE)
    mount_point = tmp_path / "run"
    mount_point.mkdir()
    now = 1000.0
    mounted = partial(mounted_names, PROC, home_of(allocations.containers))
    ledger = Ledger(clock=lambda: now)
    ledger.restore(held(SHARE.resource, {"GPU-1": [0]}), directory.name, age_s=3600.0)
    with container(directory, mount_point):
        ledger.settle(
            frozenset(),
            now,
            mounted,
        )
        assert ledger.in_use == {SHARE.resource: {"GPU-1": {0}}}
    ledger.settle(
        frozenset(),
        now + 10,
        mounted,
    )
    assert ledger.in_use == {}


def test_a_directory_is_held_while_any_process_has_it_mounted(tmp_path: Path) -> None:
    allocations = Allocations(tmp_path / "gpu")
    allocations.prepare()
    held, free = allocations.make(SHARE), allocations.make(SHARE)
    mount_point = tmp_path / "run"
    mount_point.mkdir()
    cleaner = Cleaner(allocations, PROC, grace_s=10.0)
    home = home_of(allocations.containers)
    names = frozenset({held.name, free.name})
    with container(held, mount_point):
        assert mounted_names(PROC, home, names) == {held.name}
        cleaner.sweep({}, 0.0)
        assert cleaner.sweep({}, 10.0).removed == (free.name,)
        assert held.exists()
    assert mounted_names(PROC, home, names) == set()
    cleaner.sweep({}, 20.0)
    assert cleaner.sweep({}, 30.0).removed == (held.name,)
