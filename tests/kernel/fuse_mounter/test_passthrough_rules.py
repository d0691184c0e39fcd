# SPDX-License-Identifier: Apache-2.0
"""Rules of the kernel that a file system in user space, which is root, could break unseen."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from agents.mounts import LinuxMounts
from tests.fakes.mount_node import eventually
from tests.fakes.passthrough_mount import Mounted, passthrough

USER, GROUP, OTHER, PROJECT = 12345, 23456, 12346, 34567
NOBODY = 0xFFFFFFFF


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    place = tmp_path_factory.mktemp("rules")
    for directory in (place, place.parent):
        directory.chmod(0o755)
    with passthrough(place / "below", place / "at", "--cache-timeout", "0.1") as one:
        yield one


@pytest.fixture
def mounted(mount: Mounted, tmp_path: Path) -> Mounted:
    """A folder of this test, where everybody may do everything."""
    below, at = mount.below / tmp_path.name, mount.at / tmp_path.name
    below.mkdir()
    below.chmod(0o777)
    eventually(at.is_dir, "it is seen")
    return Mounted(below, at, mount.process)


def as_user(script: str, at: Path, *, uid: int = USER, groups: tuple[int, ...] = ()) -> str:
    """Run Python as somebody; what it printed, or the name of its error."""
    more = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    argv = ["setpriv", f"--reuid={uid}", f"--regid={GROUP}", more, "--", "/usr/bin/env", "python3"]
    text = f"""
