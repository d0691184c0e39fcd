# SPDX-License-Identifier: Apache-2.0
"""What a node's Events say of mounts."""

from __future__ import annotations

import pytest

from fuse_mounter.node_events import event_of
from fuse_mounter.standing import Transition
from fuse_mounter.states import State


@pytest.mark.parametrize("after", State)
def test_every_state_but_one_that_passes_by_itself_is_told(after: State) -> None:
    event = event_of(Transition("eos", State.PUBLISHED, after, "why"), "node-1", 5.0)
    if after is State.STARTING:
        assert event is None
        return
    assert event is not None
    assert (event.pod, event.namespace, event.about_node) == ("node-1", "default", True)
    assert event.message == f"mount eos: published -> {after.value}: why"
    assert event.reason == f"Mount{after.value.capitalize()}"
    assert event.normal is (after in (State.PUBLISHED, State.DRAINING, State.ABSENT))
