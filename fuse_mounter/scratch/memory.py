# SPDX-License-Identifier: Apache-2.0
"""What has to be known from one run to the next: when all was listed, and from when on the owner of
a folder was told of what goes from it. Pure; where it lies is in `private`.

Folders are known by a hash of 64 bits, so that a hundred thousand of them take ten megabytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

#: A clock that moved by more than another clock is wrong, or was.
CLOCK_LIMIT_S = 3600.0
#: So many times of listings are enough to say when a file was first told of.
_MOST_LISTINGS = 1000


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by the clock that may be set (seconds of the epoch), and by the one that cannot (seconds
    since this boot).
    """

    wall: float
    boot: str
    since_boot: float

    def agrees_with(self, earlier: Moment) -> bool:
        """Whether the clock has just run on between the two. Nobody can say after another boot."""
        if self.boot != earlier.boot:
            return True
        went, should = self.wall - earlier.wall, self.since_boot - earlier.since_boot
        return abs(went - should) <= CLOCK_LIMIT_S


@dataclass(frozen=True, slots=True)
class Memory:
    """`told`: from when on, by `folder_key`. `last`: the last run that told everybody, by the rule
    with this digest; None: there was none. `listings`: when such runs were, seconds of the epoch,
    the earliest first.
    """

    digest: str
    last: Moment | None = None
    listings: tuple[float, ...] = ()
    told: Mapping[int, float] = field(default_factory=dict)

    def usable(self, digest: str, now: Moment, longest_pause_s: float) -> Memory:
        """This memory, or an empty one where it is of another rule, of too long ago (whoever was
        told then has forgotten), or a clock was set since: that must not make files old at once.
        """
        if self.digest != digest or self.last is None or not now.agrees_with(self.last):
            return Memory(digest)
        return self if now.wall - self.last.wall <= longest_pause_s else Memory(digest)

    def after(self, now: Moment, told: Mapping[int, float], grace_s: float) -> Memory:
        """When a run is over that began now."""
        kept = list(self.listings)
        if not kept or now.wall - kept[-1] >= grace_s / _MOST_LISTINGS:
            kept.append(now.wall)
        # Of those that are older than the grace the last one says all.
        first = max(0, bisect_left(kept, now.wall - grace_s) - 1)
        return replace(self, last=now, listings=tuple(kept[first:]), told=dict(told))

    def told_of(self, instant: float, now: float) -> float:
        """The first listing that held what was to be told from `instant` on; `now` is one."""
        position = bisect_left(self.listings, instant)
        return self.listings[position] if position < len(self.listings) else now


def folder_key(inode: int, path: str) -> int:
    """Differs for another folder in the same place, and for the same one in another."""
    name = f"{inode}:".encode() + os.fsencode(path)
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def encode(memory: Memory) -> str:
    """As a file. Folders that were told of in the same run stand together."""
    by_time: dict[float, array[int]] = {}
    for key, since in memory.told.items():
        by_time.setdefault(since, array("Q")).append(key)
    last = memory.last
    return json.dumps(
        {
            "digest": memory.digest,
            "last": None if last is None else [last.wall, last.boot, last.since_boot],
            "listings": memory.listings,
            "told": {
                repr(since): base64.b64encode(keys.tobytes()).decode()
                for since, keys in by_time.items()
            },
        }
    )


def decode(text: str) -> Memory:
    """Raises ValueError, KeyError or TypeError when it is not such a file."""
    kept = json.loads(text)
    wall, boot, since_boot = kept["last"]
    told: dict[int, float] = {}
    for since, keys in kept["told"].items():
        numbers = array("Q")
        numbers.frombytes(base64.b64decode(keys, validate=True))
        told.update(dict.fromkeys(numbers, float(since)))
    return Memory(
        str(kept["digest"]),
        Moment(float(wall), str(boot), float(since_boot)),
        tuple(float(at) for at in kept["listings"]),
        told,
    )
