# SPDX-License-Identifier: Apache-2.0
"""Scratch on real mounts, by the command that an agent uses too."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from agents import cli, mountinfo
from agents.errors import AgentError
from agents.hostfs import PROC
from agents.mounts import LinuxMounts, MountFlag
from fuse_mounter.scratch import private
from fuse_mounter.scratch.clocks import Access
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.explain import explain
from fuse_mounter.scratch.memory import Memory, Moment
from fuse_mounter.scratch.place import place_of
from fuse_mounter.scratch.private import Private
from fuse_mounter.scratch.run import Run
from fuse_mounter.scratch.walk import open_root

OLD_S = time.time() - 60 * 86400
MOUNTS = LinuxMounts()


Nodeshare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted relatime as most are."""
    place = tmp_path / "scratch"
    place.mkdir()
    MOUNTS.mount("scratch", place, "tmpfs", MountFlag(0), "size=64m")
    try:
        yield place
    finally:
        MOUNTS.unmount(place, detach=True)


def old(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (OLD_S, OLD_S))
    return path


@pytest.fixture
def nodeshare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Nodeshare:
    """The command, here: starting a process for it takes longer than a run."""

    def command(verb: str, *words: str, **keys: Any) -> tuple[int, str, str]:
        rule = {"directory": str(tmp_path / "scratch"), "older_than": "30d", "armed": True}
        config = tmp_path / "config.yaml"
        document = {"fuse_mounter": {"scratch": [{**rule, "grace": 0, **keys}]}}
        config.write_text(json.dumps(document))
        code = cli.main(["scratch", verb, *words, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def prepared(tmp_path: Path, **keys: Any) -> Run:
    """The same without the command: starting one takes longer than the run."""
    rule = ScratchRule.model_validate(
        {
            "directory": str(tmp_path / "scratch"),
            "older_than": "30d",
            "armed": True,
            "grace": 0,
            **keys,
        }
    )
    place = place_of(rule, None, mountinfo.read(PROC))
    return Run(rule, place, PROC, "this-node", dry=False)


def run(tmp_path: Path, **keys: Any) -> dict[str, Any]:
    return trio.run(prepared(tmp_path, **keys).run).document()


def test_an_age_that_an_access_time_cannot_tell_is_refused(scratch: Path, tmp_path: Path) -> None:
    old(scratch / "ada/old")
    with pytest.raises(AgentError, match=r"2 days are less than 3 .* mounted with relatime"):
        run(tmp_path, older_than="2d")
    with pytest.raises(AgentError, match=r"2 days are less than 3"):
        run(tmp_path, keep_free={"target": "99%", "not_within": "2d"})
    assert run(tmp_path, older_than="2d", clock="modified")["removed"] == 1


@pytest.mark.parametrize(
    ("option", "access"),
    [("strictatime", Access.EXACT), ("relatime", Access.DAILY), ("noatime", Access.FROZEN)],
)
def test_what_an_access_time_is_worth_is_tried_out(
    tmp_path: Path, option: str, access: Access
) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "scratch", str(place)], check=True)
    try:
        root = open_root(place)
        own = Private(root)
        assert own.access() is access
        own.close()
        os.close(root.descriptor)
        assert [path.name for path in (place / ".nodeshare-scratch").iterdir()] == []
        words = {
            "strictatime": "whichever is later",
            "relatime": "a day late",
            "noatime": "notes no",
        }
        assert words[option] in run(tmp_path)["clock"]
    finally:
        MOUNTS.unmount(place, detach=True)


