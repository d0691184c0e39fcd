# SPDX-License-Identifier: Apache-2.0
"""Random operations, compared with a model: bytes of one file, and names of a whole tree."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.passthrough_mount import passthrough

MAX_SIZE = 300_000


class OneFile:
    """A file, and what its bytes must be."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path, self.chance, self.content = path, chance, bytearray()
        self.openers = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2)]

    @property
    def descriptor(self) -> int:
        """One of those who have it open: what one writes the other reads."""
        return self.chance.choice(self.openers)

    def span(self) -> tuple[int, int]:
        return self.chance.randrange(MAX_SIZE), self.chance.randrange(1, 70_000)

    def write(self) -> None:
        offset, size = self.span()
        data = self.chance.randbytes(size)
        assert os.pwrite(self.descriptor, data, offset) == size
        if offset > len(self.content):
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + size] = data

    def read(self) -> None:
        offset, size = self.span()
        assert os.pread(self.descriptor, size, offset) == self.content[offset : offset + size]

    def truncate(self) -> None:
        size = self.chance.randrange(MAX_SIZE)
        if self.chance.random() < 0.5:
            os.ftruncate(self.descriptor, size)
        else:
            os.truncate(self.path, size)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def map(self) -> None:
        if not self.content:
            return
        with mmap.mmap(self.descriptor, len(self.content)) as memory:
            assert memory[:] == self.content
            offset = self.chance.randrange(len(self.content))
            data = self.chance.randbytes(min(1000, len(self.content) - offset))
            memory[offset : offset + len(data)] = data
        self.content[offset : offset + len(data)] = data

    def append(self) -> None:
        data = self.chance.randbytes(100)
        with self.path.open("ab") as file:
            file.write(data)
        self.content.extend(data)

    def leave_a_hole(self) -> None:
        """Beyond the end, then something after it."""
        offset = len(self.content) + self.chance.randrange(1, 100_000)
        if offset < MAX_SIZE:
            os.pwrite(self.descriptor, b"after", offset)
            self.content.extend(bytes(offset - len(self.content)) + b"after")

    def sync(self) -> None:
        os.fsync(self.descriptor)

    def reopen(self) -> None:
        which = self.chance.randrange(2)
        os.close(self.openers[which])
        self.openers[which] = os.open(self.path, os.O_RDWR)
        assert os.fstat(self.openers[which]).st_size == len(self.content)

    def close(self) -> None:
        for descriptor in self.openers:
            os.close(descriptor)


@pytest.mark.soak
@pytest.mark.parametrize("options", [("--cache-timeout", "0"), (), ("--writeback",)])
def test_one_file(tmp_path: Path, soak: bool, options: tuple[str, ...]) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with passthrough(tmp_path / "below", tmp_path / "at", *options) as mounted:
        one = OneFile(mounted.at / "file", chance)
        operations = [one.write, one.read, one.truncate, one.map, one.append, one.reopen]
        operations += [one.leave_a_hole, one.sync]
        for step in range(20_000 if soak else 400):
            operation = chance.choice(operations)
            operation()
            assert os.fstat(one.descriptor).st_size == len(one.content), (seed, step, operation)
        one.reopen()
        assert os.pread(one.descriptor, 2 * MAX_SIZE, 0) == one.content, seed
        one.close()
        assert (mounted.below / "file").read_bytes() == one.content, seed


class Twins:
    """The same random operation on the mount and on a plain directory."""

    def __init__(self, mount: Path, plain: Path, chance: random.Random) -> None:
        self.mount, self.plain, self.chance = mount, plain, chance

    def path(self) -> str:
        depth = self.chance.randrange(1, 4)
        return "/".join(self.chance.choice("abcd") for _ in range(depth))

    def both(self, call: Callable[[Path], object]) -> None:
        outcomes = []
        for root in (self.mount, self.plain):
            try:
                outcomes.append(call(root))
            except OSError as error:
                outcomes.append((error.errno, type(error)))
        assert outcomes[0] == outcomes[1]

    def step(self) -> None:
        one, other = self.path(), self.path()
        text = str(self.chance.random())
        calls: list[Callable[[Path], object]] = [
            lambda root: (root / one).mkdir(),
            lambda root: (root / one).write_text(text),
            lambda root: (root / one).read_text(),
            lambda root: (root / one).unlink(),
            lambda root: (root / one).rmdir(),
            lambda root: bool((root / one).rename(root / other)),
            lambda root: os.link(root / one, root / other, follow_symlinks=False),
            lambda root: (root / one).symlink_to("/".join([".."] * one.count("/") + [other])),
            lambda root: (root / one).readlink(),
            lambda root: sorted(os.listdir(root / one)),
            lambda root: (root / one).lstat().st_nlink,
            lambda root: (root / one).chmod(0o600 + self.chance.randrange(1)),
            lambda root: os.truncate(root / one, 5),
            lambda root: os.mknod(root / one, 0o600 | stat.S_IFSOCK),
            lambda root: sorted(str(p.relative_to(root)) for p in root.rglob("*")),
        ]
        self.both(self.chance.choice(calls))


@pytest.mark.soak
def test_a_tree(tmp_path: Path, soak: bool) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    with passthrough(tmp_path / "below", tmp_path / "at") as mounted:
        # A new tree now and then: one that only grows is soon nothing but slow.
        for tree in range(50 if soak else 2):
            seed = random.randrange(1 << 32)
            roots = [root / str(tree) for root in (mounted.at, plain)]
            for root in roots:
                root.mkdir()
            twins = Twins(roots[0], roots[1], random.Random(seed))
            for step in range(1500):
                try:
                    twins.step()
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}, step {step}: {error}") from error
            assert contents(mounted.below / str(tree)) == contents(plain / str(tree)), seed
            for root in roots:
                shutil.rmtree(root)


def contents(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        text = path.read_text() if path.is_file() and not path.is_symlink() else None
        found[str(path.relative_to(root))] = (status.st_mode, text)
    return found