import errno, os
try: {script}
except OSError as error: print(errno.errorcode[error.errno])
"""
    done = subprocess.run([*argv, "-c", text], cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def shared_with(user: int, permissions: int) -> bytes:
    return acl(
        (0x01, 6, NOBODY), (0x02, permissions, user), (0x04, 0, NOBODY), (0x10, 6, NOBODY),
        (0x20, 0, NOBODY),
    )  # fmt: skip


def test_access_control_lists_give_and_refuse(mounted: Mounted) -> None:
    file = mounted.below / "f"
    file.write_text("x")
    file.chmod(0o600)
    os.setxattr(mounted.at / "f", "system.posix_acl_access", shared_with(USER, 4))
    assert as_user("print(open('f').read())", mounted.at) == "x"
    assert as_user("open('f', 'w')", mounted.at) == "EACCES"
    assert as_user("open('f')", mounted.at, uid=OTHER) == "EACCES"
    assert as_user("print(os.access('f', os.R_OK), os.access('f', os.W_OK))", mounted.at) == (
        "True False"
    )
    # Only the owner may change it.
    name = "system.posix_acl_access"
    assert as_user(f"os.removexattr('f', {name!r})", mounted.at) == "EPERM"
    os.removexattr(mounted.at / "f", name)
    assert as_user("open('f')", mounted.at) == "EACCES"


def test_nobody_but_root_changes_what_the_kernel_leaves_to_file_systems(mounted: Mounted) -> None:
    """Below we are root, and a server's access control lists could be anybody's to change."""
    (mounted.below / "f").touch()
    for call in ("os.setxattr('f', 'system.nfs4_acl', b'x')", "os.removexattr('f', 'system.x')"):
        assert as_user(call, mounted.at) == "ENOTSUP"
    assert as_user("os.setxattr('f', 'trusted.x', b'x')", mounted.at) == "EPERM"
    assert as_user("os.setxattr('f', 'security.x', b'x')", mounted.at) == "EPERM"


@pytest.mark.parametrize(("groups", "kept"), [((), False), ((PROJECT,), True)])
def test_the_set_group_id_bit_follows_all_groups_of_the_caller(
    mounted: Mounted, groups: tuple[int, ...], kept: bool
) -> None:
    for name in ("written", "listed"):
        (mounted.below / name).touch()
        os.chown(mounted.below / name, USER, PROJECT)
        (mounted.below / name).chmod(0o2666)  # of no program: only who is outside loses it
    as_user("os.write(os.open('written', os.O_WRONLY), b'x')", mounted.at, groups=groups)
    value = shared_with(USER, 6)
    script = f"os.setxattr('listed', 'system.posix_acl_access', {value!r})"
    assert as_user(script, mounted.at, groups=groups) == ""
    for name in ("written", "listed"):
        assert bool(mode(mounted.below / name) & stat.S_ISGID) is kept, name


def test_a_program_is_not_made_of_a_group_that_is_not_the_callers(mounted: Mounted) -> None:
    os.chown(mounted.below, 0, PROJECT)
    mounted.below.chmod(0o2777)
    script = "os.umask(0); os.close(os.open({!r}, os.O_CREAT | os.O_WRONLY, 0o2755))"
    as_user(script.format("outside"), mounted.at)
    as_user(script.format("inside"), mounted.at, groups=(PROJECT,))
    assert (mounted.below / "outside").stat().st_gid == PROJECT
    assert (mode(mounted.below / "outside"), mode(mounted.below / "inside")) == (0o755, 0o2755)


def test_a_new_owner_takes_the_set_id_bits_away(mounted: Mounted) -> None:
    (mounted.below / "f").touch()
    (mounted.below / "f").chmod(0o6755)
    os.chown(mounted.at / "f", USER, GROUP)
    assert mode(mounted.below / "f") == mode(mounted.at / "f") == 0o755


def test_who_may_set_times(mounted: Mounted) -> None:
    (mounted.below / "f").touch()
    (mounted.below / "f").chmod(0o666)
    os.utime(mounted.below / "f", ns=(1, 2))
    assert as_user("os.utime('f', (5, 5))", mounted.at) == "EPERM"
    assert as_user("os.utime('f')", mounted.at) == ""
    assert (mounted.below / "f").stat().st_mtime > 1_000_000_000
    (mounted.at / "f").chmod(0o644)
    assert as_user("os.utime('f')", mounted.at) == "EACCES"


def test_sticky_directories(mounted: Mounted) -> None:
    mounted.at.chmod(0o1777)
    (mounted.below / "f").touch()
    for call in ("os.unlink('f')", "os.rename('f', 'g')"):
        assert as_user(call, mounted.at) in ("EPERM", "EACCES")
    assert as_user("open('mine', 'w'); os.unlink('mine')", mounted.at) == ""


def test_hard_links_are_one_file(mounted: Mounted) -> None:
    one, two = mounted.at / "one", mounted.at / "two"
    one.write_text("x")
    os.link(one, two)
    assert one.stat().st_ino == two.stat().st_ino == (mounted.below / "one").stat().st_ino
    assert two.stat().st_nlink == 2
    with one.open("a") as file:
        file.write("y")
    assert two.read_text() == "xy"
    one.unlink()
    assert two.stat().st_nlink == 1


def test_an_open_file_that_another_is_renamed_onto_stays_itself(mounted: Mounted) -> None:
    old, new = mounted.at / "old", mounted.at / "new"
    old.write_text("old")
    new.write_text("new")
    with old.open("r+") as handle, mmap.mmap(handle.fileno(), 3) as memory:
        new.rename(old)
        assert os.fstat(handle.fileno()).st_nlink == 0
        memory[:1] = b"O"
        memory.flush()
        assert (handle.read(), old.read_text()) == ("Old", "new")


def test_an_inode_number_that_is_used_again_is_another_file(mounted: Mounted) -> None:
    path = mounted.at / "f"
    for turn in range(30):
        path.write_text(str(turn))
        assert path.read_text() == str(turn)
        (mounted.below if turn % 2 else mounted.at).joinpath("f").unlink()
        eventually(lambda: not path.exists(), "it is gone", 3)


def test_locks_of_all_kinds_hold_between_processes(mounted: Mounted) -> None:
    (mounted.at / "f").touch()
    script = """
