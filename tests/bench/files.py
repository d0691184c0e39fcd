# SPDX-License-Identifier: Apache-2.0
"""The passthrough file system against the directory itself, and against Debian's bindfs.

All three show one directory of small files and one large file, and are used in turn. Names and
attributes are cached by the kernel for a second in both FUSE file systems (their defaults): a look
at what was just looked at is told from one that has to ask the server. What is in the large file
is in memory; it is the way there that differs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agents import mountinfo
from agents.command import NODESHARE
from tests.bench.measure import Context, NotHere, Row, median
from tests.bench.workplace import Workplace, needs, needs_kernel, workplace

_DIRECTORIES, _FILES, _SMALL = 20, 50, 1024
_BLOCK = 1 << 20
#: Longer than both keep names.
_FORGOTTEN_S = 1.2

Test = Callable[[Path], float]


def measure(context: Context) -> Sequence[Row]:
    """Rows of rates, against both."""
    needs_kernel(context, fuse=True)
    with workplace(context) as place, _passthrough(place) as ours, _bindfs(place) as peer:
        places = {"passthrough": ours, "native": place.directory / "data"}
        missing = peer if isinstance(peer, str) else ""
        if isinstance(peer, Path):
            places["bindfs"] = peer
        rates = _in_turn(context, places)
    rows = []
    for what, (unit, of_place) in rates.items():
        figure = median(of_place["passthrough"], unit)
        rows.append(Row(what, figure, "native", median(of_place["native"], unit)))
        theirs = median(of_place["bindfs"], unit) if "bindfs" in of_place else None
        rows.append(Row(what, figure, "bindfs", theirs, note=missing))
    return rows


def _in_turn(
    context: Context, places: Mapping[str, Path]
) -> dict[str, tuple[str, dict[str, list[float]]]]:
    """For each test its unit, and all repetitions in each place."""
    megabytes = context.pick(128, 32)
    tests: dict[str, tuple[str, bool, Test]] = {
        "stat, just looked at": ("/s", False, _stat),
        "stat, not looked at lately": ("/s", True, _stat),
        "walk, not looked at lately": ("entries/s", True, _walk),
        "open+read+close of 1 KiB files": ("files/s", False, _read_small),
        "create+write+unlink of 1 KiB files": ("files/s", False, _create_small),
        "streaming read, 1 MiB blocks": ("MB/s", False, _read_large),
        "streaming write, 1 MiB blocks": ("MB/s", False, lambda at: _write_large(at, megabytes)),
    }
    _make(places["native"], megabytes)
    rates = {}
    for what, (unit, late, test) in tests.items():
        found: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(context.pick(5, 1)):
            if late:
                time.sleep(_FORGOTTEN_S)
            for name, directory in places.items():
                if not late:
                    _stat(directory)
                found[name].append(test(directory))
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


def _write_large(directory: Path, megabytes: int) -> float:
    """Until closed, not until it is on the disk."""
    path, block = directory / "written", b"x" * _BLOCK

    def write() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for _ in range(megabytes):
            os.write(descriptor, block)
        os.close(descriptor)

    rate = _rate(megabytes * _BLOCK, write)
    path.unlink()
    return rate / 1e6


def _is_fuse(directory: Path) -> bool:
    return directory.name != "data"


@contextmanager
def _passthrough(place: Workplace) -> Iterator[Path]:
    """Published by the agent, as pods would see it."""
    source = place.directory / "data"
    source.mkdir()
    mount = {"name": "bench", "driver": "passthrough", "source": str(source), "path": "bench"}
    root = place.directory / "mounts"
    place.configure(fuse_mounter={"root": str(root), "mounts": [mount]})
    agent = place.agent("mounts")
    try:
        agent.until_ready()
        yield root / "bench"
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
