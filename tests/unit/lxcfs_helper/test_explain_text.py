# SPDX-License-Identifier: Apache-2.0
"""Explanations as people and programs are given them."""

from __future__ import annotations

import json
from pathlib import Path

from agents.cgroup_formats import up
from agents.containers import Container, Pod
from lxcfs_helper.config import ViewName
from lxcfs_helper.explain import Explanation, Shown
from lxcfs_helper.explain_text import listing, report
from lxcfs_helper.views import VIEWS
from tests.fakes import view_cases

POD = "/kubepods/pod1"


def explanation(directory: Path) -> Explanation:
    case = view_cases.read("v2-quota-above-and-cpuset", directory)
    host, facts = case.host, case.container
    views: dict[ViewName, Shown] = {
        name: Shown("attached", "", view.explain(host, facts))
        for name, view in VIEWS.items()
        if name is not ViewName.UPTIME
    }
    views[ViewName.UPTIME] = Shown("host", "no limit makes it differ")
    return Explanation("jupyter/ada notebook", 42, up(f"{POD}/c1"), host, facts, views)


def test_people_read_short_names_of_cgroups(tmp_path: Path) -> None:
    page = report([explanation(tmp_path)]).text(as_json=False)
    rows = [" ".join(line.split()) for line in page.splitlines()]
    assert f"[1] {POD}" in rows
    assert "memory 1.0 GiB [1]" in rows
    assert "swap 256 MiB [1]" in rows
    assert "CPU quota 2.5 CPUs [1]" in rows
    assert (
        "MemTotal 1048576 kB 8388608 kB memory.max of [1] the least of its own and all above it"
        in rows
    )
    assert (
        "MemAvailable 188416 kB 6000002 kB limit of [1] "
        "limit - used + active_file + inactive_file + slab_reclaimable there" in rows
    )
    assert page.count(POD) == 2, "the pod's and the container's, once each"
    assert max(map(len, page.splitlines())) < 180


def test_programs_read_whole_names(tmp_path: Path) -> None:
    document = json.loads(report([explanation(tmp_path)]).text(as_json=True))
    (one,) = document["containers"]
    assert one["cgroups"] == [f"{POD}/c1", POD, "/kubepods", "/"]
    assert one["limits"]["memory_bytes"] == {"value": 1 << 30, "set_by": POD}
    assert one["limits"]["cpus_allowed"] == [1, 2, 3]
    assert one["views"]["uptime"] == {
        "state": "host",
        "why": "no limit makes it differ",
        "values": [],
    }
    assert one["views"]["stat"]["values"][3] == {
        "what": "steal",
        "container": "3000 ticks",
        "host": "8008 ticks",
        "from": f"cpu.stat of {POD}",
        "how": "throttled time while it used less than it may",
    }


def test_who_runs_and_what_each_is_shown() -> None:
    pod = Pod("ada", "jupyter", "uid")
    running = [
        (Container("1", "notebook", pod, 42), frozenset({ViewName.MEMINFO, ViewName.STAT})),
        (Container("2", "sidecar", pod, 43), frozenset[ViewName]()),
        (Container("3", "starting", pod, None), None),
    ]
    rows = [line.split() for line in listing(running).splitlines()[2:5]]
    assert rows[0] == ["jupyter/ada", "notebook", "42", "meminfo,", "stat"]
    assert rows[1][3:] == ["nothing:", "the", "host's", "own", "files"]
    assert rows[2][2:] == ["-", "-"]
