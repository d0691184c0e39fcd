# SPDX-License-Identifier: Apache-2.0
"""Every view of containers that were worked out by hand, on v1 and v2, on old and new kernels."""

from __future__ import annotations

import pytest

from lxcfs_helper.config import ViewName
from lxcfs_helper.host_reading import parse_meminfo
from lxcfs_helper.views import VIEWS, FileView, Tree, TreeView
from lxcfs_helper.views.meminfo import ALLOWED, CONSTANT
from tests.fakes import view_cases
from tests.fakes.view_cases import Case


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {name: view_cases.read(name, tmp_path_factory.mktemp(name)) for name in view_cases.NAMES}


@pytest.fixture(params=view_cases.NAMES)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


def text(case: Case, name: ViewName) -> str:
    (file,) = VIEWS[name].files
    assert isinstance(file, FileView)
    return file.render(case.host, case.container).decode()


def test_meminfo(case: Case) -> None:
    shown = parse_meminfo(text(case, ViewName.MEMINFO))
    assert list(shown) == [field for field in case.host.meminfo if field in ALLOWED]
    expected = {
        field: case.host.meminfo[field]
        if field in CONSTANT
        else case.expected["meminfo"].get(field, 0)
        for field in shown
    }
    assert shown == expected
    assert case.expected["meminfo"].keys() <= shown.keys() or len(case.host.meminfo) < 10


def test_swaps(case: Case) -> None:
    heading, *devices = text(case, ViewName.SWAPS).splitlines()
    assert heading.split() == ["Filename", "Type", "Size", "Used", "Priority"]
    expected = case.expected["swaps"]
    shown = [[int(n) for n in device.split()[2:4]] for device in devices]
    assert shown == ([] if expected is None else [expected])


def test_cpus_are_the_same_in_every_view(case: Case) -> None:
    count = case.expected["cpus"]
    stat = text(case, ViewName.STAT)
    assert sum(line.startswith("cpu") for line in stat.splitlines()) == count + 1
    blocks = text(case, ViewName.CPUINFO).split("\n\n")[:-1]
    assert [block.splitlines()[0].split() for block in blocks] == [
        ["processor", ":", str(cpu)] for cpu in range(count)
    ]
    assert all(f"siblings\t: {count}\n" in block for block in blocks)
    cpus, nodes = (trees(case)[name] for name in ("cpu", "node"))
    everybody = "0\n" if count == 1 else f"0-{count - 1}\n"
    assert {cpus[name].decode() for name in ("online", "possible", "present")} == {everybody}
    assert nodes["node0/cpulist"].decode() == everybody
    assert {path.split("/")[0] for path in cpus if path.startswith("cpu")} == {
        f"cpu{cpu}" for cpu in range(count)
    }


def trees(case: Case) -> dict[str, Tree]:
    files = VIEWS[ViewName.CPU].files
    return {f.name: f.render(case.host, case.container) for f in files if isinstance(f, TreeView)}


def test_cpu_time(case: Case) -> None:
    lines = {line.split()[0]: line.split() for line in text(case, ViewName.STAT).splitlines()}
    for line, key in (("cpu", "stat"), ("cpu0", "stat0")):
        if key in case.expected:
            shown = dict(zip(("user", "system", "idle", "steal"), _times(lines[line]), strict=True))
            assert shown == case.expected[key]
    assert lines["btime"] == ["btime", "1700000000"]
    assert lines["procs_running"] == ["procs_running", "1"]
    assert lines["intr"] == ["intr", "0"]


def _times(words: list[str]) -> list[int]:
    return [int(words[column]) for column in (1, 3, 4, 8)]


def test_uptime(case: Case) -> None:
    if "uptime" in case.expected:
        assert text(case, ViewName.UPTIME).split() == case.expected["uptime"]


def test_diskstats(case: Case) -> None:
    if "diskstats" in case.expected:
        rows = [" ".join(line.split()) for line in text(case, ViewName.DISKSTATS).splitlines()]
        assert rows == (case.expected["diskstats"] or [])


def test_load_starts_at_zero_and_names_no_process(case: Case) -> None:
    assert text(case, ViewName.LOADAVG).split() == ["0.00", "0.00", "0.00", "0/0", "0"]


def test_what_is_unknown_is_named(case: Case) -> None:
    for name, expected in case.expected.get("unknown", {}).items():
        unknown = VIEWS[ViewName(name)].unknown(case.host, case.container)
        assert sorted(unknown) == sorted(expected), name


def test_every_number_is_explained(case: Case) -> None:
    for name, view in VIEWS.items():
        told = view.explain(case.host, case.container)
        assert told or name is ViewName.DISKSTATS
        assert all(one.what and one.value and one.origin and one.formula for one in told)
    shown = parse_meminfo(text(case, ViewName.MEMINFO))
    told = VIEWS[ViewName.MEMINFO].explain(case.host, case.container)
    values = {one.what: one.value.split()[0] for one in told if one.value != "absent"}
    assert values == {field: str(value) for field, value in shown.items()}


def test_no_number_of_the_host_is_anywhere(case: Case) -> None:
    """Those of meminfo are tested one by one; this is for everything else."""
    numbers = {
        word.strip()
        for name in ("stat", "loadavg", "uptime", "diskstats")
        for word in case.host.texts[name].replace("/", " ").split()
        if word[0].isdigit() and len(word) > 2  # small ones may well be the container's, too
    } - {"1700000000"}
    assert len(numbers) > 30
    views = (ViewName.STAT, ViewName.LOADAVG, ViewName.UPTIME, ViewName.DISKSTATS)
    for name in views:
        shown = set(text(case, name).replace("/", " ").split())
        assert not shown & numbers, name


def test_directories_tell_what_they_may(case: Case) -> None:
    cpus = trees(case)["cpu"]
    everything = b"".join(cpus.values())
    assert b"secret" not in everything
    assert b"deadbeef" not in everything
    assert not {b"0-63", b"4-63", b"0-3"} & set(everything.split())
    assert cpus["vulnerabilities/meltdown"] == b"Not affected\n"
    assert cpus["kernel_max"] == b"8191\n"
    assert cpus["offline"] == cpus["isolated"] == b"\n"
    assert cpus["smt/active"] == b"0\n"
    last = case.expected["cpus"] - 1
    assert cpus[f"cpu{last}/topology/thread_siblings_list"] == f"{last}\n".encode()
    assert cpus[f"cpu{last}/topology/core_siblings"] == f"{(2 << last) - 1:x}\n".encode()
    assert cpus[f"cpu{last}/topology/physical_package_id"] == b"0\n"
    assert cpus[f"cpu{last}/cache/index0/shared_cpu_list"] == f"{last}\n".encode()
    assert cpus[f"cpu{last}/cache/index1/shared_cpu_map"] == f"{(2 << last) - 1:x}\n".encode()
