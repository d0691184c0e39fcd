# SPDX-License-Identifier: Apache-2.0
"""/sys/devices/system/cpu and node of a container, each as a whole directory. Pure.

One statement, the same as cpuinfo's: CPUs numbered from 0, each a core of its own, all in one
package on one node. What is not written here does not exist for the container: CPUs beyond its own,
frequencies, idle states, switches. Of the host only what kernel and processor type are is told, and
the shape of caches; a cache from the third level on is shared by all, nearer ones by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agents.cgroup_formats import format_cpu_list
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views.view import Told, Tree, nothing_unknown

#: Files of a CPU's topology: those of which CPUs share something with it, as mask and as list.
_OWN = ("thread_siblings", "core_cpus", "cluster_cpus")
_ALL = ("core_siblings", "package_cpus", "die_cpus", "book_siblings", "drawer_siblings")
#: Numbers of what contains it.
_FIRST = ("physical_package_id", "die_id", "book_id", "drawer_id")
_SAME = ("core_id", "cluster_id")

#: What every kernel has, for where the host's directory cannot be seen.
_BASIC = frozenset(
    ("core_id", "physical_package_id", "thread_siblings", "thread_siblings_list", "core_siblings")
)

_SHARED_FROM_LEVEL = 3

unknown = nothing_unknown


class _Cpus(NamedTuple):
    """The same CPUs in both ways."""

    list: str
    mask: str


def render(host: HostFacts, container: ContainerFacts) -> Tree:
    """The directory of CPUs."""
    count = container.limits.cpu_count(host.cpus)
    everything = _list(range(count))
    files = {
        **host.sys_cpus.constants,
        **dict.fromkeys(("online", "possible", "present"), everything),
        **dict.fromkeys(("offline", "isolated"), ""),
    }
    if "smt/active" in files:
        files |= {"smt/active": "0", "smt/control": "notsupported"}
    everybody = _Cpus(everything, mask(range(count), count))
    for cpu in range(count):
        files |= _one_cpu(host, cpu, everybody, count)
    return {name: f"{text}\n".encode() for name, text in files.items()}


def render_nodes(host: HostFacts, container: ContainerFacts) -> Tree:
    """The directory of NUMA nodes, of which there is one. It has no meminfo: libnuma, which many
    programs start with, warns of one that does not say what is free, and that changes all the time.
    """
    count = container.limits.cpu_count(host.cpus)
    nodes = ("online", "possible", "has_cpu", "has_memory", "has_normal_memory")
    files = {
        **dict.fromkeys(nodes, "0"),
        "node0/cpulist": _list(range(count)),
        "node0/cpumap": mask(range(count), count),
        "node0/distance": "10",
    }
    return {name: f"{text}\n".encode() for name, text in files.items()}


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """The lists, and what decides how many CPUs there are."""
    limits = container.limits
    count, allowed = limits.cpu_count(host.cpus), len(limits.cpus(host.cpus))
    origin = "cpuset" if limits.quota is None else f"quota of {limits.quota.path} and cpuset"
    quota = "no quota" if limits.quota is None else f"ceil({limits.quota.value:g})"
    formula = f"min({quota}, {allowed} allowed), numbered from 0"
    hosts = format_cpu_list(host.cpus)
    lists = ("online", "possible", "present")
    return (
        *(Told(name, _list(range(count)), hosts, origin, formula) for name in lists),
        Told("offline, isolated", "none", None, "rule", "what it does not have does not exist"),
        Told("topology", f"{count} x 1 thread, 1 package", None, "rule", "as in cpuinfo"),
        Told("nodes", "0", None, "rule", "one node with everything"),
    )


def mask(cpus: range, possible: int) -> str:
    """The kernel's way to write CPUs as a mask: 32 to a group, as many bits as are possible."""
    bits = ((1 << len(cpus)) - 1) << cpus.start
    groups = []
    for start in range(0, possible, 32):
        digits = (min(32, possible - start) + 3) // 4
        groups.append(f"{(bits >> start) & 0xFFFFFFFF:0{digits}x}")
    return ",".join(reversed(groups))


def _one_cpu(host: HostFacts, cpu: int, everybody: _Cpus, count: int) -> Mapping[str, str]:
    own = _Cpus(str(cpu), mask(range(cpu, cpu + 1), count))
    files = {} if cpu == 0 else {f"cpu{cpu}/online": "1"}
    for name in host.sys_cpus.topology or _BASIC:
        text = _topology(name, cpu, own, everybody)
        if text is not None:
            files[f"cpu{cpu}/topology/{name}"] = text
    for index, shape in enumerate(host.sys_cpus.caches):
        level = shape.get("level", "")
        shared = level.isdigit() and int(level) >= _SHARED_FROM_LEVEL
        cpus, number = (everybody, "0") if shared else (own, str(cpu))
        cache = f"cpu{cpu}/cache/index{index}"
        files |= {f"{cache}/{name}": text for name, text in shape.items()}
        files[f"{cache}/id"] = number
        files[f"{cache}/shared_cpu_list"], files[f"{cache}/shared_cpu_map"] = cpus
    return files


def _topology(name: str, cpu: int, own: _Cpus, everybody: _Cpus) -> str | None:
    """One file of that directory; None: it is none that can be told."""
    if name in _FIRST:
        return "0"
    if name in _SAME:
        return str(cpu)
    of = name.removesuffix("_list")
    cpus = own if of in _OWN else everybody if of in _ALL else None
    if cpus is None:
        return None
    return cpus.mask if of == name else cpus.list


def _list(cpus: range) -> str:
    return format_cpu_list(frozenset(cpus))
