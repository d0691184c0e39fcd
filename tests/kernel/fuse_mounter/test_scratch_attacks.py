# SPDX-License-Identifier: Apache-2.0
"""What users and accidents do to scratch while it is cleaned: nothing outside is destroyed."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import PROC
from agents.mounts import LinuxMounts, MountFlag
from fuse_mounter.places import ANCHOR_SOURCE
from fuse_mounter.scratch import run as run_module
from fuse_mounter.scratch.config import ScratchRule
from fuse_mounter.scratch.outcome import Outcome
from fuse_mounter.scratch.place import place_of
from fuse_mounter.scratch.run import Run
from tests.fakes.hanging_mount import HangingMounts

OLD_S = time.time() - 60 * 86400
MOUNTS = LinuxMounts()


#: Says its own peak: what its parent is told of (`ru_maxrss`) begins with the parent's.
_PROGRAM = """
import sys
from agents.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    sys.stderr.write(next(line for line in status if line.startswith("VmHWM:")))
sys.exit(code)
"""


class Site:
    """A file system with scratch and something precious beside it: same device, same inodes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch, self.outside = path / "scratch", path / "outside"
        for folder in (self.scratch, self.outside):
            folder.mkdir()
        self.precious = [self.old(f"outside/{name}") for name in ("0", "1", "sub/2")]

    def old(self, name: str, content: bytes = b"x") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (OLD_S, OLD_S))
        return path

    def prepared(self, **keys: Any) -> Run:
        rule = ScratchRule.model_validate(
            {
                "directory": str(self.scratch),
                "older_than": "30d",
                "armed": True,
                "grace": 0,
                **keys,
            }
        )
        return Run(rule, place_of(rule, None, mountinfo.read(PROC)), PROC, "node", dry=False)

    def run(self, meanwhile: Callable[[], None] = lambda: None, **keys: Any) -> dict[str, Any]:
        """`meanwhile` is done once, after the first file has gone."""
        calls = itertools.count()

        def told(*_: object) -> None:
            if not next(calls):
                meanwhile()

        return trio.run(replace(self.prepared(**keys), told=told).run).document()

    def unharmed(self) -> bool:
        return all(path.read_bytes() == b"x" for path in self.precious)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    place = tmp_path / "fs"
    place.mkdir()
    MOUNTS.mount("scratch", place, "tmpfs", MountFlag(0), "size=64m")
    try:
        yield Site(place)
    finally:
        for entry in reversed(mountinfo.below(mountinfo.read(PROC), place)):
            MOUNTS.unmount(Path(entry.mount_point), detach=True)


def test_no_mount_inside_is_entered(site: Site) -> None:
    site.old("scratch/ada/old")
    other, bound = site.scratch / "ada/other", site.scratch / "ada/bound"
    for folder in (other, bound):
        folder.mkdir()
    MOUNTS.mount("other", other, "tmpfs", MountFlag(0), "size=1m")
    site.precious.append(site.old("scratch/ada/other/of another file system"))
    # Of this very file system: its device number tells nothing.
    MOUNTS.bind(site.outside, bound)
    outcome = site.run()
    assert (outcome["removed"], outcome["skipped"]["mount"]) == (1, 2)
    assert site.unharmed()


def test_what_is_mounted_while_it_walks_is_not_entered(site: Site) -> None:
    for user in "abcdef":
        site.old(f"scratch/{user}/sub/old")

    def bind() -> None:
        for user in "abcdef":
            MOUNTS.bind(site.outside, site.scratch / user / "sub")

    outcome = site.run(bind)
    # The folder in which it is just then it has entered before: by its descriptor, beneath.
    assert outcome["removed"] == 1
    assert outcome["skipped"] == {"mount": 5}
    assert site.unharmed()


def test_what_hangs_inside_is_not_even_asked(site: Site) -> None:
    site.old("scratch/ada/old")
    (site.scratch / "ada/hangs").mkdir()
    with HangingMounts(os.getpid(), str(site.scratch / "ada/hangs")) as hanging:
        outcome = site.run()
        assert (outcome["removed"], outcome["skipped"]) == (1, {"mount": 1})
        assert not hanging.taken.is_set()
        MOUNTS.unmount(site.scratch / "ada/hangs", detach=True)


def test_a_link_swapped_in_leads_nowhere(site: Site) -> None:
    for user in "abcdef":
        site.old(f"scratch/{user}/sub/old")
        site.old(f"scratch/{user}/file")

    def swap() -> None:
        for user in "abcdef":
            (site.scratch / user / "sub").rename(site.path / f"moved-{user}")
            (site.scratch / user / "sub").symlink_to(site.outside)
            (site.scratch / user / "file").unlink(missing_ok=True)
            (site.scratch / user / "file").symlink_to(site.precious[0])

    site.run(swap)
    assert site.unharmed()
    assert len(list(site.path.glob("moved-*/old"))) >= 5


