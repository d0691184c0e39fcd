# SPDX-License-Identifier: Apache-2.0
"""One run over a real directory: what goes, what stays and why, what users are told."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.hostfs import PROC
from fuse_mounter.scratch import space, walk
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.keeping import DIRECTORY
from fuse_mounter.scratch.memory import Memory, Moment, folder_key
from fuse_mounter.scratch.outcome import Outcome, Skipped
from fuse_mounter.scratch.purge import Order, Purge

DAY = 86400.0
NOW = 2_000_000_000.0


class Scratch:
    """A scratch directory with files of given ages (days)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def file(self, name: str, age_d: float, size: int = 10) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (NOW - age_d * DAY,) * 2)
        return path

    def names(self) -> set[str]:
        found = (path for path in self.path.rglob("*") if not path.is_dir() or path.is_symlink())
        return {str(path.relative_to(self.path)) for path in found if "REMOVED" not in path.name}

    def purge(
        self,
        *,
        now: float = NOW,
        memory: Memory | None = None,
        armed: bool = True,
        full_since: float | None = None,
        is_open: Callable[[int], bool] = lambda _: False,
        **keys: object,
    ) -> Purge:
        rule = ScratchRule.model_validate(
            {"directory": str(self.path), "older_than": "30d", "grace": 0, **keys}
        )
        order = Order(rule, now, armed, memory or Memory(""), full_since)
        self.root = walk.open_root(self.path)
        return Purge(order, self.root, PROC, is_open)

    def run(self, **keys: object) -> Outcome:
        work = self.purge(**keys)  # type: ignore[arg-type]  # keys of the rule, or of the order
        finish(work.steps())
        os.close(self.root.descriptor)
        return work.outcome


def finish(steps: Iterator[float]) -> None:
    for _ in steps:
        pass


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "scratch")


def test_what_nobody_used_for_its_age_goes_and_nothing_else(scratch: Scratch) -> None:
    scratch.file("ada/old", 31)
    scratch.file("ada/new", 29)
    scratch.file("bob/deep/er/old", 400)
    outcome = scratch.run()
    assert scratch.names() == {"ada/new"}
    assert (outcome.scanned, outcome.removed) == (3, 2)
    assert outcome.oldest == NOW - 29 * DAY
    assert outcome.removed_bytes > 0


def test_what_is_not_armed_counts_and_removes_nothing(scratch: Scratch) -> None:
    scratch.file("ada/old", 31)
    outcome = scratch.run(armed=False)
    assert scratch.names() == {"ada/old"}
    assert outcome.removed == 1


WEEK = 7 * DAY


def week(scratch: Scratch, now: float, memory: Memory, **keys: object) -> tuple[Purge, Memory]:
    """A run with a grace of a week, and what the next one remembers of it."""
    work = scratch.purge(grace="7d", now=now, memory=memory, **keys)  # type: ignore[arg-type]
    finish(work.steps())
    os.close(scratch.root.descriptor)
    return work, memory.after(Moment(now, "boot", now), work.told, WEEK)


def test_a_file_is_announced_before_it_goes(scratch: Scratch) -> None:
    scratch.file("ada/old", 31)
    scratch.file("bob/new", 1)
    first, memory = week(scratch, NOW, Memory(""))
    assert scratch.names() == {"ada/old"} | {"bob/new"}
    assert first.outcome.skipped == {Skipped.ANNOUNCED: 1}
    told = (scratch.path / "ada/FILES-THAT-WILL-BE-REMOVED.txt").read_text()
    assert "1 file," in told
    assert "2033-05-25" in told  # seven days from now
    listed = (scratch.path / "ada/.FILES-THAT-WILL-BE-REMOVED.txt.jsonl").read_text()
    head, line = map(json.loads, listed.splitlines())
    assert head["nodeshare_scratch"]["files"] == 1
    assert line["path"] == "old"
    assert not (scratch.path / "bob/FILES-THAT-WILL-BE-REMOVED.txt").exists()

    _, memory = week(scratch, NOW + 6 * DAY, memory)
    assert "ada/old" in scratch.names()
    week(scratch, NOW + WEEK, memory)
    assert scratch.names() == {"bob/new"}
    assert not list((scratch.path / "ada").iterdir())  # the notice has nothing to tell any more


