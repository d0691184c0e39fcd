# SPDX-License-Identifier: Apache-2.0
"""Entries of `publish`: what is refused and how, access control lists, and plans with them."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents import config
from agents.errors import ConfigError
from fuse_mounter import posix_acl, steps
from fuse_mounter.config import MounterConfig
from fuse_mounter.folder_process import Answer, Request, look_after
from fuse_mounter.observed import Health, Instance, Layer, Observation, Shown, Stack
from fuse_mounter.plan import Want, plan
from fuse_mounter.posix_acl import Entry, Tag
from fuse_mounter.publication import Publication
from fuse_mounter.states import Judgement, State, everywhere

SHARED = "path: shared, folder: public"


def problems(*publish: str, mount: str = "") -> str:
    entries = "".join(f"      - {{{entry}}}\n" for entry in publish)
    text = (
        "fuse_mounter:\n  mounts:\n"
        f"  - name: data\n    driver: bind\n    source: /srv/data\n    path: data\n{mount}"
        f"    publish:\n{entries}"
    )
    with pytest.raises(ConfigError) as raised:
        config.parse(text, {"fuse_mounter": MounterConfig})
    return str(raised.value)


@pytest.mark.parametrize(
    ("publish", "said"),
    [
        (["path: /abs"], "'/abs' is not a path below the root; write such as 'shared/public'"),
        (["path: a/../.."], "is not a path below the root"),
        (["path: data/inner"], "overlap; give them separate paths"),
        (["path: x", "path: x/y"], "'data' at 'x/y' and 'data' at 'x' overlap"),
        (["path: x, folder: ../etc"], "'../etc' is not a path below the top of the mount"),
        (["path: x, folder: /etc"], "'/etc' is not a path below the top of the mount"),
        (
            [f"{SHARED}, mode: 2770"],
            '2770 is not a mode; write it octal and quoted, such as "2770"',
        ),
        ([f"{SHARED}, mode: '999'"], "'999' is not a mode"),
        ([f"{SHARED}, mode: u+rwx"], "'u+rwx' is not a mode"),
        ([f"{SHARED}, owner: -1"], "-1 is neither a name nor an id; write such as root or 1000"),
        ([f"{SHARED}, owner: true"], "True is neither a name nor an id"),
        ([f"{SHARED}, group: 'a b'"], "'a b' is neither a name nor an id"),
        (["path: x, create: true"], "create needs a folder"),
        (
            [f"{SHARED}, default_acl: ['user:ada']"],
            "'user:ada' is not an entry; write user:NAME:rwx",
        ),
        ([f"{SHARED}, default_acl: ['u:ada:rwz']"], "'rwz' are not permissions; write such as r-x"),
        ([f"{SHARED}, default_acl: ['u:ada:']"], "'' are not permissions"),
        ([f"{SHARED}, default_acl: ['mask:ada:r']"], "'mask' takes no name; write mask::r"),
        ([f"{SHARED}, default_acl: ['u:7:r', 'user:7:w']"], "two entries are about user '7'"),
        ([f"{SHARED}, colour: red"], "colour: "),
    ],
)
def test_what_is_refused(publish: list[str], said: str) -> None:
    text = problems(*publish)
    assert said in text
    assert "publish" in text or "overlap" in text


def test_what_writes_needs_a_mount_that_can_be_written() -> None:
    for key in ("owner: root", "mode: '0755'", "create: true", "default_acl: []"):
        text = problems(f"{SHARED}, {key}", mount="    read_only: true\n")
        assert "let the mount be writable and publish it read_only" in text


def test_a_name_is_no_reason_for_another_client() -> None:
    mount: dict[str, Any] = {"name": "a", "driver": "bind", "path": "a", "source": "/srv"}
    other = {**mount, "publish": [{"path": "b", "folder": "c", "owner": 0}]}
    first, second = (
        MounterConfig.model_validate({"mounts": [m]}).mounts[0] for m in (mount, other)
    )
    assert first.digest == second.digest
    assert second.paths == ("a", "b")


def test_an_acl_becomes_what_the_kernel_keeps() -> None:
    words = ["group:20:r-x", "user:7:rwx", "user:3:--x", "o:r"]
    entries = posix_acl.complete([posix_acl.parse(word) for word in words], 0o2750)
    value = posix_acl.encode(entries, lambda tag, who: int(who))
    head, rows = value[:4], list(struct.iter_unpack("<HHI", value[4:]))
    nobody = 0xFFFFFFFF
    assert struct.unpack("<I", head) == (2,)
    assert rows == [
        (Tag.USER_OBJ, 7, nobody),
        (Tag.USER, 1, 3),
        (Tag.USER, 7, 7),
        (Tag.GROUP_OBJ, 5, nobody),
        (Tag.GROUP, 5, 20),
        (Tag.MASK, 7, nobody),
        (Tag.OTHER, 4, nobody),
    ]


def test_without_named_entries_there_is_no_mask() -> None:
    entries = posix_acl.complete([posix_acl.parse("group::rwx")], 0o700)
    assert {entry.tag for entry in entries} == {Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER}
    assert Entry(Tag.OTHER, 0) in entries


WHOLE = Shown((0, 51), "/", False)
FOLDER = Shown((0, 51), "/public", True)
ONE = Instance("eos@ab.1", "eos", "ab", 1, shown=WHOLE, health=Health.OK)
PUBLIC = Publication("public", "public", read_only=True)
WANT = Want("eos", "eos", "ab", has_client=False, also=(PUBLIC,))
READY = replace(WANT, also=(replace(PUBLIC, ready=frozenset({"eos@ab.1"})),))


def seen(*instances: Instance, public: Shown | None = None, **stack: Any) -> Observation:
    layers = (Layer(9, public, ours=True),) if public else ()
    stacks = {
        "eos": Stack("eos", 1, (Layer(2, WHOLE, ours=True),)),
        "public": Stack("public", 3, layers, **stack),
    }
    return Observation(True, stacks, instances or (ONE,))


def test_a_folder_is_published_once_a_copy_is_at_hand() -> None:
    assert plan([WANT], seen()) == []
    publish = steps.Publish("eos", "eos@ab.1", "public", None)
    assert plan([READY], seen()) == [publish]
    paused = replace(READY, also=(replace(READY.also[0], paused=True),))
    assert plan([paused], seen()) == []
    assert plan([READY], seen(public=FOLDER)) == []
    assert plan([READY], seen(obstacle="a symlink")) == []


def test_every_name_has_a_place_from_the_first_moment() -> None:
    nothing = Observation(True, {}, ())
    placed = [step for step in plan([WANT], nothing) if isinstance(step, steps.PlaceAnchor)]
    assert [step.path for step in placed] == ["eos", "public"]


def test_an_instance_is_kept_until_it_is_replaced_everywhere() -> None:
    old = replace(ONE, staging="eos@old.1", digest="old", shown=Shown((0, 40), "/", False))
    new = replace(ONE, staging="eos@ab.2", number=2)
    old_folder = Shown((0, 40), "/public", True)
    assert plan([WANT], seen(old, new, public=old_folder)) == []
    retire = [steps.Retire("eos@old.1")]
    assert plan([WANT], seen(old, new, public=FOLDER)) == retire
    stuck = replace(WANT, also=(replace(PUBLIC, problem="there is no 'public'"),))
    assert plan([stuck], seen(old, new, public=old_folder)) == retire


def test_a_name_that_is_not_wanted_goes() -> None:
    assert plan([replace(WANT, also=())], seen(public=FOLDER)) == [steps.DetachTop("public", 9)]


def test_a_mount_is_as_well_as_all_its_names() -> None:
    good = Judgement(State.PUBLISHED)
    assert everywhere(good, WANT, seen(public=FOLDER)) == good
    assert everywhere(good, WANT, seen()) == good, "on its way"
    bad = replace(WANT, also=(replace(PUBLIC, problem="no such folder"),))
    for want, observation, said in (
        (WANT, seen(obstacle="a symlink"), "'public': a symlink"),
        (bad, seen(public=FOLDER), "'public': no such folder"),
    ):
        judged = everywhere(good, want, observation)
        assert (judged.state, judged.cause) == (State.DEGRADED, said)
    failed = Judgement(State.FAILED, "no device")
    assert everywhere(failed, WANT, seen()) == failed


def test_what_a_copy_shows() -> None:
    local = Shown((8, 1), "/srv/data", False)
    assert PUBLIC.shows(local) == Shown((8, 1), "/srv/data/public", True)
    assert PUBLIC.shows(None) is None
    assert Publication("a").shows(local) == local
    assert Path(PUBLIC.shows(WHOLE).root) == Path("/public")  # type: ignore[union-attr]  # it is one


def test_where_the_table_does_not_tell_folders_apart_another_one_is_found_out() -> None:
    whole = replace(WHOLE, tells_root=False)
    one, shown = replace(ONE, shown=whole), PUBLIC.shows(whole)
    assert shown == replace(whole, read_only=True), "as the table has it"
    observation = seen(one, public=shown)
    stacks = {**observation.stacks, "eos": Stack("eos", 1, (Layer(2, whole, ours=True),))}
    observation = replace(observation, stacks=stacks)
    assert plan([READY], observation) == []
    elsewhere = replace(READY, also=(replace(READY.also[0], elsewhere=True),))
    top = observation.stack("public").top
    assert plan([elsewhere], observation) == [steps.Publish("eos", "eos@ab.1", "public", top)]


def test_what_is_seen_is_compared_by_inode(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("a")
    request = Request(proc="/proc", top=str(tmp_path), folder="a", published=str(tmp_path / "a"))
    assert look_after(request) == (Answer(), [])
    other = replace(request, published=str(tmp_path / "b"))
    assert look_after(other)[0].elsewhere
    for folder, said in {
        "link": "'link' is a symlink; remove it, or publish another folder",
        "a/c": "there is no 'a/c'; make it, or say create: true",
    }.items():
        assert look_after(replace(request, folder=folder))[0].problem == said
    made = look_after(replace(request, folder="a/c/d", create=True, published=None))[0]
    assert (made.problem, made.mended) == (None, ("folder", "folder"))
    assert (tmp_path / "a/c/d").stat().st_mode & 0o777 == 0o700
    for gone, said in {
        replace(
            request, mount_id=0, create=True, folder="never"
        ): "another mount lies there by now",
        replace(request, top=str(tmp_path / "never")): "it is not mounted any more",
    }.items():
        assert look_after(gone) == (Answer(said, left=True), [])
    assert not (tmp_path / "never").exists(), "it would be made on the node's own disk"
