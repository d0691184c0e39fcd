# SPDX-License-Identifier: Apache-2.0
"""What is there: mounts, clients and their health, as values. Pure; who looked, and how, is in
`observe`.

An *instance* is one start of a mount: a staging directory, what is mounted there, and the client
that serves it (if its driver has one). A *layer* is a mount at the place that pods see. They belong
together when they show the same file system: nothing is remembered that the kernel does not know.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.holder_client import Ended
from agents.processes import ProcessKey


class Health(enum.Enum):
    """Of an instance, as its last probe saw it."""

    UNKNOWN = "unknown"
    OK = "ok"
    FAULTY = "faulty"  # it answers, with an error
    DEAD = "dead"  # nobody serves it any more
    STALE = "stale"  # its server does not know it any more (ESTALE): only a new mount helps
    HUNG = "hung"  # no answer within the limit


@dataclass(frozen=True, slots=True)
class Shown:
    """What a mount shows: two mounts with equal values are the same to whoever looks.

    `tells_root` False: the mount table says `/` for every part of this file system, as it does for
    NFS, and the values are equal for different folders.
    """

    device: tuple[int, int]
    root: str
    read_only: bool
    tells_root: bool = True


@dataclass(frozen=True, slots=True)
class Layer:
    """A mount above the anchor. `ours`: made by an agent, so it may be taken away."""

    mount_id: int
    shown: Shown
    ours: bool
    description: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """What lies at one path below the root. `anchor`: mount id of the read-only bottom (None: there
    is none). `layers`: above it, bottom first. `obstacle`: why nothing can be mounted here.
    """

    path: str
    anchor: int | None = None
    layers: tuple[Layer, ...] = ()
    obstacle: str | None = None

    @property
    def top(self) -> Layer | None:
        return self.layers[-1] if self.layers else None


@dataclass(frozen=True, slots=True)
class Client:
    """The process of an instance; `ended` None while it runs. `end_limit_s`: how long it may take
    to end when it is asked to; None: it was not said.
    """

    key: ProcessKey
    ended: Ended | None = None
    end_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One start of a mount. `staging` is the name of its directory.

    `mount_id`: of what is staged. `present`: that directory is there; a client without one was
    replaced and ends with its last open file. `pending`: the kernel is being asked to mount there.
    `age_s`: for how long it has been present, or gone, as far as this agent knows; `overdue`: for
    too long to be starting, or ending. `abandoned`: it was replaced, and will not end by itself.
    `fault`: what is wrong with it, in words. `turned_read_only`: by the kernel, after it was
    mounted.
    """

    staging: str
    name: str
    digest: str
    number: int
    present: bool = True
    client: Client | None = None
    shown: Shown | None = None
    mount_id: int | None = None
    health: Health = Health.UNKNOWN
    fault: str = ""
    overdue: bool = False
    abandoned: bool = False
    age_s: float = 0.0
    pending: bool = False
    turned_read_only: bool = False

    @property
    def running(self) -> bool:
        return self.client is not None and self.client.ended is None

    @property
    def gone(self) -> bool:
        """Its client has ended."""
        return self.client is not None and self.client.ended is not None

    @property
    def useless(self) -> bool:
        """Whoever looks into it gets errors, and nothing but another mount changes that."""
        return self.gone or self.health in (Health.DEAD, Health.STALE)

    @property
    def under_way(self) -> bool:
        """It begins: not mounted yet, or not known to answer."""
        begins = self.shown is None or self.health is Health.UNKNOWN
        return self.present and not self.useless and begins


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything, at one moment. `root_ready`: the root is its own mount, and shared."""

    root_ready: bool
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()

    def of(self, name: str) -> tuple[Instance, ...]:
        return tuple(one for one in self.instances if one.name == name)

    def stack(self, path: str) -> Stack:
        return self.stacks.get(path) or Stack(path)
