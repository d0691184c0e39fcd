# SPDX-License-Identifier: Apache-2.0
"""How a container bound the root: from its mount table, and in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.mountinfo import MountEntry, at, parse
from agents.processes import ProcessKey
from fuse_mounter import pod_metrics
from fuse_mounter.attached import Attached, recovers, sentence, tables, troubled
from fuse_mounter.bindings import Binding, Bound, Exposed, Link, NodeSide, Past, Sight, find
from fuse_mounter.observed import Health

ROOT = "20 1 8:1 /var/m /m rw shared:7 - ext4 /dev/sda rw"
ANCHOR = "30 20 0:50 / /m/eos ro shared:8 - tmpfs nodeshare-anchor ro"
LAYER = "31 30 0:51 / /m/eos rw shared:9 - fuse.eosxd eos rw"
DATA_ANCHOR = "40 20 0:60 / /m/lab/data ro shared:10 - tmpfs nodeshare-anchor ro"
DATA = "41 40 8:1 /srv/data /m/lab/data rw shared:11 - ext4 /dev/sda rw"
HOST = parse("\n".join([ROOT, ANCHOR, LAYER, DATA_ANCHOR, DATA]))
POD_ROOT = "100 1 0:99 / / rw - overlay overlay rw"


def exposed(path: str, mount: str, root: str = "/") -> Exposed:
    stack = at(HOST, f"/m/{path}")
    return Exposed(path, mount, root, stack[0], stack[-1])


EOS, LAB = exposed("eos", "eos"), exposed("lab/data", "data", "/srv/data")
NODE = NodeSide(HOST[0], (EOS, LAB), {}, {(0, 44): Past("eos", "fuse.eosxd", "eos")})


def bindings(*lines: str, node: NodeSide = NODE) -> tuple[Binding, ...]:
    return find(node, parse("\n".join([POD_ROOT, *lines])))


def one(*lines: str, node: NodeSide = NODE) -> Binding:
    (binding,) = bindings(*lines, node=node)
    return binding


def attached(*found: Binding, **health: Health) -> Attached:
    by_place = {f"/{name}": value for name, value in health.items()}
    return Attached(ProcessKey(7, 70), 1, "sh", "lab/anna", "notebook", found, by_place)


def slave(line: str, mount_id: int, parent: int, place: str, link: str = "master") -> str:
    """A copy in the pod of one of the node's mounts."""
    fields = line.split()
    fields[0], fields[1], fields[4] = str(mount_id), str(parent), place
    group = fields[6].partition(":")[2]
    fields[6:7] = [f"{link}:{group}"] if link else []
    return " ".join(fields)


WHOLE = (
    slave(ROOT, 101, 100, "/data"),
    slave(ANCHOR, 102, 101, "/data/eos"),
    slave(LAYER, 103, 102, "/data/eos"),
    slave(DATA_ANCHOR, 104, 101, "/data/lab/data"),
    slave(DATA, 105, 104, "/data/lab/data"),
)
#: The mount itself, and a folder in it: what remains of them when the client was replaced.
ITSELF = slave(LAYER, 101, 100, "/eos")
LOST = ITSELF.replace("0:51", "0:44").replace("master:9 ", "")


def test_the_root_with_host_to_container_follows() -> None:
    binding = one(*WHOLE)
    assert (binding.place, binding.what, binding.bound) == ("/data", "", Bound.PARENT)
    assert (binding.link, recovers(binding)) == (Link.HOST_TO_CONTAINER, True)
    assert {view.sight for view in binding.views} == {Sight.CURRENT}
    assert "recoveries reach it" in sentence(attached(binding), binding, Path("/m"))


def test_a_folder_of_the_root_shows_what_lies_in_it_alone() -> None:
    folder = slave(ROOT, 101, 100, "/lab").replace("/var/m", "/var/m/lab")
    binding = one(
        folder, slave(DATA_ANCHOR, 104, 101, "/lab/data"), slave(DATA, 105, 104, "/lab/data")
    )
    assert (binding.what, [view.place for view in binding.views]) == ("lab", ["/lab/data"])
    assert recovers(binding)


