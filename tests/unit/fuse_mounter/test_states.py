# SPDX-License-Identifier: Apache-2.0
"""Every state of a mount, by what is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.holder_client import Ended
from agents.processes import ProcessKey
from fuse_mounter.observed import Client, Health, Instance, Layer, Shown, Stack
from fuse_mounter.plan import Want
from fuse_mounter.states import Cause, Judgement, State, judge

SHOWN = Shown((0, 51), "/", False)
OLD = Shown((0, 40), "/", False)
WANT = Want("eos", "eos", "ab")
RUNNING = Client(ProcessKey(7, 70))
EMPTY = Stack("eos", 30)
SERVED = Stack("eos", 30, (Layer(32, SHOWN, True),))
LOST = Stack("eos", 30, (Layer(32, OLD, True),))


def instance(
    client: Client | None = RUNNING,
    shown: Shown | None = SHOWN,
    health: Health = Health.OK,
    digest: str = "ab",
) -> Instance:
    return Instance("eos@ab.1", "eos", digest, 1, client=client, shown=shown, health=health)


@pytest.mark.parametrize(
    ("stack", "there", "judgement"),
    [
        pytest.param(
            EMPTY,
            [],
            Judgement(
                State.ABSENT,
                "pods see a read-only place with nothing in it",
                Cause.CLIENT_ENDED,
            ),
            id="absent",
        ),
        pytest.param(
            EMPTY,
            [instance(shown=None)],
            Judgement(State.STARTING, recovery=Cause.UNMOUNTED),
            id="starting",
        ),
        pytest.param(SERVED, [instance()], Judgement(State.PUBLISHED), id="published"),
        pytest.param(
            SERVED,
            [instance(health=Health.UNKNOWN)],
            Judgement(State.PUBLISHED),
            id="published, not probed yet",
        ),
        pytest.param(
            SERVED,
            [instance(health=Health.FAULTY)],
            Judgement(State.DEGRADED, "it answers with an error"),
            id="faulty",
        ),
        pytest.param(
            SERVED,
            [replace(instance(), fault="no heartbeat")],
            Judgement(State.DEGRADED, "no heartbeat"),
            id="answers, and tells of trouble",
        ),
        pytest.param(
            SERVED,
            [instance(digest="cd")],
            Judgement(
                State.DEGRADED, "the new configuration is not in effect: it is being replaced"
            ),
            id="old configuration",
        ),
        pytest.param(
            Stack("eos", None, SERVED.layers),
            [instance()],
            Judgement(State.DEGRADED, "there is no read-only anchor below it"),
            id="no anchor",
        ),
        pytest.param(
            SERVED,
            [instance(health=Health.HUNG)],
            Judgement(State.HUNG, "it does not answer", Cause.HUNG),
            id="hung",
        ),
        pytest.param(
            SERVED,
            [instance(client=Client(ProcessKey(7, 70), Ended(-9)))],
            Judgement(State.DEAD, "killed", Cause.CLIENT_ENDED),
            id="client ended",
        ),
        pytest.param(
            SERVED,
            [instance(health=Health.DEAD)],
            Judgement(State.DEAD, "killed", Cause.CONNECTION_ABORTED),
            id="connection aborted",
        ),
        pytest.param(
            LOST,
            [instance(shown=None)],
            Judgement(State.DEAD, "killed", Cause.CLIENT_ENDED),
            id="the next client is on its way",
        ),
        pytest.param(
            Stack("eos", 30, (Layer(40, OLD, False, "ext4 '/dev/sdb'"),)),
            [instance()],
            Judgement(State.DEGRADED, "covered by another mount: ext4 '/dev/sdb'"),
            id="covered",
        ),
        pytest.param(
            Stack("eos", obstacle="a symlink"),
            [],
            Judgement(State.FAILED, "a symlink"),
            id="obstacle",
        ),
    ],
)
def test_state(stack: Stack, there: list[Instance], judgement: Judgement) -> None:
    assert judge(WANT, stack, there, ended="killed") == judgement


def test_a_problem_of_the_machine_fails_a_mount_that_is_not_there() -> None:
    want = Want("eos", "eos", "ab", problem="no device")
    assert judge(want, EMPTY, []) == Judgement(State.FAILED, "no device")
    assert judge(want, SERVED, [instance()]).state is State.PUBLISHED


def test_a_mount_that_never_starts_has_failed() -> None:
    assert judge(WANT, EMPTY, [], failing="no such server").state is State.FAILED
    assert judge(WANT, EMPTY, [], failing="no such server").cause == "no such server"
