# SPDX-License-Identifier: Apache-2.0
"""The label of SELinux on what agents make: the attribute itself, which a kernel keeps with and
without SELinux. What a policy makes of it was not tried.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.hostfs import PROC
from agents.mounts import LinuxMounts, MountFlag
from fuse_mounter.credentials.token_files import TokenFiles
from gpu_plugin.identity import Allocations
from lxcfs_helper.files import ViewFiles

_LABEL = "system_u:object_r:container_file_t:s0"


def label_of(path: Path) -> str | None:
    try:
        return os.getxattr(path, "security.selinux").decode().rstrip("\0")
    except OSError:
        return None


@pytest.mark.parametrize("label", [_LABEL, None])
def test_what_containers_read_is_labelled_from_the_first_moment(
    tmp_path: Path, label: str | None
) -> None:
    plain = label_of(tmp_path)
    mounts = LinuxMounts(label)
    views = ViewFiles(tmp_path / "views", mounts, PROC)
    tokens = TokenFiles(tmp_path / "tokens", PROC, mounts)
    allocations = Allocations(tmp_path / "gpu", label)
    try:
        views.mount()
        tokens.prepare()
        allocations.prepare()
        found = {views.directory, tokens.directory, allocations.containers}
        if label is not None:
            assert {label_of(path) for path in found} == {label}
        assert label_of(allocations.records) == plain  # for the host alone
    finally:
        views.unmount()
        tokens.remove()


def test_a_remount_leaves_the_label_alone(tmp_path: Path) -> None:
    place = tmp_path / "tmpfs"
    place.mkdir()
    first, second = LinuxMounts(_LABEL), LinuxMounts("system_u:object_r:other_t:s0")
    first.mount("none", place, "tmpfs")
    try:
        second.mount("none", place, "tmpfs", MountFlag.REMOUNT | MountFlag.RDONLY)
        assert label_of(place) == _LABEL
    finally:
        first.unmount(place)
