# SPDX-License-Identifier: Apache-2.0
"""/proc/cpuinfo of a container. Pure.

The blocks of CPUs it may run on, as many as it can use, numbered from 0. Model and features are the
host's (programs choose their code by them); the topology is one package of single-threaded cores,
because siblings of which a container has no share would be wrong.
"""

from __future__ import annotations

import re

from lxcfs_helper.facts import ContainerFacts, HostFacts

_PROCESSOR = re.compile(r"processor\s*:\s*(\d+)")


def render(host: HostFacts, container: ContainerFacts) -> bytes:
    """The whole file. Where the host's has no blocks by CPU (s390), only the rest is left."""
    blocks, rest = split(host.cpuinfo)
    limits = container.limits
    count = limits.cpu_count(host.cpus)
    mine = [blocks[cpu] for cpu in sorted(limits.cpus(host.cpus)) if cpu in blocks]
    mine = (mine or list(blocks.values()))[:count]
    shown = [_renumbered(block, number, len(mine)) for number, block in enumerate(mine)]
    return "".join(f"{block}\n\n" for block in [*shown, *rest]).encode()


def split(text: str) -> tuple[dict[int, str], list[str]]:
    """Blocks by CPU number, and what belongs to no CPU (board and revision, for some)."""
    blocks: dict[int, str] = {}
    rest: list[str] = []
    for block in text.split("\n\n"):
        match = _PROCESSOR.match(block.strip("\n"))
        if match:
            blocks[int(match[1])] = block.strip("\n")
        elif block.strip():
            rest.append(block.strip("\n"))
    return blocks, rest


def _renumbered(block: str, number: int, count: int) -> str:
    topology = {
        "processor": number,
        "physical id": 0,
        "siblings": count,
        "core id": number,
        "cpu cores": count,
        "apicid": number,
        "initial apicid": number,
    }
    lines = []
    for line in block.split("\n"):
        name, colon, _ = line.partition(":")
        value = topology.get(name.strip())
        lines.append(line if value is None else f"{name}{colon} {value}")
    return "\n".join(lines)
