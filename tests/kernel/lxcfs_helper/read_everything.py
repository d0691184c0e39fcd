# SPDX-License-Identifier: Apache-2.0
"""A script: bind files over /proc and /sys of its own mount namespace, run what people run, and
print what each program says, as JSON.

    unshare -m python read_everything.py DIRECTORY

DIRECTORY holds what is to be shown, laid out as / is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_COMMANDS = {
    "free": ["free", "-k", "-w"],
    "vmstat": ["vmstat", "-S", "k"],
    "uptime": ["uptime"],
    "lscpu": ["lscpu", "--json"],
    "lscpu_topology": ["lscpu", "--parse=CPU,CORE,SOCKET,NODE"],
    "top": ["top", "-b", "-n", "1"],
    "getconf": ["getconf", "_NPROCESSORS_CONF"],
    "swapon": ["swapon", "--show=SIZE,USED", "--bytes", "--noheadings"],
}


def main(directory: Path) -> None:
    """Everything in one process: a mount namespace is made once."""
    for source in shown(directory):
        target = Path("/", source.relative_to(directory))
        if target.exists():
            subprocess.run(["mount", "--bind", source, target], check=True)
    environment = {**os.environ, "LC_ALL": "C", "TERM": "dumb"}
    said = {
        name: subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, env=environment
        ).stdout
        for name, command in _COMMANDS.items()
    }
    sys.stdout.write(json.dumps({**said, "python": by_python()}))


def shown(directory: Path) -> list[Path]:
    """Single files of /proc, and whole directories of /sys."""
    files = [path for path in (directory / "proc").rglob("*") if path.is_file()]
    return [*files, *(directory / "sys/devices/system").iterdir()]


def by_python() -> dict[str, object]:
    """What Python and psutil say; psutil reads when it is imported."""
    import psutil

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    times = psutil.cpu_times()
    disks = psutil.disk_io_counters(perdisk=True) or {}
    return {
        "cpu_count": os.cpu_count(),
        "configured": os.sysconf("SC_NPROCESSORS_CONF"),
        "psutil_logical": psutil.cpu_count(),
        "psutil_cores": psutil.cpu_count(logical=False),
        "psutil_lines": len(psutil.cpu_times(percpu=True)),
        "memory": memory._asdict(),
        "swap": {"total": swap.total, "used": swap.used},
        "times": times._asdict(),
        "disks": {name: counters._asdict() for name, counters in disks.items()},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
