# SPDX-License-Identifier: Apache-2.0
"""The passthrough file system against the directory itself, and against Debian's bindfs.

All show one directory of small files and one large file, and are used in turn. Names and attributes
are cached by the kernel for a second in both FUSE file systems (their defaults): a look at what was
just looked at is told from one that has to ask the server. A second mount of ours keeps them for a
minute and writes back. What is in the large file is in memory; it is the way there that differs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agents import mountinfo
from agents.command import NODESHARE
from tests.bench.measure import Context, NotHere, Row, median, times_the_peer
from tests.bench.workplace import Workplace, needs, needs_kernel, workplace

_DIRECTORIES, _FILES, _SMALL = 20, 50, 1024
_BLOCK = 1 << 20
#: Longer than both keep names.
_FORGOTTEN_S = 1.2

Test = Callable[[Path], float]

_OURS, _TUNED, _NATIVE, _PEER = "passthrough", "tuned", "native", "bindfs"
_STAT, _WALK = "stat, just looked at", "walk, not looked at lately"
_SMALL_READS, _READ = "open+read+close of 1 KiB files", "streaming read, 1 MiB blocks"
#: For whom, compared with whom.
_GOALS = {
    (_STAT, _TUNED, _NATIVE): times_the_peer(0.8),
    (_WALK, _OURS, _PEER): times_the_peer(0.3),
    (_SMALL_READS, _OURS, _PEER): times_the_peer(1),
    (_READ, _OURS, _NATIVE): times_the_peer(0.1),
}


def measure(context: Context) -> Sequence[Row]:
    """Rows of rates, against both."""
    needs_kernel(context, fuse=True)
    with workplace(context) as place, _passthrough(place) as ours, _bindfs(place) as peer:
        places = {**ours, _NATIVE: place.directory / "data"}
        missing = peer if isinstance(peer, str) else ""
        if isinstance(peer, Path):
            places[_PEER] = peer
        rates = _in_turn(context, places)
    rows = []
    for what, (unit, of_place) in rates.items():
        native = median(of_place[_NATIVE], unit)
        for name, extra in ((_OURS, ""), (_TUNED, f", {_TUNED}")):
            if name not in of_place:
                continue
            figure = median(of_place[name], unit)
            rows.append(
                Row(what + extra, figure, _NATIVE, native, _GOALS.get((what, name, _NATIVE)))
            )
        theirs = median(of_place[_PEER], unit) if _PEER in of_place else None
        figure, goal = median(of_place[_OURS], unit), _GOALS.get((what, _OURS, _PEER))
        rows.append(Row(what, figure, _PEER, theirs, goal, note=missing))
    return rows


def _in_turn(
    context: Context, places: Mapping[str, Path]
) -> dict[str, tuple[str, dict[str, list[float]]]]:
    """For each test its unit, and all repetitions in each place."""
    megabytes = context.pick(128, 32)
    tests: dict[str, tuple[str, bool, bool, Test]] = {
        _STAT: ("/s", False, True, _stat),
        "stat, not looked at lately": ("/s", True, False, _stat),
        _WALK: ("entries/s", True, False, _walk),
        _SMALL_READS: ("files/s", False, True, _read_small),
        "create+write+unlink of 1 KiB files": ("files/s", False, True, _create_small),
        _READ: ("MB/s", False, False, _read_large),
        "streaming write, 1 MiB blocks": (
            "MB/s",
            False,
            False,
            lambda at: _write_large(at, megabytes),
        ),
        "writes of 4 KiB": ("MB/s", False, True, lambda at: _write_large(at, megabytes // 4, 4096)),
    }
    _make(places[_NATIVE], megabytes)
    rates = {}
    for what, (unit, late, tuned, test) in tests.items():
        found: dict[str, list[float]] = {n: [] for n in places if tuned or n != _TUNED}
        for _ in range(context.pick(7, 1)):
            if late:
                time.sleep(_FORGOTTEN_S)
            for name, values in found.items():
                if not late:
                    _stat(places[name])
                values.append(test(places[name]))
        rates[what] = unit, found
    return rates


def _make(directory: Path, megabytes: int) -> None:
    for path in _small_files(directory):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(_SMALL))
    with (directory / "large").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(_BLOCK))


def _small_files(directory: Path) -> list[Path]:
    return [
        directory / f"small/d{number:02}/f{each:03}"
        for number in range(_DIRECTORIES)
        for each in range(_FILES)
    ]


def _rate(count: int, act: Callable[[], object]) -> float:
    before = time.perf_counter()
    act()
    return count / (time.perf_counter() - before)


def _stat(directory: Path) -> float:
    names = [str(path) for path in _small_files(directory)]
    return _rate(len(names), lambda: [os.stat(name) for name in names])  # noqa: PTH116 -- pathlib costs more than the call


def _walk(directory: Path) -> float:
    count = _DIRECTORIES * (_FILES + 1)
    return _rate(count, lambda: list(os.walk(directory / "small")))


def _read_small(directory: Path) -> float:
    names = [str(path) for path in _small_files(directory)]

    def read() -> None:
        for name in names:
            descriptor = os.open(name, os.O_RDONLY)
            while os.read(descriptor, 4096):
                pass
            os.close(descriptor)

    return _rate(len(names), read)


def _create_small(directory: Path) -> float:
    names = [str(directory / f"new{number}") for number in range(200)]

    def create() -> None:
        for name in names:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(descriptor, b"x" * _SMALL)
            os.close(descriptor)
        for name in names:
            os.unlink(name)  # noqa: PTH108 -- the same

    return _rate(len(names), create)


def _read_large(directory: Path) -> float:
    """In memory at the source, forgotten by the file system on top."""
    descriptor = os.open(directory / "large", os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    if _is_fuse(directory):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(_BLOCK)

    def read() -> None:
        while os.readv(descriptor, [buffer]):
            pass

    rate = _rate(size, read)
    os.close(descriptor)
    return rate / 1e6


def _write_large(directory: Path, megabytes: int, block_size: int = _BLOCK) -> float:
    """Until closed, not until it is on the disk."""
    path, block = directory / "written", b"x" * block_size

    def write() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for _ in range(megabytes * _BLOCK // block_size):
            os.write(descriptor, block)
        os.close(descriptor)

    rate = _rate(megabytes * _BLOCK, write)
    path.unlink()
    return rate / 1e6


def _is_fuse(directory: Path) -> bool:
    return directory.name != "data"


@contextmanager
def _passthrough(place: Workplace) -> Iterator[Mapping[str, Path]]:
    """Published by the agent, as pods would see them: as it is, and tuned."""
    source = place.directory / "data"
    source.mkdir()
    options: Mapping[str, Mapping[str, object]] = {
        _OURS: {},
        _TUNED: {"cache_timeout": "60s", "writeback": True},
    }
    mounts = [
        {
            "name": name,
            "driver": "passthrough",
            "source": str(source),
            "path": name,
            "options": each,
        }
        for name, each in options.items()
    ]
    root = place.directory / "mounts"
    place.configure(fuse_mounter={"root": str(root), "mounts": mounts})
    agent = place.agent("mounts")
    try:
        agent.until_ready()
        yield {name: root / name for name in options}
    finally:
        agent.stop()
        place.run([*NODESHARE, "mounts", "drain", "--all", "--config", str(place.config)])


@contextmanager
def _bindfs(place: Workplace) -> Iterator[Path | str]:
    """Mounted with its defaults; or why it is not."""
    try:
        program = needs("bindfs", "apt-get install bindfs")
    except NotHere as lacking:
        yield str(lacking)
        return
    target = place.directory / "bindfs"
    target.mkdir()
    client = place.start("bindfs", [program, "-f", str(place.directory / "data"), str(target)])
    proc = place.context.host.proc
    try:
        client.until(lambda: mountinfo.at(mountinfo.read(proc), target), "mounted")
        yield target
    finally:
        client.stop()
