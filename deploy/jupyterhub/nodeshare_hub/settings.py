# SPDX-License-Identifier: Apache-2.0
"""What an operator configures: instances that people choose from, and what every pod gets. Values
only; `parsing` reads them. Knows no form, no pod and no hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodeshare_hub.words import size_text

ROOT = "/var/lib/nodeshare/mounts"
TOKENS, TOKENS_IN_POD = "/run/nodeshare/credentials", "/run/tokens"
LIMIT_ANNOTATION = "nodeshare/gpu-memory-limit"
#: As the view agent installs it below the kubelet's seccomp directory, and says so of its node.
CPU_COUNT_PROFILE, CPU_COUNT_LABEL = "nodeshare/runtime-default.json", "nodeshare/affinity-ready"
KEEP_S, TIMEOUT_S, STALE_S = 10.0, 2.0, 120.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """What of a GPU an instance has. `sizes` are units, from which people choose; `unit` says what
    one is. `chunk`: bytes of one unit; None: a whole device or slice, which has no limit.
    `limit_ratio` times the request is the limit, `limit_most` bytes at most (both None: the node's
    rule decides).
    """

    resource: str
    sizes: tuple[int, ...]
    unit: str
    chunk: int | None = None
    limit_ratio: float | None = None
    limit_most: int | None = None

    def amount(self, units: int) -> str:
        """So many units, for people."""
        if self.chunk is not None:
            return size_text(units * self.chunk, " ")
        return f"{units} times {self.unit}" if units > 1 else self.unit

    def limit(self, units: int) -> int | None:
        """What a container with so many units may reach of its device, in bytes; None: the node's
        own rule decides.
        """
        if self.chunk is None or self.limit_ratio is None:
            return None
        request = units * self.chunk
        limit = int(request * self.limit_ratio) >> 20 << 20  # whole MiB
        return max(request, limit if self.limit_most is None else min(limit, self.limit_most))


@dataclass(frozen=True, slots=True)
class Instance:
    """One entry of the list. `groups`: who may choose it; empty: everybody. `cpu_count`: with the
    profile by which programs count the CPUs of the limit.
    """

    name: str
    title: str
    description: str = ""
    groups: tuple[str, ...] = ()
    default: bool = False
    cpu_limit: float | None = None
    cpu_guarantee: float | None = None
    mem_limit: str | None = None
    mem_guarantee: str | None = None
    gpu: Gpu | None = None
    image: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu_count: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the node, below the mounts, for members of `groups` (empty: everybody)."""

    name: str
    host_path: str
    mount_path: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The user's own directory of tokens. `uid_field`: where in auth_state the user's number is.
    `eos`, `bearer`: names of files in it; empty: there is none of this kind.
    """

    uid_field: tuple[str, ...]
    directory: str = TOKENS
    mount_path: str = TOKENS_IN_POD
    eos: str = ""
    bearer: str = ""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Where to ask. `matchers`: labels that our series have there, such as a cluster's."""

    url: str
    matchers: Mapping[str, str] = field(default_factory=dict)
    token_file: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Availability:
    """From where it is known what is free, and for how many seconds that is good. Without both
    sources nothing is said of it.
    """

    prometheus: Prometheus | None = None
    nodes: bool = False
    keep_s: float = KEEP_S
    timeout_s: float = TIMEOUT_S
    stale_s: float = STALE_S


@dataclass(frozen=True, slots=True)
class CpuCount:
    """The seccomp profile of the view agent, and the label of the nodes that have it."""

    profile: str = CPU_COUNT_PROFILE
    node_label: str = CPU_COUNT_LABEL


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. `root`: where the nodes have their mounts."""

    instances: tuple[Instance, ...]
    root: str = ROOT
    mounts: tuple[Mount, ...] = ()
    tokens: Tokens | None = None
    availability: Availability = field(default_factory=Availability)
    cpu_count: CpuCount | None = None
    threads: bool = True
    limit_annotation: str = LIMIT_ANNOTATION
