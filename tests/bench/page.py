# SPDX-License-Identifier: Apache-2.0
"""What somebody costs who looks at the node page of a large node, and of a small one.

Large are 8 GPUs with 25 containers each, 200 mounts and 200 containers with views; small are 2 GPUs
with 3 containers each, 7 mounts and 9 containers. From the status documents to the answer, in this
process: drawing alone, and with what a browser is sent (compressed).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from agents.agent import installed
from agents.listeners import Request
from agents.node_page import NodePage
from tests.bench.measure import Context, Figure, Row, median, once
from tests.fakes.status_documents import (
    documents,
    gpu_document,
    mounts_document,
    views_document,
)


def measure(context: Context) -> Sequence[Row]:
    """CPU milliseconds, and bytes."""
    large = {
        "gpu_plugin": gpu_document(8, 25),
        "fuse_mounter": mounts_document(200),
        "lxcfs_helper": views_document(200),
    }
    times = context.pick(50, 5)
    return [*_rows("large node", large, times), *_rows("small node", documents(), times)]


def _rows(what: str, found: Mapping[str, Mapping[str, Any]], times: int) -> Sequence[Row]:
    page = NodePage("node", installed())
    for section, document in found.items():
        page.saw(section, document, "")
    plain, drawn = _answered(page, Request(""), times)
    sent, packed = _answered(page, Request("", "gzip"), times)
    return [
        Row(f"{what}: page drawn", drawn),
        Row(f"{what}: page drawn and compressed", packed),
        Row(f"{what}: size", once(plain / 1024, "KiB")),
        Row(f"{what}: size as it is sent", once(sent / 1024, "KiB")),
    ]


def _answered(page: NodePage, request: Request, times: int) -> tuple[int, Figure]:
    """Bytes, and CPU time."""
    spent = []
    size = 0
    for _ in range(times):
        began = time.process_time()
        size = len(page.routes()["/"](request).body)
        spent.append((time.process_time() - began) * 1000)
    return size, median(spent, "ms")
