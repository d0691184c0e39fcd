# SPDX-License-Identifier: Apache-2.0
"""Settings such as an operator has."""

from __future__ import annotations

from typing import Any

import pytest
from nodeshare_hub.parsing import parse
from nodeshare_hub.settings import Settings


@pytest.fixture
def document() -> dict[str, Any]:
    """As YAML has it."""
    return {
        "instances": [
            {"name": "small", "title": "Small", "cpu_limit": 1.5, "mem_limit": "4G"},
            {
                "name": "gpu",
                "title": "Shared",
                "groups": ["physics", "gpu"],
                "default": True,
                "cpu_limit": 4,
                "gpu": {
                    "resource": "nodeshare/gpu-memory",
                    "sizes": [4, 8, 16],
                    "chunk": "1GiB",
                    "limit": {"ratio": 1.5, "most": "20GiB"},
                },
                "node_selector": {"gpu": "v100"},
                "cpu_count": True,
            },
            {
                "name": "slice",
                "title": "Slice",
                "groups": ["gpu"],
                "gpu": {"resource": "nodeshare/mig-1g.10gb", "unit": "slice 1g.10gb"},
            },
        ],
        "mounts": [
            {"name": "data", "host_path": "/var/lib/nodeshare/mounts", "mount_path": "/data"},
            {
                "name": "lab",
                "host_path": "/var/lib/nodeshare/mounts/lab/",
                "mount_path": "/lab",
                "groups": ["lab"],
            },
        ],
        "tokens": {"uid_field": "oauth_user.uid", "eos": "eos.token", "bearer": "bearer.token"},
        "cpu_count": {"profile": "nodeshare/default.json", "node_label": "nodeshare/cpu-count"},
    }


@pytest.fixture
def settings(document: dict[str, Any]) -> Settings:
    return parse(document)
