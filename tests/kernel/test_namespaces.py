# SPDX-License-Identifier: Apache-2.0
"""Mount work in other mount namespaces, by the real helper process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agents import mountinfo
from agents.errors import Unavailable
from agents.hostfs import PROC
from agents.mounts import INERT, LinuxMounts, MountAttribute, Propagation
from agents.namespaces import Below, NamespaceHelper, NoAnswer
from tests.fakes.hanging_mount import HangingMounts


@pytest.fixture
def helper() -> Iterator[NamespaceHelper]:
    helper = NamespaceHelper.start()
    try:
        yield helper
    finally:
        helper.close()


@pytest.fixture
def pidfd() -> Iterator[int]:
    """A process in a mount namespace of its own."""
    child = subprocess.Popen(["unshare", "-m", "sleep", "600"])
    descriptor = os.pidfd_open(child.pid)
    ours = Path("/proc/self/ns/mnt").stat().st_ino
    try:
        eventually(lambda: Path(f"/proc/{child.pid}/ns/mnt").stat().st_ino != ours)
        eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        yield descriptor
    finally:
        os.close(descriptor)
        child.kill()
        child.wait(timeout=10)


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pid_of(pidfd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def seen(pidfd: int, path: Path) -> str:
    return Path(f"/proc/{pid_of(pidfd)}/root{path}").read_text()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_text("the file below")
    return path


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Detached mounts of files with some text."""
    mounts = LinuxMounts()
    made: list[int] = []

    def make(text: str) -> int:
        path = tmp_path / f"source-{len(made)}"
        path.write_text(text)
        made.append(mounts.clone(path))
        # Private: else what is mounted on it shows up on its peers, the host's among them.
        mounts.set_attributes(made[-1], INERT, propagation=Propagation.PRIVATE)
        return made[-1]

    yield make
    for descriptor in made:
        os.close(descriptor)


Detached = Callable[[str], int]


def test_attach_and_detach_are_seen_there_alone(
    helper: NamespaceHelper, pidfd: int, target: Path, detached: Detached
) -> None:
    helper.attach(pidfd, detached("one"), target)
    assert (seen(pidfd, target), target.read_text()) == ("one", "the file below")
    helper.attach(pidfd, detached("two"), target)
    assert (seen(pidfd, target), target.read_text()) == ("two", "the file below")
    helper.detach(pidfd, target)
    assert seen(pidfd, target) == "one"
    helper.detach(pidfd, target)
    assert (seen(pidfd, target), target.read_text()) == ("the file below", "the file below")


def test_replace_and_attach_beneath(
    helper: NamespaceHelper, pidfd: int, target: Path, detached: Detached, beneath: bool
) -> None:
    helper.attach(pidfd, detached("one"), target)
    if not beneath:
        with pytest.raises(OSError, match="Errno 22"):
            helper.replace(pidfd, detached("two"), target)
        with pytest.raises(OSError, match="Errno 22"):
            helper.attach(pidfd, detached("three"), target, beneath=True)
        assert seen(pidfd, target) == "one", "nothing has happened"
        return
    helper.replace(pidfd, detached("two"), target)
    assert seen(pidfd, target) == "two"
    helper.attach(pidfd, detached("three"), target, beneath=True)
    assert seen(pidfd, target) == "two"
    helper.detach(pidfd, target)
    assert seen(pidfd, target) == "three"
    helper.detach(pidfd, target)
    assert (seen(pidfd, target), target.read_text()) == ("the file below", "the file below")


