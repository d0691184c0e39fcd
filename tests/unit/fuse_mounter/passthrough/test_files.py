# SPDX-License-Identifier: Apache-2.0
"""Handlers about open files, where the kernel in front cannot be made to err at will."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyfuse3 import ROOT_INODE, FileNameT, FlagT, FUSEError, ModeT

from fuse_mounter.passthrough.filesystem import Passthrough


@pytest.mark.parametrize(("exclusive", "number"), [(0, errno.ESTALE), (os.O_EXCL, errno.EEXIST)])
async def test_a_file_that_appeared_meanwhile_is_not_opened_by_creating_it(
    tmp_path: Path, exclusive: int, number: int
) -> None:
    """The kernel checked no permission of it: it believed that there was none."""
    (tmp_path / "secret").write_text("for root alone")
    root = os.open(tmp_path, os.O_PATH)
    system = Passthrough(root, 1.0, 100)
    caller: Any = SimpleNamespace(uid=os.getuid(), gid=os.getgid(), umask=0)
    flags = FlagT(os.O_RDWR | os.O_CREAT | os.O_TRUNC | exclusive)
    with pytest.raises(FUSEError) as caught:
        await system.create(ROOT_INODE, FileNameT(b"secret"), ModeT(0o666), flags, caller)
    assert caught.value.errno == number
    assert (tmp_path / "secret").read_text() == "for root alone"
    os.close(root)