def test_what_is_moved_out_is_somebody_elses(site: Site) -> None:
    for number in range(600):  # more than are read at once
        site.old(f"scratch/ada/deep/sub/{number}")
    mine = site.path / "mine"

    def move() -> None:
        (site.scratch / "ada/deep").rename(mine)

    outcome = site.run(move)
    assert len(list((mine / "sub").iterdir())) == 599
    assert outcome["skipped"]["moved"] > 0


def test_what_is_moved_within_is_left_for_the_next_run(site: Site) -> None:
    for number in range(600):
        site.old(f"scratch/ada/sub/{number}")
    (site.scratch / "bob").mkdir()

    def move() -> None:
        (site.scratch / "ada/sub").rename(site.scratch / "bob/sub")

    site.run(move)
    left = len(list((site.scratch / "bob/sub").iterdir()))
    assert left > 0
    assert site.run()["removed"] == left


def test_a_hard_link_frees_nothing_and_harms_nobody(site: Site) -> None:
    big = site.precious[0]
    (site.scratch / "ada").mkdir()
    os.link(big, site.scratch / "ada/link")
    sparse = site.old("scratch/ada/sparse")
    os.truncate(sparse, 1 << 40)
    os.utime(sparse, (OLD_S, OLD_S))
    outcome = site.run(most_bytes="1MiB")
    assert outcome["removed"] == 2
    assert outcome["removed_bytes"] < 1 << 20  # what it occupies, not what it pretends
    assert outcome["scanned_bytes"] < 1 << 20
    assert site.unharmed()


def test_any_name_goes_and_no_other(site: Site) -> None:
    names = [b"line\nbreak", b"\xff\xfe\xed\xa0\x80", b"-rf", b"*", b"..x", b"\x1b[2J", b"n" * 255]
    folder = os.fsencode(site.scratch) + b"/a\nb\xff"
    os.mkdir(folder)  # noqa: PTH102 -- a name that no Path holds
    for name in names:
        path = folder + b"/" + name
        os.close(os.open(path, os.O_CREAT))
        os.utime(path, (OLD_S, OLD_S))
    told = site.run(grace="7d")
    assert (told["problems"], told["skipped"]) == ([], {"announced": len(names)})
    assert site.run()["removed"] == len(names)
    assert site.unharmed()


def test_a_folder_of_the_rule_that_a_user_made_a_link(site: Site) -> None:
    """He owns what lies on the way to it."""
    (site.scratch / "ada").symlink_to(site.outside)
    for folder in ("ada", "ada/sub"):
        with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)) as raised:
            site.run(folder=folder, users=False)
        assert raised.value.errno in (errno.ENOTDIR, errno.ELOOP)
    assert site.unharmed()


def test_a_link_on_the_way_to_the_directory_is_the_administrators(site: Site) -> None:
    site.old("scratch/ada/old")
    (site.path / "link").symlink_to(site.scratch)
    assert site.run(directory=str(site.path / "link"))["removed"] == 1