def test_the_kernels_errno_comes_back(
    helper: NamespaceHelper, pidfd: int, target: Path, tmp_path: Path, detached: Detached
) -> None:
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "way").symlink_to(tmp_path)
    cases = {
        tmp_path / "absent": errno.ENOENT,
        tmp_path / "absent" / "deeper": errno.ENOENT,
        tmp_path / "link": errno.ELOOP,
        tmp_path / "way" / "target": errno.ENOTDIR,
        PROC / "self" / "status": errno.ENOTDIR,
        tmp_path / ".." / "target": errno.EINVAL,
        Path("target"): errno.EINVAL,
    }
    for path, number in cases.items():
        with pytest.raises(OSError, match=r"Errno") as caught:
            helper.attach(pidfd, detached("x"), path)
        assert (path, caught.value.errno) == (path, number)
    with pytest.raises(OSError, match=r"Errno") as caught:
        helper.detach(pidfd, target)
    assert caught.value.errno == errno.EINVAL, "nothing is mounted there"


def test_a_process_that_has_ended(helper: NamespaceHelper, target: Path) -> None:
    child = subprocess.Popen(["sleep", "600"])
    descriptor = os.pidfd_open(child.pid)
    child.kill()
    child.wait(timeout=10)
    with pytest.raises(ProcessLookupError):
        helper.detach(descriptor, target)
    os.close(descriptor)


def test_a_process_with_another_root_is_served_below_it(
    helper: NamespaceHelper, tmp_path: Path, detached: Detached
) -> None:
    inside = tmp_path / "root"
    (inside / "data").mkdir(parents=True)
    (inside / "data/target").write_text("below")
    # Private, so that what happens in it stays in it; chroot, not pivot_root.
    program = f"import os, time; os.chroot({str(inside)!r}); print(flush=True); time.sleep(600)"
    argv = ["unshare", "-m", "/usr/bin/python3", "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        descriptor = os.pidfd_open(child.pid)
        try:
            assert child.stdout is not None
            child.stdout.readline()
            helper.attach(descriptor, detached("in the root"), Path("/data/target"))
            entries = mountinfo.read(PROC, child.pid)
            assert len(mountinfo.at(entries, "/data/target")) == 1
            assert (inside / "data/target").read_text() == "below"
        finally:
            os.close(descriptor)
            child.kill()


def test_it_is_started_again_when_it_was_killed(
    helper: NamespaceHelper, pidfd: int, target: Path, detached: Detached
) -> None:
    helper.attach(pidfd, detached("before"), target)
    before = helper.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: Path(f"/proc/{before}/stat").read_text().split()[2] == "Z")
    helper.attach(pidfd, detached("after"), target)
    assert seen(pidfd, target) == "after"
    assert helper.pid != before


def test_many_threads_at_once(
    helper: NamespaceHelper, pidfd: int, tmp_path: Path, detached: Detached
) -> None:
    targets = [tmp_path / f"target-{number}" for number in range(40)]
    for path in targets:
        path.write_text("below")
    work = [(path, detached(path.name)) for path in targets]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: helper.attach(pidfd, one[1], one[0]), work))
    assert [seen(pidfd, path) for path in targets] == [path.name for path in targets]


def test_it_may_be_started_from_a_process_with_threads(
    pidfd: int, target: Path, detached: Detached
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        helper = NamespaceHelper.start()
        helper.attach(pidfd, detached("threads"), target)
        helper.close()
    finally:
        stop.set()
        thread.join()
    assert seen(pidfd, target) == "threads"


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from agents.namespaces import NamespaceHelper\n"
        "helper = NamespaceHelper.start()\n"
        "try: helper.detach(os.pidfd_open(os.getpid()), __import__('pathlib').Path('/nothing'))\n"
        "except OSError: print(helper.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    script = tmp_path / "parent.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(root)!r})\n{program}")
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, check=False)
    helper = int(done.stdout)
    eventually(lambda: not _runs(helper))


def _runs(pid: int) -> bool:
    try:
        return b"namespace_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_it_runs_from_the_first_request_until_it_is_closed(
    helper: NamespaceHelper, pidfd: int, target: Path, detached: Detached
) -> None:
    assert helper.pid is None, "who never asks never pays"
    helper.attach(pidfd, detached("once"), target)
    running = helper.pid
    assert running is not None
    assert _runs(running)
    helper.close()
    helper.close()
    assert not _runs(running)
    with pytest.raises(Unavailable, match="closed"):
        helper.detach(pidfd, target)


