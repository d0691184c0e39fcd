# SPDX-License-Identifier: Apache-2.0
"""What the node object says of this node's GPUs, for whoever places pods by it. Pure."""

from __future__ import annotations

import json

from gpu_plugin.status import NodeStatus

#: Its value is JSON: units that one container can get now, by resource. The scheduler's own number
#: is a sum over devices, and no request can span them.
LARGEST_FREE_BLOCK = "nodeshare/largest-free-block"


def node_annotations(status: NodeStatus) -> dict[str, str | None]:
    """None: nothing is known, and an old number must not stay."""
    blocks = {
        resource.name: resource.largest_free_block
        for resource in status.resources
        if resource.largest_free_block is not None
    }
    text = json.dumps(blocks, sort_keys=True, separators=(",", ":"))
    return {LARGEST_FREE_BLOCK: text if blocks else None}