def test_an_empty_place_is_never_cleaned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What should lie below a mount that is not there belongs to the node."""
    root = tmp_path / "root"
    file = old(root / "data" / "ada" / "of the node")
    source = tmp_path / "source"
    source.mkdir()
    mount = {"name": "data", "driver": "bind", "source": str(source), "path": "data"}
    rule = {"mount": "data", "older_than": "30d", "armed": True, "grace": 0}
    section = {"root": str(root), "mounts": [mount], "scratch": [rule]}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"fuse_mounter": section}))
    assert cli.main(["scratch", "run", "--config", str(config)]) == 1
    assert "the mount 'data' is not there" in capsys.readouterr().err
    assert file.exists()


def test_one_at_a_time(scratch: Path, tmp_path: Path) -> None:
    """Another node's lock counts as long as it gives signs of life."""
    old(scratch / "ada/old")
    own = scratch / ".nodeshare-scratch"
    own.mkdir(mode=0o700)
    (own / "lock").write_text("another-node\n1234")
    with pytest.raises(AgentError, match="another-node is at work on this scratch directory"):
        run(tmp_path)
    os.utime(own / "lock", (OLD_S, OLD_S))
    assert run(tmp_path)["removed"] == 1
    assert (own / "lock").read_text().strip() == ""


def test_who_was_away_for_long_does_not_work_on_beside_another(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        old(scratch / f"ada/{number}")
    monkeypatch.setattr(private, "_BEAT_S", 0.0)

    def take_over(*_: object) -> None:
        (scratch / ".nodeshare-scratch/lock").write_text("another-node\n1234")

    with pytest.raises(AgentError, match="another-node is at work"):
        trio.run(replace(prepared(tmp_path), told=take_over).run)
    assert len(list((scratch / "ada").iterdir())) == 4
    assert (scratch / ".nodeshare-scratch/lock").read_text() == "another-node\n1234"


def test_two_at_once_and_one_that_is_killed(scratch: Path, tmp_path: Path) -> None:
    """What is killed leaves a lock that is its own node's: no other takes it, and it may again."""
    for number in range(50):
        old(scratch / f"ada/{number}")
    config = tmp_path / "slow.yaml"
    rule = {"directory": str(scratch), "older_than": "30d", "armed": True, "grace": 0, "rate": 5}
    config.write_text(
        json.dumps({"node": {"name": "this-node"}, "fuse_mounter": {"scratch": [rule]}})
    )
    argv = [sys.executable, "-m", "agents", "scratch", "run", "--lines"]
    with subprocess.Popen(
        [*argv, "--config", str(config)], stdout=subprocess.PIPE, text=True
    ) as slow:
        try:
            assert slow.stdout is not None
            while '"removed": 0' in slow.stdout.readline():
                pass
            with pytest.raises(AgentError, match="this-node is at work"):
                run(tmp_path)
        finally:
            slow.kill()
    left = len(list((scratch / "ada").iterdir()))
    assert 0 < left < 50
    with pytest.raises(AgentError, match="this-node is at work"):
        trio.run(replace(prepared(tmp_path), node="another-node").run)
    assert run(tmp_path)["removed"] == left


def test_two_nodes_share_an_identity_and_two_directories_do_not(
    scratch: Path, tmp_path: Path
) -> None:
    """By it they find the same Lease."""
    held: list[str] = []

    @contextmanager
    def guard(identity: str) -> Iterator[Callable[[], None]]:
        held.append(identity)
        yield lambda: None

    for node in ("a", "b"):
        trio.run(replace(prepared(tmp_path), node=node, guard=guard).run)
    (scratch / "other").mkdir()
    other = prepared(tmp_path, directory=str(scratch / "other"))
    trio.run(replace(other, guard=guard).run)
    assert held[0] == held[1] != held[2]


def test_what_another_holds_by_a_lease_is_left_alone(scratch: Path, tmp_path: Path) -> None:
    for number in range(3):
        old(scratch / f"ada/{number}")
    counted = itertools.count()

    @contextmanager
    def guard(_: str) -> Iterator[Callable[[], None]]:
        def still() -> None:
            if next(counted):
                raise AgentError("another node holds the lease")

        yield still

    with pytest.raises(AgentError, match="holds the lease"):
        trio.run(replace(prepared(tmp_path), guard=guard).run)
    assert len(list((scratch / "ada").iterdir())) == 1


def test_a_private_directory_that_somebody_else_made_is_refused(
    scratch: Path, tmp_path: Path
) -> None:
    old(scratch / "ada/old")
    (scratch / ".nodeshare-scratch").symlink_to(tmp_path)
    with pytest.raises(AgentError, match="remove it; it is made anew"):
        run(tmp_path)
    (scratch / ".nodeshare-scratch").unlink()
    (scratch / ".nodeshare-scratch").mkdir()
    os.chown(scratch / ".nodeshare-scratch", 1000, 1000)
    with pytest.raises(AgentError, match="belongs to user 1000"):
        run(tmp_path)
    assert (scratch / "ada/old").exists()


def test_nobody_loses_a_file_when_a_clock_was_wrong(scratch: Path, tmp_path: Path) -> None:
    """After it was set nothing is removed once, and everything is announced anew."""
    old(scratch / "ada/old")
    rule = prepared(tmp_path).rule
    root = open_root(scratch)
    own = Private(root)
    boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    now, since_boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        for last in (
            Moment(now - 86400, boot, since_boot - 60),  # it went a day ahead in a minute
            Moment(now - 60, boot, since_boot - 86400),  # it was set back
            Moment(now + 86400, "another boot", 0.0),  # the last run is yet to come
        ):
            own.keep(rule.name, Memory(rule.digest, last, (0.0,), {}))
            outcome = run(tmp_path)
            assert "the clock of this node was set since the last run" in outcome["problems"][0]
            assert not outcome["armed"]
            assert (scratch / "ada/old").exists()
            assert own.recall(rule.name) != Memory(rule.digest, last, (0.0,), {})
    finally:
        own.close()
        os.close(root.descriptor)
    assert run(tmp_path)["removed"] == 1


@pytest.mark.parametrize("days", [-30, 30])
def test_a_clock_that_the_file_system_does_not_agree_with(
    scratch: Path, tmp_path: Path, days: int
) -> None:
    old(scratch / "ada/old")
    wrong = replace(prepared(tmp_path), wall=lambda: time.time() + days * 86400)
    with pytest.raises(AgentError, match=f"{'ahead of' if days > 0 else 'behind'} that of the"):
        trio.run(wrong.run)
    assert (scratch / "ada/old").exists()


def test_it_is_told_and_goes_when_the_grace_is_over(scratch: Path, tmp_path: Path) -> None:
    path = old(scratch / "ada/old")
    os.chown(scratch / "ada", 1000, 1001)
    keys = {"grace": "1s", "every": "1s"}
    first = run(tmp_path, **keys)
    assert (first["skipped"], first["removed"]) == ({"announced": 1}, 0)
    notice = scratch / "ada/FILES-THAT-WILL-BE-REMOVED.txt"
    status = notice.stat()
    # It names what lies in folders that others may not look into.
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1000, 1001, 0o600)
    plan = trio.run(replace(prepared(tmp_path, **keys), dry=True).run)
    assert plan.removed == 0
    time.sleep(1.1)
    plan = trio.run(replace(prepared(tmp_path, **keys), dry=True).run)
    assert plan.removed == 1  # a plan knows what was announced
    assert run(tmp_path, **keys)["removed"] == 1
    assert not path.exists()
    assert list((scratch / "ada").iterdir()) == []


