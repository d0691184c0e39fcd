# SPDX-License-Identifier: Apache-2.0
"""The passthrough file system when something runs out, and when it may write later."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from agents.mounts import LinuxMounts
from tests.fakes.mount_node import eventually
from tests.fakes.passthrough_mount import passthrough

MEGABYTE = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A storage of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    LinuxMounts().mount("small", place, "tmpfs", data="size=1m,mode=0777")
    yield place
    LinuxMounts().unmount(place, detach=True)


def fill(path: Path) -> int:
    """Write until an error, which is that of a full disk; how much was taken."""
    taken: list[int] = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(OSError, match="No space left"):
            taken.extend(os.write(descriptor, b"x" * 100_000) for _ in range(64))
        assert os.fstat(descriptor).st_size == sum(taken)
    finally:
        os.close(descriptor)
    return sum(taken)


def test_a_full_disk_is_an_error_of_the_write_and_of_nothing_else(
    small: Path, tmp_path: Path
) -> None:
    with passthrough(small, tmp_path / "at") as one:
        (one.at / "kept").write_bytes(b"kept" * 1000)
        taken = fill(one.at / "f")
        assert 0.8 * MEGABYTE < taken <= MEGABYTE
        assert (small / "f").stat().st_size == taken
        assert os.statvfs(one.at).f_bavail == 0
        assert (one.at / "kept").read_bytes() == b"kept" * 1000
        (one.at / "f").unlink()
        eventually(lambda: os.statvfs(one.at).f_bavail > 100, "there is room again")
        (one.at / "g").write_bytes(b"y" * 500_000)
        above, below = os.statvfs(one.at), os.statvfs(small)
        assert (above.f_blocks * above.f_frsize, above.f_namemax) == (MEGABYTE, 255)
        assert above.f_files == below.f_files


@pytest.mark.parametrize("tell", [os.fsync, os.close])
def test_what_is_written_later_and_finds_no_room_is_told_at_last(
    small: Path, tmp_path: Path, tell: Callable[[int], None]
) -> None:
    """Also where only a part of a request found room."""
    with passthrough(small, tmp_path / "at", "--writeback") as one, ExitStack() as stack:
        descriptor = os.open(one.at / "f", os.O_WRONLY | os.O_CREAT)
        stack.callback(os.close, os.dup(descriptor))

        def write_and_ask() -> None:
            for _ in range(20):
                os.write(descriptor, b"x" * 100_000)
            tell(descriptor)

        with pytest.raises(OSError, match="No space left"):
            write_and_ask()
        if tell is os.fsync:
            os.close(descriptor)


def test_what_was_to_be_written_later_is_written_before_the_end(tmp_path: Path) -> None:
    with passthrough(tmp_path / "below", tmp_path / "at", "--writeback") as one:
        descriptor = os.open(one.at / "f", os.O_WRONLY | os.O_CREAT)
        for number in range(500):
            os.write(descriptor, f"{number:9}\n".encode())
        one.process.send_signal(signal.SIGTERM)
        one.process.wait(20)
        assert (one.below / "f").read_text().split() == [str(number) for number in range(500)]
        with suppress(OSError):  # nobody serves it any more
            os.close(descriptor)


def test_a_server_without_descriptors_survives_and_says_so(tmp_path: Path) -> None:
    with passthrough(tmp_path / "below", tmp_path / "at") as one, ExitStack() as stack:
        (one.at / "before").touch()
        before = resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)
        few = one.descriptors() + 20
        resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (few, before[1]))

        def open_many() -> None:
            for number in range(100):
                stack.enter_context((one.at / f"f{number}").open("w"))

        with pytest.raises(OSError, match="Too many open files"):
            open_many()
        held = one.descriptors()
        for _ in range(50):  # and loses none where it fails half way
            with pytest.raises(OSError, match="Too many open files"):
                (one.at / "another").open("x")
            (one.below / "another").unlink(missing_ok=True)
        assert one.descriptors() <= held + 1
        assert (one.at / "before").stat().st_size == 0
        resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, before)
        (one.at / "after").write_text("well again")
        assert (one.below / "after").read_text() == "well again"


def test_a_limit_of_the_caller_is_the_callers(tmp_path: Path) -> None:
    script = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
with open(sys.argv[1], "wb", buffering=0) as file:
    assert file.write(b"x" * 20_000) == 10_000
    try: file.write(b"x")
    except OSError as error: print(error.errno)
"""
    with passthrough(tmp_path / "below", tmp_path / "at") as one:
        done = subprocess.run(
            [sys.executable, "-c", script, one.at / "f"], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) == errno.EFBIG


@pytest.fixture
def reserving(tmp_path: Path) -> Iterator[Path]:
    """A disk that keeps half of its room for root."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 16 * MEGABYTE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "50", image], check=True)
    made = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("the kernel has no loop devices here")
    place.chmod(0o777)
    yield place
    subprocess.run(["umount", place], check=True)


def test_what_a_disk_keeps_for_root_is_not_given_to_others(reserving: Path, tmp_path: Path) -> None:
    """Though it is root who writes for them."""
    tmp_path.chmod(0o755)
    room = os.statvfs(reserving)
    assert room.f_bavail < 0.6 * room.f_blocks
    with passthrough(reserving, tmp_path / "at") as one:
        script = "import os\nwhile True: os.write(1, b'x' * 65536)"
        with (one.at / "f").open("wb") as file:
            subprocess.run(
                [sys.executable, "-c", script], stdout=file, stderr=subprocess.DEVNULL, check=False
            )
        written = (one.at / "f").stat().st_size
        assert 0.8 * room.f_bavail * room.f_frsize < written <= room.f_bavail * room.f_frsize


@pytest.mark.parametrize("inside", ["", "sub"])
def test_a_directory_that_would_contain_itself_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    argv = [sys.executable, "-m", "fuse_mounter.passthrough", str(tmp_path), str(tmp_path / inside)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "which it would show" in done.stderr


def test_a_file_that_appears_and_goes_costs_nothing(tmp_path: Path) -> None:
    """A storm of short-lived files leaves no descriptor and no memory behind."""
    with passthrough(tmp_path / "below", tmp_path / "at") as one:
        before = one.descriptors()
        for number in range(500):
            path = one.at / f"{number}.tmp"
            path.write_text("x")
            path.rename(one.at / "last")
        eventually(lambda: one.descriptors() <= before + 3, "descriptors were closed")
