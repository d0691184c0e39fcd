# SPDX-License-Identifier: Apache-2.0
"""Each agent does its job from the image, in the pod that its manifest describes."""

from __future__ import annotations

from tests.fakes.containerd.node import GPU
from tests.fakes.image_node import ImageNode


def test_all_agents_serve_a_notebook(node: ImageNode) -> None:
    node.run("holder", "gpu", "mounts", "view")

    def offered() -> int:
        known = node.kubelet.resources().get(GPU)
        return known.allocatable if known else 0

    node.until(lambda: offered() == 62, "units are offered")
    node.notebook(gpu=8)
    assert node.shell("cat /data/shared/who") == "the mount"
    assert node.shell("cat /run/nodeshare/gpu/status").startswith(f"{GPU}: 8 units")
    node.until(
        lambda: node.shell("grep MemTotal /proc/meminfo").split()[1] == str(512 << 10),
        "the notebook sees its own limit",
    )