def test_when_it_is_armed_all_is_announced_anew(scratch: Path, tmp_path: Path) -> None:
    """What was "only counted" is no warning."""
    old(scratch / "ada/old")
    keys = {"grace": "1s", "every": "1s"}
    run(tmp_path, **keys, armed=False)
    time.sleep(1.1)
    assert run(tmp_path, **keys, armed=False)["removed"] == 1
    assert run(tmp_path, **keys)["removed"] == 0
    assert (scratch / "ada/old").exists()


def explained(tmp_path: Path, path: Path, **keys: Any) -> str:
    return "\n".join(explain(prepared(tmp_path, **keys), path))


def test_it_is_explained(scratch: Path, tmp_path: Path, nodeshare: Nodeshare) -> None:
    path = old(scratch / "ada/old")
    _, out, _ = nodeshare("explain", str(path), grace="7d")
    assert "an access shows up to a day late (relatime)" in out
    assert "it is due 30 days after that" in out
    assert "has not been told yet: it goes 7 days after that" in out
    run(tmp_path, grace="7d")
    assert "told since" in explained(tmp_path, path, grace="7d")
    assert "goes at the next run" in explained(tmp_path, path)
    assert "nothing goes: 2 days are less than 3" in explained(tmp_path, path, older_than="2d")
    never = [{"path": "ada", "older_than": "never"}]
    assert "it stays: a rule for its path" in explained(tmp_path, path, paths=never)
    assert "it is only counted" in explained(tmp_path, path, armed=False)
    assert "somebody's own folder" in explained(tmp_path, scratch / "ada")
    (scratch / "ada/sub").mkdir()
    assert "it goes when it is empty" in explained(tmp_path, scratch / "ada/sub")
    (scratch / "link").symlink_to(scratch / "ada")
    assert "is a link, and none is followed" in explained(tmp_path, scratch / "link/old")
    assert "beside the users' folders" in explained(tmp_path, scratch / "link")
    (scratch / "ada/.keep-scratch").touch()
    assert "it stays: " in explained(tmp_path, path)
    with pytest.raises(AgentError, match="No such file"):
        explained(tmp_path, scratch / "none")
    (tmp_path / "way").symlink_to(tmp_path)
    assert "by the rule" in nodeshare("explain", str(tmp_path / "way/scratch/ada/old"))[1]
    code, _, err = nodeshare("explain", "/etc/passwd")
    assert code == 1
    assert "no scratch rule is about '/etc/passwd'" in err
    assert str(scratch) in err