def test_a_file_that_becomes_due_later_has_its_whole_grace(scratch: Scratch) -> None:
    """From the first run that could tell of it, however long after it became due that was."""
    scratch.file("ada/first", 40)
    scratch.file("ada/second", 28)
    _, memory = week(scratch, NOW, Memory(""))
    for day in (1, 5, 7, 11):
        _, memory = week(scratch, NOW + day * DAY, memory)
        assert ("ada/first" in scratch.names()) is (day < 7)
    assert scratch.names() == {"ada/second"}  # due on day 2, told on day 5
    week(scratch, NOW + 12 * DAY, memory)
    assert scratch.names() == set()


@pytest.mark.parametrize("how", ["copied", "moved in", "moved within", "renamed"])
def test_what_comes_to_a_user_who_was_told_long_ago_is_announced_itself(
    scratch: Scratch, tmp_path: Path, how: str
) -> None:
    """With its old times, as `cp -a`, `rsync` and `mv` have it."""
    other = Scratch(tmp_path / "elsewhere")
    other.file("data/deep/old", 400)
    scratch.file("ada/first", 400)
    scratch.file("ada/data0/deep/old", 400)
    memory = Memory("")
    # The clock of these runs is years ahead of that which the kernel notes changes with.
    begin = scratch.path.stat().st_mtime
    for path in scratch.path.rglob("*"):
        os.utime(path, (begin - 400 * DAY,) * 2)
    for day in range(6):
        _, memory = week(scratch, begin + day * DAY, memory)
    if how == "moved in":
        (other.path / "data").rename(scratch.path / "ada/data")
    elif how == "moved within":
        (scratch.path / "ada/data0").rename(scratch.path / "ada/data")
    elif how == "renamed":
        (scratch.path / "ada/data").mkdir()
        (scratch.path / "ada/data0/deep").rename(scratch.path / "ada/data/deep")
    else:
        shutil.copytree(other.path / "data", scratch.path / "ada/data")
    for day in (7, 8, 9):
        _, memory = week(scratch, begin + day * DAY + 60, memory)
        assert (scratch.path / "ada/data/deep/old").exists()
    assert not (scratch.path / "ada/first").exists()


def test_what_changed_after_it_was_announced_has_its_grace_anew(scratch: Scratch) -> None:
    """Something else may lie under that name now."""
    path = scratch.file("ada/old", 400)
    begin = path.stat().st_ctime
    os.utime(path, (begin - 400 * DAY,) * 2)
    memory = Memory("", Moment(begin, "", 0), (begin - 9 * DAY, begin - 8 * DAY, begin - DAY), {})
    key = folder_key((scratch.path / "ada").stat().st_ino, "ada")
    memory = replace(memory, told={key: begin - 9 * DAY})
    work, _ = week(scratch, begin + 1, memory, older_than="1d")
    assert scratch.names() == {"ada/old"}
    assert work.outcome.skipped == {Skipped.ANNOUNCED: 1}


def test_a_user_who_cannot_be_told_keeps_his_files(scratch: Scratch) -> None:
    scratch.file("ada/old", 50)
    scratch.file("ada/FILES-THAT-WILL-BE-REMOVED.txt/new", 1)
    work, memory = week(scratch, NOW, Memory(""))
    assert work.told == {}
    assert "'ada' could not be told" in work.outcome.problems[0]
    week(scratch, NOW + 8 * DAY, memory)
    assert "ada/old" in scratch.names()


def test_who_was_told_once_cannot_keep_his_files_by_spoiling_the_notice(scratch: Scratch) -> None:
    scratch.file("ada/old", 50)
    _, memory = week(scratch, NOW, Memory(""))
    notice = scratch.path / "ada/FILES-THAT-WILL-BE-REMOVED.txt"
    notice.unlink()
    notice.mkdir()
    _, memory = week(scratch, NOW + DAY, memory)
    week(scratch, NOW + WEEK, memory)
    assert "ada/old" not in scratch.names()


