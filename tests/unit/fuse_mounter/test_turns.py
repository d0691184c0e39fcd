# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to begin."""

from __future__ import annotations

from agents.processes import ProcessKey
from fuse_mounter import steps
from fuse_mounter.observed import Client, Instance, Observation
from fuse_mounter.plan import Want
from fuse_mounter.turns import BUSY_S, beginning, in_turn

NOTHING = Observation(True)


def want(name: str, server: str | None = None) -> Want:
    return Want(name, name, "ab", server=server)


def starts(*wants: Want) -> list[steps.Action]:
    return [steps.Start(one.name) for one in wants]


def begun(name: str, age_s: float = 0.0, *, pending: bool = False) -> Instance:
    client = None if pending else Client(ProcessKey(7, 70))
    return Instance(f"{name}@ab.1", name, "ab", 1, client=client, pending=pending, age_s=age_s)


def test_so_many_begin_at_once_and_the_others_wait() -> None:
    wants = [want(name) for name in "abcd"]
    other = steps.PlaceAnchor("x")
    kept, waiting = in_turn([other, *starts(*wants)], wants, NOTHING, 3)
    assert kept == [other, *starts(*wants[:3])]
    assert waiting == {"d"}
    # A client, and a mount that the kernel is asked for: both take a turn.
    seen = Observation(True, {}, (begun("a"), begun("b", pending=True)))
    assert beginning(wants, seen) == {"a", "b"}
    assert in_turn(starts(*wants[2:]), wants, seen, 3) == (starts(wants[2]), frozenset("d"))


def test_what_takes_long_is_in_nobodys_way() -> None:
    wants = [want(name) for name in "abc"]
    slow = Observation(True, {}, (begun("a", BUSY_S), begun("b", BUSY_S, pending=True)))
    assert beginning(wants, slow) == frozenset()
    assert in_turn(starts(wants[2]), wants, slow, 1) == (starts(wants[2]), frozenset())


def test_a_server_with_many_mounts_leaves_turns_to_others() -> None:
    away = [want(f"a{number}", "away") for number in range(10)]
    wants = [*away, want("b", "well")]
    kept, waiting = in_turn(starts(*wants), wants, NOTHING, 4)
    assert kept == starts(*away[:3], wants[-1])
    assert len(waiting) == 7
    # Alone it does not take the last turn either: who comes next need not wait for it.
    assert in_turn(starts(*away), away, NOTHING, 4)[0] == starts(*away[:3])
    assert in_turn(starts(*away), away, NOTHING, 1)[0] == starts(away[0])
    # What has been under way for long takes no turn, and still lets others go first.
    slow = Observation(True, {}, (begun("a0", BUSY_S),))
    assert in_turn(starts(*away[1:], wants[-1]), wants, slow, 1)[0] == starts(wants[-1])