@pytest.mark.parametrize(("link", "expected"), [("", Link.NONE), ("shared", Link.BIDIRECTIONAL)])
def test_propagation(link: str, expected: Link) -> None:
    lines = [line.replace("master:", f"{link}:") if link else line for line in WHOLE]
    if not link:
        lines = [" ".join(w for w in line.split() if "master:" not in w) for line in lines]
    binding = one(*lines)
    assert (binding.link, recovers(binding)) == (expected, bool(link))
    text = sentence(attached(binding), binding, Path("/m"))
    if not link:
        assert "bound '/m' without HostToContainer (at '/data')" in text
        assert "after the next recovery of 'eos' it will see" in text
        assert "when 'lab/data' is mounted anew it will keep the old mount" in text
        assert "set mountPropagation: HostToContainer" in text


def test_a_slave_of_a_slave_follows_too() -> None:
    lines = [line.replace("master:", "master:90") for line in WHOLE]
    assert not recovers(one(*lines))
    chain = replace(NODE, masters={900 + n: n for n in (7, 8, 9)} | {9010: 10, 9011: 11})
    assert recovers(one(*lines, node=replace(chain, masters=dict(chain.masters))))
    circle = replace(NODE, masters={907: 908, 908: 907})
    assert not recovers(one(*lines, node=circle))


def test_what_was_not_bound_recursively_is_missing() -> None:
    binding = one(WHOLE[0])
    assert {view.sight for view in binding.views} == {Sight.MISSING}
    assert not recovers(binding)
    text = sentence(attached(binding), binding, Path("/m"))
    assert "it sees nothing in 'eos', 'lab/data', where the node has a mount" in text
    assert "what lies below was not bound with it" in text


def test_the_mount_itself_does_not_follow() -> None:
    binding = one(ITSELF)
    assert (binding.bound, binding.what) == (Bound.MOUNT_POINT, "eos")
    assert not recovers(binding)
    assert sentence(attached(binding), binding, Path("/m")) == (
        "pod lab/anna, container notebook bound '/m/eos' itself, not its parent (at '/eos'): after "
        "the next recovery of 'eos' it will see 'Transport endpoint is not connected'; bind '/m' "
        "with mountPropagation: HostToContainer instead"
    )


def test_a_folder_in_a_mount_is_named() -> None:
    binding = one(ITSELF.replace("0:51 / ", "0:51 /users/anna "))
    assert (binding.what, binding.views[0].folder) == ("eos/users/anna", "users/anna")
    assert "bound the folder 'users/anna' in '/m/eos', not" in sentence(
        attached(binding), binding, Path("/m")
    )


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (None, "what it sees of 'eos' was replaced"),
        (
            Health.DEAD,
            "it sees 'Transport endpoint is not connected' in 'eos', until it is started",
        ),
        (Health.OK, "it still uses the client of 'eos' that was replaced"),
    ],
)
def test_what_was_replaced_is_lost(health: Health | None, words: str) -> None:
    binding = one(LOST)
    assert (binding.views[0].sight, recovers(binding)) == (Sight.LOST, False)
    known = {"eos": health} if health else {}
    assert words in sentence(attached(binding, **known), binding, Path("/m"))


def test_a_device_that_was_never_ours_is_nobodys_business() -> None:
    assert bindings(LOST.replace("0:44", "0:45")) == ()
    assert bindings(LOST.replace("fuse.eosxd eos", "fuse.sshfs them:")) == (), "reused meanwhile"
    assert bindings("101 100 8:1 /srv/data /mine rw - ext4 /dev/sda rw") == (), "not through us"
    linked = one("101 100 8:1 /srv/data /mine rw master:11 - ext4 /dev/sda rw")
    assert linked.what == "lab/data"


def test_who_was_healed_follows() -> None:
    binding = one(LOST, slave(ANCHOR, 110, 101, "/eos"), slave(LAYER, 111, 110, "/eos"))
    assert recovers(binding)
    assert binding.views[0].sight is Sight.CURRENT


