# SPDX-License-Identifier: Apache-2.0
"""Mounts and folders of mounts under several names: read-only where it holds, and kept as they
shall be.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo
from agents.hostfs import PROC
from fuse_mounter import posix_acl
from tests.fakes.mount_node import Node, bindfs, eventually

PUBLIC = {"path": "shared/public", "folder": "public", "read_only": True}
GROUP = {
    "path": "shared/group",
    "folder": "teams/physics",
    "create": True,
    "owner": "root",
    "group": 4711,
    "mode": "2770",
    "default_acl": ["group:4711:rwx", "user:nobody:r-x"],
}


def wait_shared(node: Node, path: str, **values: Any) -> dict[str, Any]:
    """Until this entry has these values."""

    def look() -> dict[str, Any] | None:
        shared = node.mount("scratch").get("shared", ())
        one: dict[str, Any] = next((one for one in shared if one["path"] == path), {})
        return one if one and all(one[key] == value for key, value in values.items()) else None

    try:
        return eventually(look, f"{path} {values}")
    except AssertionError as error:
        text = f"{error}; it is {node.mount('scratch')}\n{node.log()}"
        raise AssertionError(text) from None


def configure(node: Node, mount: dict[str, Any]) -> None:
    """Looked at often."""
    node.configure(mount, health={"hang_after": "1s", "probe_every": "200ms"})


def acl(path: Path) -> list[str]:
    """As getfacl(1) reads it."""
    said = subprocess.run(
        ["getfacl", "--omit-header", "--numeric", "--default", "--absolute-names", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return said.stdout.split()


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


@pytest.fixture
def source(node: Node) -> Path:
    """A directory with something to share."""
    path = node.source("src", who="one")
    (path / "public").mkdir()
    (path / "public" / "what").write_text("for all")
    return path


def test_read_only_holds_in_a_pod_through_recoveries(
    node: Node, source: Path, beneath: bool
) -> None:
    seeds = {"path": "all", "read_only": True}
    node.configure(bindfs(source, publish=[PUBLIC, seeds]))
    node.start()
    wait_shared(node, "shared/public", published=True)
    pod = node.pod()
    for number in range(3):
        if number:
            os.kill(node.wait("scratch")["client_pid"], signal.SIGKILL)
            node.recovered("scratch", number)
            wait_shared(node, "shared/public", published=True)
            wait_shared(node, "all", published=True)
        assert pod.path("shared/public", "what").read_text() == "for all"
        assert pod.path("all", "who").read_text() == "one"
        for place in (pod.path("shared/public"), pod.path("all"), pod.path("all/public")):
            with pytest.raises(OSError, match="Read-only"):
                (place / "x").write_text("")
        pod.path("scratch/public", "writable").write_text("by its own name")
    layers = mountinfo.at(mountinfo.read(PROC), node.places.root / "shared/public")
    assert len(layers) == (2 if beneath else 3)


def test_a_folder_is_made_and_kept_as_it_shall_be(node: Node, source: Path) -> None:
    bind = {"name": "scratch", "driver": "bind", "path": "scratch", "source": str(source)}
    configure(node, {**bind, "publish": [GROUP]})
    node.start()
    wait_shared(node, "shared/group", published=True, problem=None)
    place, seen = source / "teams/physics", node.places.root / "shared/group"
    wanted = [
        "user::rwx", "user:65534:r-x", "group::rwx", "group:4711:rwx", "mask::rwx", "other::---",
    ]  # fmt: skip
    assert (mode(place), place.stat().st_uid, place.stat().st_gid) == ("2770", 0, 4711)
    assert acl(place) == wanted
    assert mode(place.parent) == "755"
    (seen / "file").write_text("")
    assert (place / "file").stat().st_gid == 4711

    inner = place / "theirs"
    inner.mkdir(mode=0o700)
    before = inner.stat()
    place.chmod(0o777)
    os.chown(place, 1, 1)
    subprocess.run(["setfacl", "-k", str(place)], check=True)
    eventually(lambda: acl(place) == wanted, "it is set again")
    assert (mode(place), place.stat().st_uid, place.stat().st_gid) == ("2770", 0, 4711)
    after = inner.stat()
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)
    assert "shared folder set" in node.log()
    eventually(lambda: wait_shared(node, "shared/group")["mended"] >= 2, "counted")
    node.stop()
    node.drain()
    assert (node.table(), node.marked()) == ((), [])
    assert not node.places.root.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["user::rwx", "group::r-x", "other::---"],
        ["g:4711:rwx"],
        ["user:nobody:rw", "group:4711:r-x", "user:12:x", "mask::r-x"],
        ["default:user:3:---", "default:group:2:rwx", "other::r"],
    ],
    ids=" ".join,
)
def test_the_attribute_is_what_setfacl_writes(tmp_path: Path, words: list[str]) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for path in (theirs, ours):
        path.mkdir()
        path.chmod(0o750)
    plain = [word.removeprefix("default:") for word in words]
    subprocess.run(["setfacl", "-d", "-m", ",".join(plain), str(theirs)], check=True)
    entries = posix_acl.complete([posix_acl.parse(word) for word in words], 0o750)
    value = posix_acl.encode(entries, lambda _, who: 65534 if who == "nobody" else int(who))
    os.setxattr(ours, posix_acl.DEFAULT_ATTRIBUTE, value)
    assert acl(ours) == acl(theirs)
    assert value == os.getxattr(theirs, posix_acl.DEFAULT_ATTRIBUTE)


def test_what_stands_in_the_way_is_named_and_harms_nobody_else(node: Node, source: Path) -> None:
    (source / "file").write_text("")
    (source / "link").symlink_to(source / "public")
    (source / "way").symlink_to(source)
    folders = {"file": "file", "link": "link", "way": "way/public", "missing": "not/there"}
    publish: list[dict[str, Any]] = [
        {"path": f"odd/{name}", "folder": folder, "create": name not in ("missing",)}
        for name, folder in folders.items()
    ]
    publish.append({"path": "odd/nobody", "folder": "public", "owner": "no-such-user"})
    (node.places.root / "odd").mkdir(parents=True)
    (node.places.root / "odd/taken").symlink_to(source)
    publish.append({"path": "odd/taken", "folder": "public"})
    configure(node, bindfs(source, publish=[*publish, PUBLIC]))
    node.start()
    wait_shared(node, "shared/public", published=True)
    reasons = {
        "file": "'file' is not a directory",
        "link": "'link' is a symlink",
        "way": "'way' is a symlink",
        "missing": "there is no 'not'; make it, or say create: true",
        "nobody": "no user 'no-such-user' is known here; write its number",
        "taken": "is a symlink; remove it",
    }
    for name, reason in reasons.items():
        one = wait_shared(node, f"odd/{name}", published=False)
        assert reason in str(one["problem"]), one
    status = node.wait("scratch", "degraded")
    assert "'odd/file'" in status["cause"]
    assert node.document()["ready"]
    (source / "not" / "there").mkdir(parents=True)
    wait_shared(node, "odd/missing", published=True)
    assert (source / "file").read_text() == ""


def test_names_come_and_go_with_the_configuration_and_the_client_stays(
    node: Node, source: Path
) -> None:
    node.configure(bindfs(source))
    node.start()
    client = node.wait("scratch")["client_pid"]
    node.configure(bindfs(source, publish=[PUBLIC]))
    wait_shared(node, "shared/public", published=True)
    pod = node.pod()
    open_file = pod.path("shared/public", "what").open()
    node.configure(bindfs(source, publish=[{**PUBLIC, "read_only": False}]))
    wait_shared(node, "shared/public", published=True, read_only=False)
    pod.path("shared/public", "new").write_text("")
    assert open_file.read() == "for all"
    open_file.close()
    (source / "other").mkdir()
    (source / "other" / "what").write_text("another")
    node.configure(bindfs(source, publish=[{"path": "shared/public", "folder": "other"}]))
    eventually(lambda: pod.path("shared/public", "what").read_text() == "another", "another folder")
    node.configure(bindfs(source))
    eventually(lambda: not (node.places.root / "shared").exists(), "the name is gone")
    assert node.wait("scratch")["client_pid"] == client
    assert pod.path("scratch", "who").read_text() == "one"


def test_a_folder_that_is_removed_is_made_again(node: Node, source: Path) -> None:
    configure(node, bindfs(source, publish=[GROUP]))
    node.start()
    wait_shared(node, "shared/group", published=True)
    pod = node.pod()
    shutil.rmtree(node.places.root / "scratch" / "teams")

    def made() -> bool:
        try:
            pod.path("shared/group", "new").write_text("kept")
        except OSError:
            return False
        return (source / "teams/physics/new").exists()

    eventually(made, "there again")
    assert mode(source / "teams/physics") == "2770"


def test_a_client_that_hangs_holds_up_no_other_mount(node: Node, source: Path) -> None:
    other = bindfs(node.source("data", what="data"), "b")
    other["publish"] = [{"path": "other", "read_only": True}]
    node.configure(bindfs(source, publish=[PUBLIC, GROUP]), other)
    node.start()
    wait_shared(node, "shared/group", published=True)
    os.kill(node.wait("scratch")["client_pid"], signal.SIGSTOP)
    (node.directory / "data" / "more").mkdir()
    (node.directory / "data" / "more" / "new").write_text("")
    other["publish"] = [{"path": "other", "folder": "more"}]
    node.configure(bindfs(source, publish=[PUBLIC, GROUP]), other)
    eventually(lambda: (node.places.root / "other/new").exists(), "the other one goes on")
    node.recovered("scratch", 1, "hung")
    wait_shared(node, "shared/group", published=True)
    assert (node.places.root / "shared/public/what").read_text() == "for all"
