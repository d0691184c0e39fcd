# SPDX-License-Identifier: Apache-2.0
"""Status documents as the three agents publish them, of nodes of any size, and what hostile names
make of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

GIB = 1 << 30
#: In every place where somebody else's words may be.
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><style>*{display:none}</style>",
    "</svg></details></main><iframe src=//evil.example>",
    "<!-- &lt;b&gt; &#60;b&#62; ]]>",
    "\u202egnp.exe\u2066 \u2067evil\u2069 \u200f\u061c",
    "line\nbreak\r\n\ttab \x00\x07\x1b[31mred\x1b]0;title\x07",
    "x" * 10_000,
    "z\u0301\u0302\u0303" * 40 + "\u2028\u2029\ufeff\u200b",
    "\ud800half \udfff",
    "javascript:alert(1)",
    "{{7*7}} ${7*7} %s %n \\u003cscript\\u003e",
    "",
)


def gpu_document(devices: int = 1, containers: int = 1) -> dict[str, Any]:
    """`containers` on each device; some use all they have, one is over its limit."""
    found = _identity("gpu_plugin")
    uuids = [f"GPU-{number:08d}-97b6-577c-9840-fdb3c302d945" for number in range(devices)]
    rows = [
        _gpu_container(uuid, number, containers) for uuid in uuids for number in range(containers)
    ]
    held = sum(row["used"] for row in rows[:containers])
    return found | {
        "simulated": True,
        "driver_version": "580.95.05",
        "devices": [_device(uuid, number, held) for number, uuid in enumerate(uuids)],
        "resources": [
            {
                "name": "nodeshare/gpu-memory",
                "units": 79 * devices,
                "units_withheld": 0,
                "units_allocated": 50,
                "largest_free_block": 29,
                "message_bytes": 4000,
                "registered": True,
                "problem": None,
            }
        ],
        "problems": ["GPU 3 is lost: it does not answer"],
        "holders_known": True,
        "idle": False,
        "lost": [],
        "unlisted": [],
        "unmonitored": {"GPU-7": "not permitted"},
        "containers": rows,
        "device_use": [
            {
                "device": uuid,
                "unattributed": GIB,
                "host_processes": 1,
                "host": GIB,
                "unknown_processes": 1,
            }
            for uuid in uuids
        ],
        "acts": [
            {
                "at": "2026-01-02T03:04:05Z",
                "container": "jupyterhub/ada/notebook",
                "device": "GPU 0",
                "action": "warn",
                "reason": "over_limit",
                "used": 9 * GIB,
                "allowed": 8 * GIB,
                "outcome": "done",
                "text": "python (pid 12)",
            }
        ],
    }


def _identity(agent: str) -> dict[str, Any]:
    return {
        "agent": agent,
        "node": "demonstration",
        "version": "0.1.0",
        "metrics": "http://127.0.0.1:9401",
        "page": "http://127.0.0.1:9411",
        "ready": True,
        "reason": None,
    }


def _device(uuid: str, number: int, used: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "model": "NVIDIA H100 80GB HBM3",
        "kind": "gpu",
        "profile": None,
        "gpu_uuid": uuid,
        "gpu_index": number,
        "gpu_instance": None,
        "memory_total": 80 * GIB,
        "memory_reserved": GIB // 2,
        "memory_used": used,
        "resource": "nodeshare/gpu-memory",
        "units": 79,
        "units_allocated": 50,
        "holders": [],
        "offers": [
            {
                "resource": "nodeshare/gpu-memory",
                "units": 79,
                "unit_memory": GIB,
                "allocated": 50,
            }
        ],
        "health": "healthy",
        "simulated": True,
    }


def _gpu_container(uuid: str, number: int, of: int) -> dict[str, Any]:
    request = 70 * GIB // of
    over = number == 1
    return {
        "namespace": "jupyterhub",
        "pod": f"jupyter-user-{number:03d}",
        "container": "notebook",
        "pod_uid": "36da2f84-d858-4829-b144-20e795123bea",
        "id": "610ef128b510",
        "resource": "nodeshare/gpu-memory",
        "device": uuid,
        "device_name": "GPU 0",
        "request": request,
        "guarantee": request,
        "limit": request,
        "used": request + GIB if over else request * (number % 4) // 4,
        "processes": 1,
        "over_limit": over,
        "idle_s": 16.0 + 100 * number,
        "utilisation": 0.0,
        "state": "over_limit" if over else "below",
        "backend": "terminate",
        "problem": "its annotation is no size" if number == 2 else None,
    }


def mounts_document(mounts: int = 1) -> dict[str, Any]:
    """Mounts of which every seventh is dead."""
    return _identity("fuse_mounter") | {
        "root": "/var/lib/nodeshare/mounts",
        "mounts": [_mount(number) for number in range(mounts)],
        "breakers": {"server.example": 4},
        "pods": [],
        "credentials": {"problem": None, "keytab_problems": [], "tokens": []},
        "scratch": [],
    }


def _mount(number: int) -> dict[str, Any]:
    dead = number % 7 == 6
    history = [
        {"at": 1795281213.0 + step, "state": state, "cause": cause}
        for step, (state, cause) in enumerate(
            [("starting", ""), ("dead", "its client was killed by SIGKILL")] * 5
        )
    ]
    return {
        "name": f"mount-{number:03d}",
        "driver": "nfs",
        "path": f"group/{number:03d}",
        "source": f"nfs.example.org:/export/{number:03d}",
        "state": "dead" if dead else "published",
        "cause": "its client was killed by SIGKILL" if dead else "",
        "since": 1795281213.7,
        "client_pid": 4000 + number,
        "recoveries": {"client_ended": 2},
        "last_gap_s": 0.12,
        "waiting": 3,
        "server": "server.example" if dead else None,
        "space": {"size": 270553174016, "available": 74046889984},
        "drained": False,
        "history": history,
    }


def views_document(containers: int = 1) -> dict[str, Any]:
    """Containers of which every ninth is not selected, and one failed."""
    return _identity("lxcfs_helper") | {
        "containers": [_seen(number) for number in range(containers)],
        "host": {"cpus": 96, "memory": 512 * GIB},
        "compat_root": {
            "path": "/var/lib/lxcfs",
            "state": "serving",
            "reason": "",
            "pid": 12,
            "restarts": 0,
            "virtual": True,
            "opens": {},
            "host_answers": {},
            "errors": 0,
        },
    }


def _seen(number: int) -> dict[str, Any]:
    state = "excluded: its namespace is not selected" if number % 9 == 8 else "attached"
    state = "failed: no such process" if number == 5 else state
    known = state == "attached"
    return {
        "namespace": "jupyterhub",
        "pod": f"jupyter-user-{number:03d}",
        "container": "notebook",
        "id": "610ef128b510",
        "cpus": 4 if known else None,
        "memory_limit": 16 * GIB if known else None,
        "memory_used": number * GIB // 20 if known else None,
        "views": dict.fromkeys(("meminfo", "cpuinfo", "stat", "loadavg"), state)
        | {"uptime": "off"},
    }


def documents() -> dict[str, dict[str, Any]]:
    """Of a small node, by section: everything that can be shown is there once."""
    return {
        "gpu_plugin": gpu_document(2, 3),
        "fuse_mounter": mounts_document(7),
        "lxcfs_helper": views_document(9),
    }


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same document with every leaf changed."""
    if isinstance(value, dict):
        return {key: replaced(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, change) for one in value]
    return change(value)


def with_names(document: dict[str, Any], text: str) -> dict[str, Any]:
    """Every text that somebody else may have written is this one."""
    return replaced(document, lambda one: text if isinstance(one, str) else one)  # type: ignore[no-any-return]  # a dict stays one
