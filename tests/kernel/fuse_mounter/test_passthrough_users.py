# SPDX-License-Identifier: Apache-2.0
"""The same random operations of several users on the mount and on a plain directory beside what is
served: every answer, every error and all that is left has to be the same.

Each user has one process for each of the two places, which keeps its working directory, umask and
open files.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import posix_user
from tests.fakes.passthrough_mount import passthrough

#: uid, gid, and the groups beside it. All that follow root share the last group.
USERS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (0, 0, ()),
    (12001, 13001, (13009,)),
    (12002, 13002, (13001, 13009)),
    (12003, 13003, ()),
)
GROUPS = (0, 13001, 13002, 13003, 13009)
MODES: tuple[int, ...] = (
    0o000,
    0o400,
    0o600,
    0o644,
    0o666,
    0o700,
    0o755,
    0o775,
    0o777,
    0o1777,
    0o2755,
    0o2775,
)
MODES += (0o2777, 0o3777, 0o4755, 0o6775, 0o2664)
#: user::rwx, user:12002:rw-, group::r-x, mask::rwx, other::---, as the kernel has them.
ACL = "0200000001000700ffffffff02000600e22e000004000500ffffffff10000700ffffffff20000000ffffffff"
FLAGS: tuple[int, ...] = (
    os.O_RDONLY,
    os.O_WRONLY,
    os.O_RDWR,
    os.O_WRONLY | os.O_APPEND,
    os.O_RDWR | os.O_TRUNC,
)
FLAGS += (os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDONLY | os.O_NOFOLLOW)
FLAGS += (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDONLY | os.O_DIRECTORY)


class Person:
    """One user at one place."""

    def __init__(self, who: tuple[int, int, tuple[int, ...]], place: Path) -> None:
        argv = [sys.executable, "-I", "-S", posix_user.__file__, json.dumps([*who, str(place)])]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def do(self, words: list[Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        return json.loads(self.process.stdout.readline())


@contextmanager
def person(who: tuple[int, int, tuple[int, ...]], place: Path) -> Iterator[Person]:
    one = Person(who, place)
    with one.process:
        try:
            yield one
        finally:
            one.process.kill()


def words(chance: random.Random) -> list[Any]:
    """One operation and what it is about."""

    def path() -> str:
        return "/".join(chance.choice("abc") for _ in range(chance.choice((1, 1, 2, 2, 3))))

    mode, handle = chance.choice(MODES), chance.randrange(2)
    # Not neither of the two: then FUSE asks nothing, and another's set-id file is not refused.
    owner = chance.choice([(uid, -1) for uid, _, _ in USERS] + [(-1, gid) for gid in GROUPS])
    acl = chance.choice(("system.posix_acl_default", "system.posix_acl_access"))
    return chance.choice([
        ["mkdir", path(), mode],
        ["mkdir", chance.choice("ab"), 0o777],
        ["open", path(), chance.choice(FLAGS), mode, handle],
        ["open", path(), chance.choice(FLAGS), 0o666, handle],
        ["write", handle, chance.randrange(1, 5000)],
        ["write", handle, chance.randrange(1, 50)],
        ["read", handle],
        ["fstat", handle],
        ["ftruncate", handle, chance.randrange(9000)],
        ["fchmod", handle, mode],
        ["close", handle],
        ["unlink", path()],
        ["rmdir", path()],
        ["rename", path(), path(), chance.choice((0, 0, 1, 2))],
        ["link", path(), path()],
        ["symlink", path(), path()],
        ["readlink", path()],
        ["listdir", path()],
        ["lstat", path()],
        ["stat", path()],
        ["access", path(), chance.randrange(8)],
        ["chmod", path(), mode],
        ["chmod", path(), mode],
        ["chown", path(), *owner],
        ["truncate", path(), chance.randrange(9000)],
        ["utime", path(), chance.choice((None, 0, 10**9, -(10**9)))],
        ["setxattr", path(), "user.one", "00ff"],
        ["setxattr", path(), acl, ACL],
        ["removexattr", path(), chance.choice((acl, "user.one"))],
        ["listxattr", path()],
        ["mkfifo", f"{path()}f", mode],
        ["umask", chance.choice((0, 0o002, 0o022, 0o077))],
        ["chdir", chance.choice(("", "", path()))],
    ])  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("timeout", ["0", "60"])
def test_users(tmp_path: Path, soak: bool, timeout: str) -> None:
    for directory in (tmp_path, tmp_path.parent):
        directory.chmod(0o755)
    with passthrough(tmp_path / "below", tmp_path / "at", "--cache-timeout", timeout) as mounted:
        for round_ in range(100 if soak else 1):
            seed = random.randrange(1 << 32)
            places = (mounted.at / str(round_), mounted.below / f"plain-{round_}")
            for place in places:
                place.mkdir()
                place.chmod(0o1777)
            _compare(random.Random(seed), places, f"seed {seed}")


def _compare(chance: random.Random, places: tuple[Path, Path], where: str) -> None:
    past: list[Any] = []
    with ExitStack() as stack:
        pairs = [
            [stack.enter_context(person(who, place)) for place in places] for who in USERS
        ]  # fmt: skip
        for step in range(800):
            who, asked = chance.randrange(len(USERS)), words(chance)
            mount, plain = (one.do(asked) for one in pairs[who])
            past.append((who, asked, plain))
            assert mount == plain, f"{where}, step {step}: {mount} is not {plain}: {past[-5:]}"
        trees = [one.do(["tree"]) for one in pairs[0]]
        assert trees[0] == trees[1], where
