# SPDX-License-Identifier: Apache-2.0
"""Token files on their tmpfs, as users and their programs meet them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.errors import AgentError
from agents.hostfs import PROC
from agents.mounts import LinuxMounts, MountFlag
from fuse_mounter.credentials.token_files import TokenFiles

ADA, BOB = 12001, 12002
#: Reads a token in a loop, as its user, until told to stop: says what was ever wrong with it.
_READER = """
import os, select, stat, sys
uid, path = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(uid); os.setuid(uid)
print("ready", flush=True)
reads, wrong = 0, set()
while not select.select([0], [], [], 0)[0]:
    with open(path) as file:
        status, text = os.fstat(file.fileno()), file.read()
    reads += 1
    if (status.st_uid, stat.S_IMODE(status.st_mode)) != (uid, 0o400):
        wrong.add(str(status))
    number, _, rest = text.partition(":")
    if rest != "x" * 3000 + f":{number}":
        wrong.add(f"half-written: {len(text)}")
print(reads, wrong or "good")
"""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[TokenFiles]:
    tmp_path.chmod(0o755)
    one = TokenFiles(tmp_path / "credentials", PROC, LinuxMounts())
    one.prepare()
    try:
        yield one
    finally:
        one.remove()


def as_user(uid: int, command: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_user_reads_his_own_token_and_sees_nobody_elses(files: TokenFiles) -> None:
    assert files.write(ADA, ADA, "eos.token", "of ada")
    assert files.write(BOB, BOB, "eos.token", "of bob")
    place = files.directory
    assert as_user(ADA, f"cat {place}/{ADA}/eos.token") == "of ada"
    assert "Permission denied" in as_user(ADA, f"cat {place}/{BOB}/eos.token")
    assert "Permission denied" in as_user(ADA, f"ls {place}")
    assert "Permission denied" in as_user(ADA, f"ls {place}/{BOB}")
    for attack in (f"echo x > {place}/{ADA}/new", f"rm -f {place}/{ADA}/eos.token"):
        assert "ermission denied" in as_user(ADA, attack)
    status = (place / str(ADA) / "eos.token").lstat()
    assert stat.S_ISREG(status.st_mode)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (ADA, ADA, 0o400)
    assert files.users() == (ADA, BOB)


def test_the_same_again_changes_nothing_and_something_else_is_a_new_file(files: TokenFiles) -> None:
    files.write(ADA, ADA, "t", "one")
    path = files.directory / str(ADA) / "t"
    before = path.stat()
    assert not files.write(ADA, ADA, "t", "one")
    assert path.stat() == before
    assert files.write(ADA, ADA, "t", "two")
    assert path.stat().st_ino != before.st_ino
    assert files.read(ADA, "t") == "two"
    path.chmod(0o444)
    assert files.read(ADA, "t") is None
    assert files.write(ADA, ADA, "t", "two")  # mended
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_nobody_ever_reads_half_a_token(files: TokenFiles, soak: bool) -> None:
    def content(number: int) -> str:
        return f"{number}:{'x' * 3000}:{number}"

    files.write(ADA, ADA, "t", content(0))
    path = files.directory / str(ADA) / "t"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _READER, str(ADA), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdin is not None
        assert reader.stdout.readline() == "ready\n"
        for number in range(1, 10_001 if soak else 2_001):
            assert files.write(ADA, ADA, "t", content(number))
        reader.stdin.close()
        reads, _, verdict = reader.stdout.read().partition(" ")
    assert verdict == "good\n"
    assert int(reads) > 100
    assert [path.name for path in path.parent.iterdir()] == ["t"]


def test_a_directory_that_the_kubelet_made_is_adopted_only_when_it_is_empty(
    files: TokenFiles,
) -> None:
    (files.directory / str(ADA)).mkdir(mode=0o755)
    assert files.write(ADA, ADA, "t", "x")
    assert stat.S_IMODE((files.directory / str(ADA)).stat().st_mode) == 0o711
    (files.directory / str(BOB)).mkdir(mode=0o755)
    (files.directory / str(BOB) / "something").touch()
    with pytest.raises(AgentError, match="was not made by this agent"):
        files.write(BOB, BOB, "t", "x")
    other = BOB + 1
    (files.directory / str(other)).mkdir()
    os.chown(files.directory / str(other), other, other)
    with pytest.raises(AgentError, match=f"belongs to user {other}"):
        files.write(other, other, "t", "x")


def test_no_link_is_followed(files: TokenFiles, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of somebody else")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (files.directory / str(ADA)).symlink_to(elsewhere)
    with pytest.raises(AgentError, match="is no directory"):
        files.write(ADA, ADA, "t", "x")
    assert not list(elsewhere.iterdir())
    files.write(BOB, BOB, "t", "x")
    token = files.directory / str(BOB) / "t"
    token.unlink()
    token.symlink_to(precious)
    assert files.read(BOB, "t") is None
    assert files.write(BOB, BOB, "t", "new")
    assert precious.read_text() == "of somebody else"
    assert not token.is_symlink()


@pytest.mark.parametrize("uid", [0, -1, (1 << 32) - 1])
def test_some_ids_are_no_users(files: TokenFiles, uid: int) -> None:
    with pytest.raises(AgentError, match="is not the id of a user"):
        files.write(uid, 0, "t", "x")


def test_a_later_agent_finds_everything_again(files: TokenFiles) -> None:
    files.write(ADA, ADA, "t", "x")
    again = TokenFiles(files.directory, PROC, LinuxMounts())
    again.prepare()
    assert again.read(ADA, "t") == "x"


def test_a_place_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "1000").mkdir()
    files = TokenFiles(place, PROC, LinuxMounts())
    with pytest.raises(AgentError, match="'1000' would be hidden"):
        files.prepare()
    (place / "1000").rmdir()
    LinuxMounts().mount("foreign", place, "tmpfs", MountFlag.NONE, "size=1m")
    try:
        with pytest.raises(AgentError, match="is a mount of 'foreign', and not ours"):
            files.prepare()
        files.remove()
        assert place.is_mount()
    finally:
        LinuxMounts().unmount(place, detach=True)


def test_a_full_tmpfs_keeps_the_old_token(files: TokenFiles) -> None:
    files.write(ADA, ADA, "t", "old")
    with pytest.raises(OSError, match="No space left"):
        files.write(ADA, ADA, "t", "x" * (65 << 20))
    assert files.read(ADA, "t") == "old"
    assert [path.name for path in (files.directory / str(ADA)).iterdir()] == ["t"]


def test_what_nobody_is_to_keep_is_taken_away_and_nothing_else(files: TokenFiles) -> None:
    for name in ("kept", "old"):
        files.write(ADA, ADA, name, "x")
    place = files.directory / str(ADA)
    (place / ".t.0123").touch(0)  # of an agent that was killed before it could write
    (place / "of-root").touch(0o644)
    (place / "link").symlink_to("of-root")
    (files.directory / "not-a-user").mkdir()
    assert sorted(files.keep_only({"kept"})) == [f"{ADA}/.t.0123", f"{ADA}/old"]
    assert sorted(path.name for path in place.iterdir()) == ["kept", "link", "of-root"]
    assert files.keep_only({"kept"}) == ()
