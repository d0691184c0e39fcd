# SPDX-License-Identifier: Apache-2.0
"""Where each number of a container's meminfo comes from, for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agents.cgroup_formats import V1_MEMORY_NAMES
from lxcfs_helper.facts import ContainerFacts, HostFacts
from lxcfs_helper.views import meminfo
from lxcfs_helper.views.view import Told

_V1_NAMES = {new: old for old, new in V1_MEMORY_NAMES.items()}
_HOST_FILE = "the host's meminfo"


def unknown(host: HostFacts, container: ContainerFacts) -> tuple[str, ...]:
    """Fields that other kernels tell of a cgroup, and this one does not: they are shown as zero."""
    stat = container.memory.stat
    untold = [
        field
        for field, entries in meminfo.FROM_STAT.items()
        if field in host.meminfo and not any(entry in stat for entry in entries)
    ]
    if "slab_reclaimable" not in stat:
        untold += [field for field in ("SReclaimable", "KReclaimable") if field in host.meminfo]
    if meminfo.swap_is_unknown(host, container):
        untold += ["SwapTotal", "SwapFree"]
    if host.meminfo.get("HugePages_Total") and container.memory.huge_pages is None:
        untold += ["HugePages_Total", "HugePages_Free", "Hugetlb"]
    return tuple(untold)


def explain(host: HostFacts, container: ContainerFacts) -> tuple[Told, ...]:
    """Every field of the file, and how many of the host's were left out."""
    text = meminfo.render(host, container).decode()
    rows = []
    for line in text.splitlines():
        field, _, value = line.partition(":")
        origin, formula = _origin(field, host, container)
        unit = " kB" if value.endswith("kB") else ""
        rows.append(Told(field, value.strip(), f"{host.meminfo[field]}{unit}", origin, formula))
    left_out = [field for field in host.meminfo if field not in meminfo.ALLOWED]
    if left_out:
        rows.append(
            Told("others", "absent", None, "rule", f"no cgroup tells {', '.join(left_out)}")
        )
    return tuple(rows)


def _origin(field: str, host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    told = _COMPUTED.get(field)
    if told is not None:
        return told(host, container)
    if field in meminfo.CONSTANT:
        return _HOST_FILE, "constant of the architecture"
    entries = meminfo.FROM_STAT.get(field)
    if entries is None:
        return "rule", "zero: counted by no cgroup"
    return _stat(container, *entries)


def _stat(container: ContainerFacts, *entries: str) -> tuple[str, str]:
    if not any(entry in container.memory.stat for entry in entries):
        return "rule", "zero: this kernel tells it of no cgroup"
    v1 = container.limits.swap_with_memory
    return "memory.stat", " + ".join(_V1_NAMES.get(e, e) if v1 else e for e in entries)


def _total(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    limit = container.limits.memory
    if limit is None or limit.value >= host.memory_bytes:
        return _HOST_FILE, "no limit below it"
    name = "memory.limit_in_bytes" if container.limits.swap_with_memory else "memory.max"
    return f"{name} of {limit.path}", "the least of its own and all above it"


def _free(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    v1 = container.limits.swap_with_memory
    return "memory.usage_in_bytes" if v1 else "memory.current", "MemTotal - used"


def _available(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    limit, room = container.limits.memory, container.memory.headroom
    total = host.memory_bytes if limit is None else min(host.memory_bytes, limit.value)
    here = meminfo.available_here(container.memory, total)
    on_host = host.meminfo.get("MemAvailable", 0) << 10
    slab = "" if container.limits.swap_with_memory else " + slab_reclaimable"
    if on_host and on_host <= min(here, here if room is None else room.value):
        return _HOST_FILE, "the host itself has no more"
    if room is not None and room.value < here:
        return f"limit of {room.path}", f"limit - used + active_file + inactive_file{slab} there"
    return "memory.stat", f"MemFree + active_file + inactive_file{slab}"


def _swap(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    limit, v1 = container.limits.swap, container.limits.swap_with_memory
    if not host.meminfo.get("SwapTotal"):
        return _HOST_FILE, "the host has none"
    if container.memory.swap_used is None:
        return "rule", "zero: swap is not accounted"
    if container.memory.swappiness == 0:
        return "memory.swappiness", "what is swapped already: it may not swap more"
    if limit is None or limit.value >= host.meminfo["SwapTotal"] << 10:
        return _HOST_FILE, "no limit below it"
    name = "memory.memsw.limit_in_bytes" if v1 else "memory.swap.max"
    both = "; it limits memory and swap together" if v1 else ""
    return f"{name} of {limit.path}", f"the least of its own and all above it{both}"


def _swap_free(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    if not meminfo.swap(host, container)[0]:
        return _swap(host, container)
    if container.limits.swap_with_memory:
        return "memory.memsw.usage_in_bytes", "SwapTotal - (that - memory.usage_in_bytes)"
    return "memory.swap.current", "SwapTotal - that"


def _huge_pages(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    counted, v1 = container.memory.huge_pages, container.limits.swap_with_memory
    if not host.meminfo.get("HugePages_Total"):
        return _HOST_FILE, "the host has none"
    if counted is None:
        return "rule", "zero: nobody counts its huge pages"
    if counted.limit is None:
        return _HOST_FILE, "no limit below it"
    return f"hugetlb.*.{'limit_in_bytes' if v1 else 'max'}", "the least of its own and all above it"


def _huge_pages_free(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    if not meminfo.huge_pages(host, container)[0]:
        return _huge_pages(host, container)
    v1 = container.limits.swap_with_memory
    used = f"hugetlb.*.{'usage_in_bytes' if v1 else 'current'}"
    return used, "HugePages_Total - used, no more than the host has free"


def _cached(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    return _stat(container, "file")


def _slab(host: HostFacts, container: ContainerFacts) -> tuple[str, str]:
    return _stat(container, "slab_reclaimable")


_COMPUTED: Mapping[str, Callable[[HostFacts, ContainerFacts], tuple[str, str]]] = {
    "MemTotal": _total,
    "MemFree": _free,
    "MemAvailable": _available,
    "Cached": _cached,
    "SReclaimable": _slab,
    "KReclaimable": _slab,
    "SwapTotal": _swap,
    "SwapFree": _swap_free,
    "HugePages_Total": _huge_pages,
    "HugePages_Free": _huge_pages_free,
    "Hugetlb": _huge_pages,
}
