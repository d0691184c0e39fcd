# SPDX-License-Identifier: Apache-2.0
"""From mount tables and clients to an observation."""

from __future__ import annotations

from pathlib import Path

from agents.holder_client import Ended, HeldClient
from agents.mountinfo import parse
from agents.processes import ProcessKey
from fuse_mounter.observe import Facts, observe
from fuse_mounter.observed import Client, Health, Observation, Shown, Stack
from fuse_mounter.places import Places

PLACES = Places(Path("/m"), Path("/r"))
STAGING = "/r/mounts/staging"
KEY = ProcessKey(7, 70)

ROOT = "20 1 8:1 /m /m rw shared:1 - ext4 /dev/sda rw"
ANCHOR = "30 20 0:50 / /m/eos ro shared:2 - tmpfs nodeshare-anchor ro"
STAGED = f"31 20 0:51 / {STAGING}/eos@ab.1 rw - fuse.x nodeshare:eos rw"
LAYER = "32 30 0:51 / /m/eos rw shared:3 - fuse.x nodeshare:eos rw"
OURS = Shown((0, 51), "/", False)


def seen(
    *table: str,
    staging: tuple[str, ...] = ("eos@ab.1",),
    clients: tuple[HeldClient, ...] = (),
    paths: tuple[str, ...] = ("eos",),
) -> Observation:
    facts = Facts(
        table=parse("\n".join(table)),
        staging=staging,
        clients=clients,
        health={"eos@ab.1": Health.OK},
        paths=paths,
        obstacles={"odd": "a symlink"},
        sources={"home": "server:/home"},
    )
    return observe(PLACES, facts)


def client(staging: str = f"{STAGING}/eos@ab.1", ended: Ended | None = None) -> HeldClient:
    return HeldClient(KEY, {"NODESHARE_MOUNT": "eos", "NODESHARE_STAGING": staging}, ended)


def test_a_published_mount() -> None:
    observation = seen(ROOT, ANCHOR, STAGED, LAYER, clients=(client(),))
    assert observation.root_ready
    (instance,) = observation.instances
    assert (instance.name, instance.digest, instance.number) == ("eos", "ab", 1)
    assert instance.client == Client(KEY)
    assert (instance.shown, instance.health) == (OURS, Health.OK)
    stack = observation.stack("eos")
    assert stack.anchor == 30
    assert stack.top is not None
    assert (stack.top.shown, stack.top.ours) == (OURS, True)


def test_a_client_says_how_long_it_may_take_to_end() -> None:
    for said, understood in (("130", 130.0), ("long", None)):
        held = HeldClient(KEY, {**client().labels, "NODESHARE_END_LIMIT": said}, None)
        (instance,) = seen(ROOT, ANCHOR, STAGED, LAYER, clients=(held,)).instances
        assert instance.client == Client(KEY, None, understood)


def test_the_root_must_be_shared() -> None:
    assert not seen(ROOT.replace(" shared:1", "")).root_ready
    assert not seen().root_ready


def test_what_was_slipped_beneath_lies_beneath() -> None:
    """Since kernel 6.8 the table is in the order of making: the newer mount 40 is below 32."""
    new = "40 30 0:60 / /m/eos rw shared:4 - fuse.x nodeshare:eos rw"
    old = LAYER.replace("32 30", "32 40")
    ids = [layer.mount_id for layer in seen(ROOT, ANCHOR, old, new).stack("eos").layers]
    assert ids == [40, 32]


def test_a_mount_by_somebody_else_is_not_ours() -> None:
    foreign = "33 32 8:2 / /m/eos rw - ext4 /dev/sdb rw"
    stack = seen(ROOT, ANCHOR, STAGED, LAYER, foreign, clients=(client(),)).stack("eos")
    assert [layer.ours for layer in stack.layers] == [True, False]
    assert stack.top is not None
    assert "/dev/sdb" in stack.top.description


def test_without_an_anchor_a_mount_at_our_place_is_not_ours() -> None:
    foreign = "33 20 8:2 / /m/eos rw - ext4 /dev/sdb rw"
    stack = seen(ROOT, foreign, staging=()).stack("eos")
    assert stack.anchor is None
    assert [layer.ours for layer in stack.layers] == [False]


def test_a_dead_layer_of_an_agent_before_us_is_ours() -> None:
    rclone = "32 30 0:77 / /m/eos rw shared:3 - fuse.rclone remote: rw"
    assert seen(ROOT, ANCHOR, rclone, staging=()).stack("eos").layers[0].ours


def test_anchors_of_mounts_that_are_no_longer_configured_are_found() -> None:
    assert set(seen(ROOT, ANCHOR, paths=("other",)).stacks) == {"eos", "other"}


def test_a_client_whose_staging_is_gone_was_replaced() -> None:
    (instance,) = seen(ROOT, staging=(), clients=(client(),)).instances
    assert (instance.present, instance.running) == (False, True)


def test_an_ended_client_is_known_as_that() -> None:
    (instance,) = seen(ROOT, clients=(client(ended=Ended(-9)),)).instances
    assert (instance.present, instance.running) == (True, False)


def test_clients_of_other_agents_and_other_directories_are_not_ours() -> None:
    others = (
        client(staging="/elsewhere/eos@ab.1"),
        HeldClient(KEY, {"NODESHARE_LISTENER": "x"}),
        client(staging=f"{STAGING}/not a staging name"),
    )
    observation = seen(ROOT, clients=others, staging=("anchor", "lost+found"))
    assert observation.instances == ()


def test_an_obstacle_is_told() -> None:
    assert seen(ROOT, paths=("odd",)).stack("odd") == Stack("odd", obstacle="a symlink")


def test_an_older_layer_of_the_same_export_is_ours() -> None:
    anchor = ANCHOR.replace("/m/eos", "/m/home")
    first = "32 30 0:52 / /m/home rw shared:3 - nfs4 server:/home rw"
    second = "33 32 0:53 / /m/home rw shared:4 - nfs4 server:/home rw"
    other = "34 33 0:54 / /m/home rw shared:5 - nfs4 other:/home rw"
    stack = seen(ROOT, anchor, first, second, other, paths=("home",)).stack("home")
    assert [layer.ours for layer in stack.layers] == [True, True, False]
