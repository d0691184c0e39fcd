# SPDX-License-Identifier: Apache-2.0
"""The truth table of the documentation: what real programs take for the number of CPUs in a real
container with a limit of one, by what is done for it.

Measured, not asserted: `--update-golden` writes the table, also of the programs that take long
(Java, node, R, Go), as far as the machine has them; without it the rows and columns that this
machine can measure are compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lxcfs_helper.affinity.environment import environment
from tests.fakes.cpu_counters import Counter, Counters, counters
from tests.fakes.lxcfs import lxcfs
from tests.fakes.real_container import LIMITS_AVAILABLE, eventually
from tests.fakes.runc_container import RuncContainer
from tests.fakes.runc_node import RuncNode
from tests.kernel.lxcfs_helper.agent_process import covered, total_kib_of_host

PAGE = Path(__file__).parents[3] / "lxcfs_helper/affinity/README.md"
BEGIN, END = "<!-- truth table: begin -->\n", "<!-- truth table: end -->\n"
PLAIN, LXCFS, FILES, LISTENER, VARIABLES = COLUMNS = (
    "plain container",
    "lxcfs",
    "our files",
    "our files + listener",
    "variables",
)
HEADING = ("asks", "tried", *COLUMNS)
MEMORY = 512 << 20
HOST_CPUS = os.cpu_count() or 1
#: What every machine that runs tests can measure.
ALWAYS = {"`nproc`", "OpenMP (libgomp)", "numpy (OpenBLAS)", "busybox `nproc`"}
ALWAYS |= {"`joblib.cpu_count()`", "`psutil.cpu_count()`"}

#: By row: version and, by column, what the program takes.
Table = dict[str, dict[str, str]]

pytestmark = [
    pytest.mark.skipif(not LIMITS_AVAILABLE, reason="no memory and cpu controllers here"),
    pytest.mark.skipif(HOST_CPUS < 2, reason="one CPU cannot be limited to one"),
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RuncNode]:
    made = RuncNode(tmp_path, "{heartbeat: 100ms, poll: 100ms, affinity: {enabled: true}}")
    try:
        yield made
    finally:
        made.close()


def test_the_truth_table_of_the_documentation(
    node: RuncNode, tmp_path: Path, *, soak: bool, update_golden: bool
) -> None:
    programs = counters(tmp_path / "counters", everything=soak or update_golden)
    measured = measure(node, programs)
    assert measured.keys() >= ALWAYS
    before, known, after = page()
    if update_golden:
        PAGE.write_text(before + BEGIN + written({**known, **measured}) + END + after)
        return
    for name, row in measured.items():
        documented = known.get(name)
        if documented is not None and (name in ALWAYS or same_major(row, documented)):
            shown = {column: documented[column] for column in row if column in COLUMNS}
            assert {name: shown} == {name: {column: row[column] for column in shown}}


def measure(node: RuncNode, programs: Counters) -> Table:
    """Every row, in the columns that this machine has."""
    script = ["sh", "-c", programs.script()]
    table: Table = {row.name: {"tried": row.version} for row in programs.rows}

    def add(column: str, one: RuncContainer, *prefix: str) -> None:
        for row, number in programs.said(one.run(*prefix, *script)).items():
            table[row.name][column] = word(row, number)

    fields: dict[str, Any] = {"memory": MEMORY, "cpus": 1.0, "binds": programs.binds}
    plain = node.make("plain", **fields)
    add(PLAIN, plain)
    assignments = [f"{name}={value}" for name, value in environment(1).items()]
    add(VARIABLES, plain, "env", *assignments)
    with lxcfs(node.directory) as shown:
        if shown is not None:
            one = node.make("lxcfs", **{**fields, "binds": {**programs.binds, **shown}})
            add(LXCFS, one)
            one.kill()
    node.start()
    eventually(covered(plain), "everything attached", 60)
    add(FILES, plain)
    profile = node.kubelet_dir / "seccomp/nodeshare/runtime-default.json"
    eventually(profile.exists, "the profile installed", 60)
    eventually(node.seccomp_socket.exists, "the holder listens", 60)
    listened = node.make("listened", **fields, seccomp=json.loads(profile.read_text()))
    add(LISTENER, listened)
    return table


def same_major(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """What is optional is compared where it is about the same program."""
    return one["tried"].partition(".")[0] == other["tried"].partition(".")[0]


def word(row: Counter, number: int) -> str:
    """Whose number it is."""
    limit, whole = (MEMORY >> 10, total_kib_of_host()) if row.kib else (1, HOST_CPUS)
    if number == row.least > limit:  # whatever the limit, and the node
        return str(number)
    return {limit: "limit", whole: "node"}.get(number, str(number))


def page() -> tuple[str, Table, str]:
    """What stands before the table, the table, and what stands after it."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    inside, end, after = rest.partition(END)
    assert begin, "the page has a place for the table"
    assert end
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in inside.splitlines()]
    table = {row[0]: dict(zip(HEADING[1:], row[1:], strict=True)) for row in rows[2:]}
    return before, table, after


def written(table: Mapping[str, Mapping[str, str]]) -> str:
    """As Markdown."""
    cells = [HEADING, ["---"] * len(HEADING)]
    cells += [
        [name, *(row.get(column, "-") for column in HEADING[1:])] for name, row in table.items()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