@pytest.mark.parametrize(
    "name", ["FILES-THAT-WILL-BE-REMOVED.txt", ".FILES-THAT-WILL-BE-REMOVED.txt.jsonl"]
)
def test_a_file_of_the_users_under_the_name_of_the_notice_is_not_touched(
    scratch: Scratch, name: str
) -> None:
    theirs = scratch.file(f"ada/{name}", 500, size=1 << 20)
    scratch.run()  # nothing to tell: a notice would be taken away
    scratch.file("ada/old", 50)
    work, _ = week(scratch, NOW, Memory(""))
    assert theirs.stat().st_size == 1 << 20
    assert "a file that is not ours has that name" in work.outcome.problems[0]
    assert [path.name for path in theirs.parent.iterdir() if "nodeshare" in path.name] == []


def test_a_pipe_in_the_place_of_the_notice_holds_nobody_up(scratch: Scratch) -> None:
    scratch.file("ada/old", 50)
    os.mkfifo(scratch.path / "ada/FILES-THAT-WILL-BE-REMOVED.txt")
    work, _ = week(scratch, NOW, Memory(""))
    assert work.outcome.problems == []
    assert "old" in (scratch.path / "ada/FILES-THAT-WILL-BE-REMOVED.txt").read_text()


def test_a_link_in_the_place_of_the_notice_is_replaced_and_not_followed(
    scratch: Scratch, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of somebody else")
    scratch.file("ada/old", 50)
    (scratch.path / "ada/FILES-THAT-WILL-BE-REMOVED.txt").symlink_to(precious)
    finish(scratch.purge(grace="7d").steps())
    assert precious.read_text() == "of somebody else"
    assert "old" in (scratch.path / "ada/FILES-THAT-WILL-BE-REMOVED.txt").read_text()


def test_hostile_names_stay_on_their_line(scratch: Scratch) -> None:
    names = ["line\nbreak", "esc\x1b[31m", "caf\udce9", "tab\t", "‮right"]
    for name in names:
        scratch.file(f"ada/{name}", 50)
    finish(scratch.purge(grace="7d").steps())
    told = (scratch.path / "ada/FILES-THAT-WILL-BE-REMOVED.txt").read_text()
    assert "\x1b" not in told
    assert len([line for line in told.splitlines() if "last used" in line]) == len(names)
    listed = (scratch.path / "ada/.FILES-THAT-WILL-BE-REMOVED.txt.jsonl").read_text()
    assert {json.loads(line)["path"] for line in listed.splitlines()[1:]} == set(names)
    outcome = scratch.run()
    assert outcome.removed == len(names)
    assert scratch.names() == set()


def test_why_old_files_stay(scratch: Scratch) -> None:
    opened = scratch.file("ada/open", 50)
    scratch.file("kept/deep/old", 50)
    (scratch.path / "kept/.keep-scratch").touch()
    scratch.file("rule/old", 50)
    scratch.file("ahead/of/time", -2)
    with socket.socket(socket.AF_UNIX) as pipe:
        pipe.bind(str(scratch.path / "ada/s"))
        os.utime(scratch.path / "ada/s", (0, 0))
        inode = opened.stat().st_ino
        outcome = scratch.run(
            is_open=lambda number: number == inode,
            paths=[{"path": "rule", "older_than": "never"}],
        )
    assert outcome.removed == 0
    assert outcome.skipped == {
        Skipped.OPEN: 1,
        Skipped.KEPT: 2,
        Skipped.FUTURE: 1,
        Skipped.SPECIAL: 1,
    }


def test_one_run_removes_no_more_than_it_may(scratch: Scratch) -> None:
    for number in range(10):
        scratch.file(f"ada/{number}", 50)
    assert scratch.run(most_files=3).skipped == {Skipped.CAPPED: 7}
    assert len(scratch.names()) == 7
    block = (scratch.path / "ada" / sorted(scratch.names())[0][4:]).stat().st_blocks * 512
    assert scratch.run(most_bytes=f"{2 * block}B").removed == 2


def test_empty_folders_go_when_they_are_old(scratch: Scratch) -> None:
    (scratch.path / "ada/empty/deep").mkdir(parents=True)
    (scratch.path / "ada/emptied").mkdir()
    scratch.file("ada/emptied/old", 50)
    os.utime(scratch.path / "ada/empty", (0, 0))  # its status changes with that
    made = scratch.path.stat().st_ctime
    os.utime(scratch.path / "ada/emptied/old", (0, 0))
    assert scratch.run(now=made + 29 * DAY).removed_folders == 0
    outcome = scratch.run(now=made + 31 * DAY)
    assert outcome.removed_folders == 3
    assert [path.name for path in scratch.path.iterdir()] == ["ada"]  # a user's own stays


def test_a_link_goes_and_what_it_points_to_stays(scratch: Scratch, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"x" * 100_000)
    os.utime(outside / "file", (0, 0))
    (scratch.path / "ada").mkdir()
    for name, target in (("folder", outside), ("file", outside / "file")):
        link = scratch.path / "ada" / name
        link.symlink_to(target)
        os.utime(link, (0, 0), follow_symlinks=False)
    os.link(outside / "file", scratch.path / "ada/hard")
    outcome = scratch.run()
    assert scratch.names() == set()
    assert (outside / "file").exists()
    assert outcome.removed == 3
    assert outcome.removed_bytes < 100_000  # none of what has another name


def test_a_folder_that_becomes_a_link_while_it_is_walked_leads_nowhere(
    scratch: Scratch, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(3):
        (outside / f"{number}").touch()
        os.utime(outside / f"{number}", (0, 0))
    for user in "abcdef":
        scratch.file(f"{user}/sub/old", 50)
    steps = scratch.purge().steps()
    next(steps)
    for user in "abcdef":
        folder = scratch.path / user / "sub"
        folder.rename(tmp_path / f"moved-{user}")
        folder.symlink_to(outside)
    finish(steps)
    assert len(list(outside.iterdir())) == 3


def test_a_folder_that_is_moved_out_while_it_is_walked_is_left_alone(
    scratch: Scratch, tmp_path: Path
) -> None:
    for number in range(600):  # more than are read at once
        scratch.file(f"ada/sub/{number}", 50)
    work = scratch.purge()
    steps = work.steps()
    next(steps)
    (scratch.path / "ada/sub").rename(tmp_path / "mine")
    before = len(list((tmp_path / "mine").iterdir()))
    finish(steps)
    assert len(list((tmp_path / "mine").iterdir())) == before
    assert work.outcome.skipped[Skipped.MOVED] == before


def test_a_file_that_is_used_or_replaced_while_it_is_walked_stays(scratch: Scratch) -> None:
    for number in range(4):
        scratch.file(f"ada/{number}", 50)
    work = scratch.purge()
    steps = work.steps()
    next(steps)
    left = sorted(scratch.names())
    assert len(left) == 3
    os.utime(scratch.path / left[0], (NOW, 0))
    (scratch.path / left[1]).unlink()
    (scratch.path / left[1]).mkdir()
    finish(steps)
    assert scratch.names() == {left[0]}
    assert work.outcome.skipped == {Skipped.CHANGED: 2}


def test_nesting_has_an_end(scratch: Scratch) -> None:
    folder = scratch.path / "ada"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(walk.DEEPEST + 5):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    assert scratch.run().skipped == {Skipped.DEPTH: 1}


def test_our_own_directory_is_not_looked_at(scratch: Scratch) -> None:
    scratch.file(f"{DIRECTORY}/lock", 500)
    (scratch.path / DIRECTORY).chmod(0o700)
    assert scratch.run().scanned == 0


def survey(scratch: Scratch, **keys: object) -> space.Ageing:
    root = walk.open_root(scratch.path)
    rule = ScratchRule.model_validate({"directory": "/srv/scratch", "older_than": "30d", **keys})
    *_, found = space.survey(root, PROC, rule, NOW)
    os.close(root.descriptor)
    return found


def test_when_space_is_short_the_oldest_go_first(scratch: Scratch) -> None:
    for age in range(1, 30):
        scratch.file(f"ada/{age:02}", age, size=4096)
    sizes = survey(scratch)
    each = (scratch.path / "ada/01").stat().st_blocks * 512
    full = space.full_since(sizes, 5 * each, NOW, 7 * DAY, 1000)
    assert full is not None
    assert space.full_since(sizes, 1 << 60, NOW, 7 * DAY, 5) == full  # no more than a run may
    outcome = scratch.run(full_since=full, grace="7d")
    assert 5 <= outcome.removed <= 6
    assert scratch.names() == {f"ada/{age:02}" for age in range(1, 30 - outcome.removed)}
    assert space.full_since(sizes, 0, NOW, 7 * DAY, 1000) is None
    assert space.full_since(sizes, 1 << 60, NOW, 7 * DAY, 1000) == NOW - 7 * DAY
    assert space.full_since({}, 1 << 60, NOW, 7 * DAY, 1000) is None


def test_what_may_not_go_is_not_counted_on_when_space_is_short(scratch: Scratch) -> None:
    scratch.file("kept/old", 300)
    (scratch.path / "kept/.keep-scratch").touch()
    scratch.file("never/old", 200)
    scratch.file("of the administrator", 200)
    scratch.file("ada/one", 150)
    os.link(scratch.path / "ada/one", scratch.path / "ada/two")
    assert survey(scratch, paths=[{"path": "never", "older_than": "never"}]) == {}
    assert len(survey(scratch)) == 1


def test_what_lies_beside_the_folders_of_users_stays(scratch: Scratch, tmp_path: Path) -> None:
    """Also a link in the place of a user's folder: neither it goes, nor what it points to."""
    elsewhere = Scratch(tmp_path / "elsewhere")
    precious = elsewhere.file("old", 500)
    link = scratch.path / "ada"
    link.symlink_to(elsewhere.path)
    os.utime(link, (0, 0), follow_symlinks=False)
    scratch.file("README", 500)
    assert scratch.run().skipped == {Skipped.KEPT: 2}
    assert scratch.run(full_since=NOW).removed == 0
    assert link.is_symlink()
    assert precious.exists()
    assert scratch.run(users=False).removed == 2
    assert precious.exists()


def test_a_path_that_is_too_long_to_be_named_stops_nobody(scratch: Scratch) -> None:
    scratch.file("bob/old", 50)
    (scratch.path / "ada").mkdir()
    descriptor = os.open(scratch.path / "ada", os.O_RDONLY)
    for _ in range(40):  # 10,000 characters, and less deep than is walked
        name = "d" * 250
        os.mkdir(name, dir_fd=descriptor)
        deeper = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(os.open("old", os.O_CREAT, dir_fd=deeper))
        os.utime("old", (0, 0), dir_fd=deeper)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    outcome = scratch.run()
    assert outcome.skipped == {Skipped.DEPTH: 1}
    assert not (scratch.path / "bob/old").exists()


def test_a_folder_called_like_ours_keeps_nothing(scratch: Scratch) -> None:
    scratch.file(f"{DIRECTORY}/old", 500)
    (scratch.path / DIRECTORY).chmod(0o755)
    scratch.file(f"ada/{DIRECTORY}/old", 500)
    assert scratch.run().removed == 2


def test_a_file_that_another_with_the_same_times_replaced_stays(scratch: Scratch) -> None:
    """Even when it gets the number of the old one, as it does on many file systems."""
    for number in range(4):
        scratch.file(f"ada/{number}", 50)
    work = scratch.purge()
    steps = work.steps()
    next(steps)
    left = scratch.names()
    for name in left:
        (scratch.path / name).unlink()
        scratch.file(name, 50)
    finish(steps)
    os.close(scratch.root.descriptor)
    assert scratch.names() == left
    assert work.outcome.skipped == {Skipped.CHANGED: 3}


def test_an_empty_folder_that_somebody_stands_in_stays(scratch: Scratch) -> None:
    folder = scratch.path / "ada/work"
    folder.mkdir(parents=True)
    inode, later = folder.stat().st_ino, folder.stat().st_ctime + 31 * DAY
    assert scratch.run(now=later, is_open=lambda number: number == inode).removed_folders == 0
    assert folder.exists()
    assert scratch.run(now=later).removed_folders == 1


def test_what_a_keep_file_cannot_be_asked_for_is_kept(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.file("ada/old", 50)
    real = os.stat

    def refused(path: Any, *args: Any, **keys: Any) -> os.stat_result:
        if path == ".keep-scratch":
            raise PermissionError(13, "no")
        return real(path, *args, **keys)

    monkeypatch.setattr(os, "stat", refused)
    assert scratch.run().skipped == {Skipped.UNREADABLE: 1}
    assert scratch.names() == {"ada/old"}


@pytest.mark.parametrize("number", sorted(walk.BROKEN))
def test_a_run_ends_when_the_file_system_does_not_work_any_more(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in "abc":
        scratch.file(f"ada/{name}", 50)

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "unlink", broken)
    with pytest.raises(OSError, match=os.strerror(number)):
        scratch.run()
    assert len(scratch.names()) == 3