def test_a_plan_changes_nothing(scratch: Path, nodeshare: Nodeshare) -> None:
    old(scratch / "ada/old", b"x" * 100_000)
    code, out, err = nodeshare("plan", grace="7d")
    assert (code, err) == (0, "")
    assert "100.0 KiB" in out
    assert [path.name for path in scratch.iterdir()] == ["ada"]
    assert [path.name for path in (scratch / "ada").iterdir()] == ["old"]
    _, out, _ = nodeshare("plan", "--list", grace="7d")
    listed = json.loads(out)
    assert (listed["path"], listed["size_bytes"]) == ("ada/old", 102_400)
    _, out, _ = nodeshare("plan", "--json")
    assert json.loads(out)[str(scratch)]["removed"] == 1
    assert (scratch / "ada/old").exists()


def test_a_run_tells_what_it_did(scratch: Path, nodeshare: Nodeshare) -> None:
    old(scratch / "ada/old")
    _, out, _ = nodeshare("run", armed=False)
    assert "1 would go" in out
    assert "not armed, so nothing was removed" in out
    assert "would go" not in nodeshare("run")[1]
    assert not (scratch / "ada/old").exists()
    code, _, err = nodeshare("run", "other")
    assert code == 2
    assert f"there is no scratch rule 'other'; use one of: {scratch}" in err


def test_what_an_agent_has_done_by_a_child(scratch: Path, nodeshare: Nodeshare) -> None:
    """Only when it is time for it."""
    old(scratch / "ada/old")
    lines = nodeshare("run", "--lines", "--if-due")[1].splitlines()
    first = json.loads(lines[-1])
    assert (first["ran"], first["removed"]) == (True, 1)
    again = json.loads(nodeshare("run", "--lines", "--if-due")[1].splitlines()[-1])
    assert (again["ran"], again["scanned"]) == (False, 0)
    assert again["last_run"] == first["last_run"]
