# SPDX-License-Identifier: Apache-2.0
"""Whether an offer fits somewhere now, as far as is known. Pure; knows not who tells it.

What counts is the largest free block of one device, never the sum over a node or a cluster: a
request is served by one device. Whatever is said here is a hint to a person and to the scheduler;
nothing is refused by it, because it is old the moment it is read.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from nodeshare_hub.choice import Offer

#: From this age on (seconds), it is said how old a reading is.
_WORTH_SAYING_S = 45.0
_FULL = "it starts when others end, or fails to start"
#: So many nodes are recommended to the scheduler at most.
_HINTS = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Free units of a resource. `node`: where; None: somewhere in the cluster. `block`: the largest
    request that one device can take. `labels`: of the node; None: not known.
    """

    node: str | None
    block: int
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was told, by resource; `at`: when it was true (seconds of the epoch)."""

    at: float
    places: Mapping[str, tuple[Place, ...]]


class State(enum.Enum):
    """What is known of an offer."""

    FREE = "free"
    FULL = "full"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`text` is for people; `nodes` are where it fits, the tightest first."""

    state: State
    text: str
    nodes: tuple[str, ...] = ()


def judge(offer: Offer, reading: Reading | None, *, now: float, stale_s: float) -> Verdict | None:
    """None: it needs nothing that could be lacking."""
    gpu = offer.gpu
    if gpu is None:
        return None
    if reading is None:
        return Verdict(State.UNKNOWN, "not known at the moment whether it is free")
    age = max(0.0, now - reading.at)
    if age > stale_s:
        return Verdict(State.UNKNOWN, f"not known whether it is free: last told {_ago(age)}")
    told = reading.places.get(gpu.resource, ())
    wanted = offer.instance.node_selector.items()
    places = [one for one in told if one.labels is None or wanted <= one.labels.items()]
    when = f" ({_ago(age)})" if age >= _WORTH_SAYING_S else ""
    if not places:
        return Verdict(State.UNKNOWN, f"no node tells of it now{when}")
    fitting = [one for one in places if one.block >= offer.units]
    if not fitting:
        block = max(one.block for one in places)
        largest = f"{gpu.amount(block)} at most are free" if block > 0 else "all of it is taken"
        return Verdict(State.FULL, f"no room now, {largest}{when}: {_FULL}")
    named = sorted((one.block, one.node) for one in fitting if one.node is not None)
    nodes = tuple(node for _, node in named)
    where = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    return Verdict(State.FREE, f"free now{where}{when}", nodes[:_HINTS])


def _ago(age: float) -> str:
    if age < 90:
        return f"{age:.0f} seconds ago"
    if age < 5400:
        return f"{age / 60:.0f} minutes ago"
    return f"{age / 3600:.0f} hours ago"