def test_a_file_system_that_never_answers_holds_up_its_own_namespace_alone(
    helper: NamespaceHelper, pidfd: int, target: Path, tmp_path: Path, detached: Detached
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    other = subprocess.Popen(["unshare", "-m", "sleep", "600"])
    others = os.pidfd_open(other.pid)
    try:
        eventually(lambda: Path(f"/proc/{other.pid}/comm").read_text() == "sleep\n")
        with HangingMounts(pid_of(pidfd), str(trap)) as hanging:
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(helper.attach, pidfd, detached("one"), trap / "a/b")
                assert hanging.taken.wait(timeout=10), "it is held up in the kernel"
                helper.attach(others, detached("two"), target)
                assert not waiting.done(), "others are served meanwhile"
                with pytest.raises(NoAnswer, match="did not answer in time"):
                    waiting.result(timeout=20)
            with pytest.raises(NoAnswer, match="still held up"):
                helper.attach(pidfd, detached("three"), target)
            helper.detach(others, target)
        eventually(lambda: _served(helper, pidfd, target, detached("four")))
        assert seen(pidfd, target) == "four"
    finally:
        os.close(others)
        other.kill()
        other.wait(timeout=10)


def _served(helper: NamespaceHelper, pidfd: int, target: Path, mount: int) -> bool:
    try:
        helper.attach(pidfd, mount, target)
    except NoAnswer:
        return False
    return True


def test_cover_what_was_meant_or_nothing(
    helper: NamespaceHelper, pidfd: int, target: Path, detached: Detached
) -> None:
    helper.attach(pidfd, detached("one"), target)
    (entry,) = mountinfo.at(mountinfo.read(PROC, pid_of(pidfd)), target)
    with pytest.raises(OSError, match="Errno 116"):
        helper.cover(pidfd, detached("two"), target, entry.mount_id + 1)
    assert seen(pidfd, target) == "one"
    helper.cover(pidfd, detached("two"), target, entry.mount_id)
    assert (seen(pidfd, target), target.read_text()) == ("two", "the file below")
    with pytest.raises(OSError, match="Errno 116"):
        helper.cover(pidfd, detached("three"), target, entry.mount_id)
    helper.detach(pidfd, target)
    assert seen(pidfd, target) == "one"


def test_what_lies_below_is_taken_along_and_our_own_mounts_stay(
    helper: NamespaceHelper, pidfd: int, tmp_path: Path
) -> None:
    mounts, place, there = LinuxMounts(), tmp_path / "place", tmp_path / "there"
    for path in (place, there):
        path.mkdir()
    try:
        for name in ("below", "above"):
            mounts.mount(name, place, "tmpfs", data="size=4k")
            (place / name).write_text(name)
        below, above = mountinfo.at(mountinfo.read(PROC), place)
        copy = mounts.clone(place)
        mounts.set_attributes(copy, MountAttribute.NONE, propagation=Propagation.SLAVE)
        mounts_there = mountinfo.read(PROC, pid_of(pidfd))
        holder = mountinfo.covering(mounts_there, there)
        assert holder is not None
        wrong = Below(str(place), 1, above.device)
        with pytest.raises(OSError, match="Errno 116"):
            helper.cover(pidfd, copy, there, holder.mount_id, wrong)
        helper.cover(pidfd, copy, there, holder.mount_id, Below(str(place), 1, below.device))
        os.close(copy)
        stack = mountinfo.at(mountinfo.read(PROC, pid_of(pidfd)), there)
        assert [entry.device for entry in stack] == [below.device, above.device]
        assert mountinfo.at(mountinfo.read(PROC), place) == (below, above)
        assert mountinfo.at(mountinfo.read(PROC), there) == ()
    finally:
        for _ in mountinfo.at(mountinfo.read(PROC), place):
            mounts.unmount(place, detach=True)