import fcntl, sys
file = open("f", "r+")
{}
print("locked", flush=True)
sys.stdin.read()
"""
    non_blocking = fcntl.LOCK_EX | fcntl.LOCK_NB
    kinds: dict[str, Callable[[IO[str]], None]] = {
        "fcntl.flock(file, fcntl.LOCK_EX)": lambda file: fcntl.flock(file, non_blocking),
        "fcntl.lockf(file, fcntl.LOCK_EX, 10, 100)": lambda file: fcntl.lockf(
            file, non_blocking, 1, 105
        ),
    }
    for kind, lock in kinds.items():
        argv = [sys.executable, "-c", script.format(kind)]
        with (
            subprocess.Popen(
                argv, cwd=mounted.at, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as holder,
            (mounted.at / "f").open("r+") as file,
        ):
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            with pytest.raises(BlockingIOError):
                lock(file)
            holder.communicate(timeout=20)
            lock(file)


def test_a_place_in_a_listing_is_kept_while_files_come_and_go(mounted: Mounted) -> None:
    for number in range(1000):
        (mounted.below / f"{number:04}").touch()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    directory = ctypes.c_void_p(libc.opendir(os.fsencode(mounted.at)))

    def name() -> bytes | None:
        entry = libc.readdir(directory)
        return ctypes.string_at(entry + 19) if entry else None

    before = [name() for _ in range(400)]
    place = ctypes.c_long(libc.telldir(directory))
    after = [name() for _ in range(300)]
    for removed in before[2:200]:
        (mounted.at / os.fsdecode(removed or b"")).unlink()
    (mounted.at / "new").touch()
    libc.seekdir(directory, place)
    assert [name() for _ in range(300)] == after
    libc.rewinddir(directory)
    again = list(iter(name, None))
    assert len(again) == len(set(again)) == 1000 + 2 - 198 + 1
    libc.closedir(directory)


def test_what_copies_inside_the_kernel_works(mounted: Mounted) -> None:
    (mounted.at / "one").write_bytes(os.urandom(100_000))
    with (mounted.at / "one").open("rb") as source, (mounted.at / "two").open("wb") as target:
        copied = 0
        while copied < 100_000:
            copied += os.copy_file_range(source.fileno(), target.fileno(), 100_000)
    assert (mounted.below / "two").read_bytes() == (mounted.below / "one").read_bytes()


def test_what_cannot_be_answers_as_programs_expect(mounted: Mounted) -> None:
    """They have another way for these errors, and for no others."""
    with pytest.raises(OSError, match="not supported") as raised:
        os.open(mounted.at, os.O_TMPFILE | os.O_RDWR)
    assert raised.value.errno == errno.EOPNOTSUPP
    with (mounted.at / "f").open("w") as file:
        with pytest.raises(OSError, match="Inappropriate ioctl") as raised:
            fcntl.ioctl(file, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS
        assert raised.value.errno == errno.ENOTTY
        os.posix_fallocate(file.fileno(), 0, 4096)  # the library writes zeros instead
        assert os.fstat(file.fileno()).st_size == 4096


def test_aligned_writes_past_the_cache(mounted: Mounted) -> None:
    memory = mmap.mmap(-1, 8192)
    memory[:] = b"d" * 8192
    descriptor = os.open(mounted.at / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwrite(descriptor, memory, 4096) == 8192
    os.close(descriptor)
    assert (mounted.below / "f").read_bytes() == bytes(4096) + b"d" * 8192


def test_a_file_system_inside_is_shown_as_part_of_this_one(mounted: Mounted) -> None:
    inner = mounted.below / "inner"
    inner.mkdir()
    LinuxMounts().mount("inner", inner, "tmpfs", data="size=1m")
    try:
        (inner / "f").touch()
        (mounted.below / "g").touch()
        assert (mounted.at / "inner/f").stat().st_dev == (mounted.at / "g").stat().st_dev
        assert (mounted.at / "inner/f").stat().st_ino != (inner / "f").stat().st_ino
        with pytest.raises(OSError, match="cross-device") as raised:
            (mounted.at / "g").rename(mounted.at / "inner/g")
        assert raised.value.errno == errno.EXDEV
    finally:
        LinuxMounts().unmount(inner, detach=True)


def test_whoever_is_killed_in_the_middle_leaves_the_others_alone(mounted: Mounted) -> None:
    """Requests of those who are gone: no trace in the log, and nobody waits for them."""
    script = "import os\nwhile True: open(f'{os.getpid()}', 'w').write('x' * 100_000)"
    for _ in range(5):
        one = subprocess.Popen([sys.executable, "-c", script], cwd=mounted.at)
        killer = threading.Timer(0.15, one.kill)
        killer.start()
        one.wait(20)
        (mounted.at / "f").write_text("fine")
    assert (mounted.below / "f").read_text() == "fine"
