# SPDX-License-Identifier: Apache-2.0
"""The next step at a target, for every stack of mounts that can be found there."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.mountinfo import MountEntry
from lxcfs_helper.inject import Step, Wish, decide
from tests.unit.lxcfs_helper.entries import entry

RIGHT = entry()
DELETED = entry(root="/id/meminfo//deleted")
ASIDE = entry(root="/id/.meminfo.77")
EARLIER = entry(device=(0, 40))
FOREIGN = entry(source="lxcfs", fstype="fuse.lxcfs")
NEIGHBOUR = entry(source="nodeshare-views:/elsewhere")


@pytest.mark.parametrize(
    ("stack", "shown", "hidden"),
    [
        pytest.param([], Step.ATTACH, Step.NOTHING, id="nothing there"),
        pytest.param([RIGHT], Step.NOTHING, Step.DETACH, id="the right one"),
        pytest.param([DELETED], Step.REPLACE, Step.DETACH, id="a deleted file"),
        pytest.param([ASIDE], Step.REPLACE, Step.DETACH, id="a file that was put aside"),
        pytest.param([EARLIER], Step.REPLACE, Step.DETACH, id="of an earlier tmpfs"),
        pytest.param([FOREIGN], Step.FOREIGN, Step.FOREIGN, id="somebody else's"),
        pytest.param([NEIGHBOUR], Step.FOREIGN, Step.FOREIGN, id="of another agent of this kind"),
        pytest.param([RIGHT, FOREIGN], Step.FOREIGN, Step.FOREIGN, id="covered by somebody"),
        pytest.param([RIGHT, EARLIER], Step.DETACH, Step.DETACH, id="killed between two steps"),
        pytest.param([EARLIER, RIGHT], Step.NOTHING, Step.DETACH, id="stacked"),
        pytest.param([EARLIER, ASIDE], Step.REPLACE, Step.DETACH, id="stacked and outdated"),
    ],
)
def test_decide(stack: list[MountEntry], shown: Step, hidden: Step) -> None:
    def wish(source: Path | None) -> Wish:
        return Wish(Path("/proc/meminfo"), source, "nodeshare-views:/views", (0, 50), "/id/meminfo")

    assert decide(stack, wish(Path("/views/id/meminfo"))) is shown
    assert decide(stack, wish(None)) is hidden