def test_who_bound_the_empty_place_follows() -> None:
    anchor = slave(ANCHOR, 101, 100, "/eos")
    empty = replace(NODE, exposed=(replace(EOS, top=None), LAB))
    assert one(anchor, node=empty).views[0].sight is Sight.EMPTY
    binding = one(anchor, slave(LAYER, 102, 101, "/eos"))
    assert (recovers(binding), binding.views[0].sight) == (True, Sight.CURRENT)
    assert one(anchor).views[0].sight is Sight.MISSING


def test_what_a_container_mounts_over_it_is_its_own() -> None:
    over = "120 103 0:70 / /data/eos rw - tmpfs theirs rw"
    binding = one(*WHOLE, over)
    assert [view.sight for view in binding.views] == [Sight.COVERED, Sight.CURRENT]
    assert "mounted over 'eos' in it" in sentence(attached(binding), binding, Path("/m"))


def test_of_several_names_the_one_that_was_bound_is_told() -> None:
    folder_anchor = "50 20 0:70 / /m/public ro shared:12 - tmpfs nodeshare-anchor ro"
    folder = "51 50 0:51 /public /m/public ro shared:13 - fuse.eosxd eos rw"
    anchor, top = parse(f"{folder_anchor}\n{folder}")
    node = replace(NODE, exposed=(*NODE.exposed, Exposed("public", "eos", "/public", anchor, top)))
    by_name = one(slave(folder, 101, 100, "/public"), node=node)
    assert (by_name.what, by_name.views[0].exposed.path) == ("public", "public")
    by_folder = one(ITSELF.replace("0:51 / ", "0:51 /public "), node=node)
    assert (by_folder.what, by_folder.views[0].exposed.path) == ("eos/public", "eos")
    line = LOST.replace("0:44 / ", "0:44 /public ")
    assert one(line, node=node).views[0].exposed.path == "public"
    remembered = replace(node, bound={"/eos": "eos"})
    assert one(line, node=remembered).views[0].exposed.path == "eos"


def test_read_only_that_does_not_hold_is_told() -> None:
    binding = one(WHOLE[0].replace(" rw master", " ro master"), *WHOLE[1:])
    assert binding.read_only
    assert "its readOnly does not hold" in sentence(attached(binding), binding, Path("/m"))


def test_tables_and_metrics() -> None:
    good, bad = attached(one(*WHOLE)), attached(one(LOST))
    rows = [each.to_json(Path("/m")) for each in (good, bad)]
    (table,) = tables(rows)
    assert [row[-2:] for row in table.rows] == [["yes", "current"], ["no", "lost"]]
    assert table.note.count("\n") == 0
    assert [list(row[:3]) for row in troubled(rows)[0].rows] == [["lab/anna", "notebook", "/eos"]]
    assert troubled(rows[:1]) == ()
    assert "no pod" in tables([])[0].note
    bound, lost, heals = pod_metrics.pods((good, bad), {("eos", True): 2}, ())
    samples = {tuple(sample.labels.values()): sample.value for sample in bound.samples}
    assert samples["eos", "parent", "host_to_container", "true"] == 1
    assert samples["eos", "mount_point", "none", "false"] == 1
    assert (list(lost.samples), list(heals.samples)) == ([], [])


def test_what_containers_call_their_places_harms_no_terminal() -> None:
    binding = one(ITSELF.replace(" /eos ", " /\x1b[2Jodd\udcff "))
    assert binding.place == "/\x1b[2Jodd\udcff"
    row = attached(binding).to_json(Path("/m"))
    (table,) = tables([row])
    assert table.rows[0][2] == "/\ufffd[2Jodd\ufffd"
    assert table.note.isprintable()


def test_entries_are_compared_whole() -> None:
    """A directory whose name only begins like ours is not ours."""
    entry: MountEntry = parse(WHOLE[0].replace("/var/m", "/var/movies"))[0]
    assert find(NODE, (entry,)) == ()
