# SPDX-License-Identifier: Apache-2.0
"""/proc/cpuinfo of a container. Pure.

The blocks of CPUs it may run on, as many as it can use, numbered from 0. Model and features are the
host's (programs choose their code by them); the topology is one package of single-threaded cores,
because siblings of which a container has no share would be wrong.

Architectures differ: most write one block for each CPU, beginning with `processor : N`; Power and
32-bit Arm end with blocks about the machine; s390 begins with a heading that counts and lists all
CPUs, and calls the blocks `cpu number : N`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from agents.cgroup_formats import format_cpu_list
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views.view import Told, nothing_unknown

_PROCESSOR = re.compile(r"^(?:processor|cpu number)\s*:\s*(\d+)\s*$", re.MULTILINE)
#: s390's heading: how many there are, and a line about each.
_COUNT = re.compile(r"^(# processors\s*:) \d+$", re.MULTILINE)
_LISTED = re.compile(r"^processor (\d+): (.*)\n?", re.MULTILINE)
#: Numbers that identify the machine: of interest to nobody who computes there.
_SERIAL = re.compile(r"^(Serial\s*:).*$", re.MULTILINE)

#: Where a CPU is, by the name of the line: some number CPUs, some count them, some there is one of.
_TOPOLOGY: dict[str, Callable[[int, int], int]] = {
    **dict.fromkeys(
        (
            "processor",
            "cpu number",
            "core id",
            "apicid",
            "initial apicid",
            "core",  # LoongArch
            "global_id",  # LoongArch
            "hart",  # RISC-V
        ),
        lambda number, _: number,
    ),
    **dict.fromkeys(("siblings", "cpu cores"), lambda _, count: count),
    **dict.fromkeys(("physical id", "book id", "drawer id", "package"), lambda _, __: 0),
}

unknown = nothing_unknown


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file."""
    before, blocks, after = split(host.cpuinfo)
    mine = _mine(host, container, blocks)
    shown = [_renumbered(blocks[cpu], number, len(mine)) for number, cpu in enumerate(mine)]
    heading = [_heading(block, mine) for block in before]
    text = "".join(f"{block}\n\n" for block in [*heading, *shown, *after])
    return _SERIAL.sub(r"\1 0", text).encode(errors="surrogateescape")


@lru_cache(maxsize=2)
def split(text: str) -> tuple[Sequence[str], Mapping[int, str], Sequence[str]]:
    """What comes before all CPUs, the blocks by CPU number, and what comes after them."""
    before: list[str] = []
    blocks: dict[int, str] = {}
    after: list[str] = []
    for block in filter(str.strip, text.split("\n\n")):
        match = _PROCESSOR.search(block)
        if match:
            blocks[int(match[1])] = block.strip("\n")
        else:
            (after if blocks else before).append(block.strip("\n"))
    return before, blocks, after


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """How many there are, which ones they are of the host's, and how they are arranged."""
    _, blocks, _ = split(host.cpuinfo)
    mine = _mine(host, container, blocks)
    limits = container.limits
    quota = limits.quota
    origin = "cpuset" if quota is None else f"quota of {quota.path} and cpuset"
    bound = "no quota" if quota is None else f"ceil({quota.value:g})"
    return (
        Told(
            "processors",
            str(len(mine)),
            str(len(blocks)),
            origin,
            f"min({bound}, {len(limits.cpus(host.cpus))} allowed), at least 1",
        ),
        Told(
            "model, flags",
            f"of CPU {format_cpu_list(frozenset(mine))}",
            None,
            "the host's cpuinfo",
            "the first of those it may run on",
        ),
        Told(
            "siblings, cores, ids",
            f"{len(mine)} x 1 thread, 1 package",
            None,
            "rule",
            "numbered from 0, one thread a core",
        ),
    )


def _mine(host: HostFacts, container: ContainerFacts, blocks: Mapping[int, str]) -> list[int]:
    limits = container.limits
    allowed = [cpu for cpu in sorted(limits.cpus(host.cpus)) if cpu in blocks]
    return (allowed or list(blocks))[: limits.cpu_count(host.cpus)]


def _heading(block: str, mine: list[int]) -> str:
    """s390's, with only the CPUs that are shown; that of others says nothing of CPUs."""
    numbers = {cpu: number for number, cpu in enumerate(mine)}

    def listed(match: re.Match[str]) -> str:
        number = numbers.get(int(match[1]))
        return "" if number is None else f"processor {number}: {match[2]}\n"

    if not _COUNT.search(block):
        return block
    return _LISTED.sub(listed, _COUNT.sub(rf"\1 {len(mine)}", block)).rstrip("\n")


def _renumbered(block: str, number: int, count: int) -> str:
    lines = []
    for line in block.split("\n"):
        name, colon, _ = line.partition(":")
        value = _TOPOLOGY.get(name.strip())
        lines.append(line if value is None else f"{name}{colon} {value(number, count)}")
    return "\n".join(lines)