@pytest.mark.parametrize("how", ["covered", "replaced", "gone"])
def test_a_mount_that_is_replaced_while_it_walks_ends_the_run(
    site: Site, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(run_module, "_SAME_S", 0.0)
    for number in range(5):
        site.old(f"scratch/ada/{number}")
    kept = os.open(site.scratch / "ada", os.O_RDONLY)

    def replace_it() -> None:
        if how == "covered":
            MOUNTS.bind(site.outside, site.scratch)
        else:
            MOUNTS.unmount(site.path, detach=True)
        if how == "replaced":
            MOUNTS.mount("other", site.path, "tmpfs", MountFlag(0), "size=1m")
            site.old("scratch/ada/of the new one")

    with pytest.raises(AgentError, match="lies on another mount than it just did"):
        site.run(replace_it)
    assert len(os.listdir(kept)) == 4
    os.close(kept)
    if how == "replaced":
        assert (site.scratch / "ada/of the new one").exists()


def test_what_is_mounted_read_only_is_refused(site: Site) -> None:
    site.old("scratch/ada/old")
    subprocess.run(["mount", "-o", "remount,ro", str(site.path)], check=True)
    with pytest.raises(AgentError, match="is mounted read-only"):
        site.run()


def test_what_is_not_the_file_system_that_it_should_be(site: Site) -> None:
    path = site.old("scratch/ada/old")
    with pytest.raises(AgentError, match=r"lies on tmpfs .* and not on nfs4"):
        site.run(file_system="nfs4")
    assert path.exists()
    assert site.run(file_system="tmpfs")["removed"] == 1


def test_an_anchor_is_never_cleaned(site: Site) -> None:
    (site.path / "anchor").mkdir()
    MOUNTS.mount(ANCHOR_SOURCE, site.path / "anchor", "tmpfs", MountFlag(0), "size=1m")
    path = site.old("anchor/ada/old")
    with pytest.raises(AgentError, match="nothing is mounted at"):
        site.run(directory=str(site.path / "anchor"))
    assert path.exists()


def test_a_scratch_that_is_full(site: Site) -> None:
    """Nobody can be told, and so nothing is taken from them; what is short of space is freed."""
    old = site.old("scratch/ada/old", b"x" * (1 << 20))
    room = os.statvfs(site.scratch)
    (site.scratch / "fills").write_bytes(bytes(room.f_bavail * room.f_bsize))
    with pytest.raises(OSError, match="No space"):
        (site.scratch / "more").write_bytes(b"x")
    outcome = site.run(grace="7d")
    assert "'ada' could not be told: No space left on device" in outcome["problems"]
    assert old.exists()
    outcome = site.run(grace="7d", keep_free={"target": "1MiB", "not_within": "7d"})
    assert outcome["removed"] == 1
    assert site.unharmed()


def test_what_is_open_or_mapped_stays(site: Site) -> None:
    opened, mapped, closed = (site.old(f"scratch/ada/{name}") for name in ("open", "map", "no"))
    program = (
        "import mmap, sys\n"
        f"file = open({str(opened)!r}, 'rb')\n"
        f"other = open({str(mapped)!r}, 'rb')\n"
        "area = mmap.mmap(other.fileno(), 0, prot=mmap.PROT_READ)\n"
        "other.close()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    # In a mount namespace of its own, as a container has it.
    argv = ["unshare", "-m", sys.executable, "-c", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdin is not None
        assert user.stdout.readline() == "ready\n"
        os.utime(mapped, (OLD_S, OLD_S))  # mapping it counts as an access
        outcome = site.run()
        assert (outcome["skipped"], opened.exists(), mapped.exists()) == ({"open": 2}, True, True)
        assert not closed.exists()
        user.stdin.close()
    assert site.run()["removed"] == 2


def test_an_empty_folder_in_use_stays(site: Site) -> None:
    """Somebody stands in it, or it is a volume of a container."""
    stood, volume, empty = (site.scratch / f"ada/{name}" for name in ("cwd", "volume", "empty"))
    for folder in (stood, volume, empty):
        folder.mkdir(parents=True)
    (site.path / "volume").mkdir()
    MOUNTS.bind(volume, site.path / "volume")
    time.sleep(1.1)
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=stood, stdin=subprocess.PIPE):
        outcome = site.run(older_than="1s", clock="modified")
    assert outcome["removed_folders"] == 1
    assert sorted(path.name for path in (site.scratch / "ada").iterdir()) == ["cwd", "volume"]


def test_memory_does_not_grow_with_the_number_of_files(site: Site, soak: bool) -> None:
    """All of them announced, which is when most is remembered."""
    many = 1_000_000 if soak else 50_000
    MOUNTS.mount("many", site.scratch, "tmpfs", MountFlag(0), "size=4g")
    few = _peak_memory(site, 100)
    assert _peak_memory(site, many) - few < 12 << 20


def _peak_memory(site: Site, files: int) -> int:
    """Of a run that announces (and, of many, one that removes), in a process of its own."""
    shutil.rmtree(site.scratch / "ada", ignore_errors=True)
    (site.scratch / "ada").mkdir()
    folder = os.open(site.scratch / "ada", os.O_RDONLY)
    for number in range(files):
        name = f"{number:07}"
        os.close(os.open(name, os.O_CREAT, dir_fd=folder))
        os.utime(name, (OLD_S, OLD_S), dir_fd=folder)
    os.close(folder)
    config = site.path / "config.yaml"
    rule = {
        "directory": str(site.scratch),
        "older_than": "30d",
        "armed": True,
        "grace": "7d",
        "rate": 10_000_000,
    }
    peaks = []
    for grace in ("7d", 0) if files > 50_000 else ("7d",):
        config.write_text(json.dumps({"fuse_mounter": {"scratch": [{**rule, "grace": grace}]}}))
        argv = [sys.executable, "-c", _PROGRAM, "scratch", "run", "--json", "--config", str(config)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=600)
        outcome = next(iter(json.loads(done.stdout).values()))
        peaks.append(int(done.stderr.split()[-2]) * 1024)
        assert outcome["skipped"].get("announced", 0) + outcome["removed"] == files
    return max(peaks)


def test_progress_is_told_now_and_then(site: Site) -> None:
    """And not for each of a million files."""
    for number in range(300):
        site.old(f"scratch/ada/{number}")
    seen: list[Outcome] = []
    trio.run(replace(site.prepared(rate=500), progress=seen.append).run)
    assert 0 < len(seen) < 50
