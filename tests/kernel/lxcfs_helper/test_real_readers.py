# SPDX-License-Identifier: Apache-2.0
"""Real programs read the views of containers that were worked out by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lxcfs_helper.views import VIEWS, TreeView
from tests.fakes import view_cases
from tests.fakes.view_cases import Case
from tests.kernel.lxcfs_helper import read_everything

#: One of v2 with several CPUs, swap and a disk, one of v1 with half a CPU.
NAMES = ("v2-quota-above-and-cpuset", "v1-memory-and-swap", "v2-memory-high")


def write_views(case: Case, directory: Path) -> None:
    """Every view where a program looks for it."""
    for view in VIEWS.values():
        for file in view.files:
            place = directory / file.target.relative_to("/")
            if isinstance(file, TreeView):
                for below, content in file.render(case.host, case.container).items():
                    (place / below).parent.mkdir(parents=True, exist_ok=True)
                    (place / below).write_bytes(content)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.render(case.host, case.container))


def said(case: Case, directory: Path) -> dict[str, Any]:
    """What each program says."""
    write_views(case, directory)
    script = str(Path(read_everything.__file__))
    done = subprocess.run(
        ["unshare", "-m", sys.executable, script, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_every_program_sees_the_container(name: str, tmp_path: Path) -> None:
    case = view_cases.read(name, tmp_path / "host")
    answers = said(case, tmp_path / "shown")
    check_memory(case, answers)
    check_cpus(case, answers)
    check_time_and_load(case, answers)
    check_disks(case, answers)


def check_memory(case: Case, answers: dict[str, Any]) -> None:
    expected = {"SwapTotal": 0, "SwapFree": 0, "SReclaimable": 0, **case.expected["meminfo"]}
    memory, swap = (line.split() for line in answers["free"].splitlines()[1:3])
    # total used free shared buffers cache available
    assert int(memory[1]) == expected["MemTotal"]
    assert 0 <= int(memory[2]) <= expected["MemTotal"]
    assert int(memory[3]) == expected["MemFree"]
    assert int(memory[6]) == expected["Cached"] + expected["SReclaimable"]
    assert int(memory[7]) == expected["MemAvailable"]
    swapped = expected["SwapTotal"] - expected["SwapFree"]
    assert list(map(int, swap[1:4])) == [expected["SwapTotal"], swapped, expected["SwapFree"]]
    python = answers["python"]
    assert python["memory"]["total"] == expected["MemTotal"] * 1024
    assert python["memory"]["available"] == expected["MemAvailable"] * 1024
    assert python["swap"] == {"total": expected["SwapTotal"] * 1024, "used": swapped * 1024}
    total_mib = f"{expected['MemTotal'] / 1024:.1f} total"
    assert re.search(rf"Mem *: +{re.escape(total_mib)}", answers["top"])
    devices = [[int(n) // 1024 for n in line.split()] for line in answers["swapon"].splitlines()]
    assert devices == ([] if case.expected["swaps"] is None else [case.expected["swaps"]])


def check_cpus(case: Case, answers: dict[str, Any]) -> None:
    count = case.expected["cpus"]
    python = answers["python"]
    for key in ("cpu_count", "configured", "psutil_logical", "psutil_cores", "psutil_lines"):
        assert python[key] == count, key
    assert int(answers["getconf"]) == count
    rows = {row["field"]: row["data"] for row in flat(json.loads(answers["lscpu"])["lscpu"])}
    assert rows["CPU(s):"] == str(count)
    assert rows["On-line CPU(s) list:"] == ("0" if count == 1 else f"0-{count - 1}")
    assert rows["Socket(s):"] == rows["Thread(s) per core:"] == "1"
    assert rows["Core(s) per socket:"] == str(count)
    assert rows["Model name:"] == "Fictitious CPU @ 2.00GHz"
    rows_of_cpus = [row for row in answers["lscpu_topology"].splitlines() if row[0] != "#"]
    nodes = "0" if Path("/sys/devices/system/node").exists() else ""
    assert rows_of_cpus == [f"{cpu},{cpu},0,{nodes}" for cpu in range(count)]


def flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Newer versions nest them."""
    return [one for row in rows for one in (row, *flat(row.get("children", [])))]


def check_time_and_load(case: Case, answers: dict[str, Any]) -> None:
    assert "load average: 0.00, 0.00, 0.00" in answers["uptime"]
    assert "up 1 min" in answers["uptime"]
    numbers = list(map(int, answers["vmstat"].splitlines()[-1].split()[:17]))
    if "stat" in case.expected:
        stat = case.expected["stat"]
        whole = sum(stat.values())
        shares = dict(zip(("user", "system", "idle"), numbers[12:15], strict=True))
        shares["steal"] = numbers[16]
        for name, share in shares.items():
            assert abs(share - 100 * stat[name] / whole) <= 1, name
        times = answers["python"]["times"]
        assert {name: round(times[name] * 100) for name in stat} == stat


def check_disks(case: Case, answers: dict[str, Any]) -> None:
    rows = [row.split() for row in case.expected.get("diskstats") or []]
    disks = answers["python"]["disks"]
    assert disks.keys() == {row[2] for row in rows}
    for row in rows:
        disk = disks[row[2]]
        assert (disk["read_count"], disk["write_count"]) == (int(row[3]), int(row[7]))
        assert (disk["read_bytes"], disk["write_bytes"]) == (int(row[5]) * 512, int(row[9]) * 512)
