# SPDX-License-Identifier: Apache-2.0
"""The passthrough file system does what the directory below would do."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agents.mounts import LinuxMounts
from tests.fakes.passthrough_mount import Mounted, passthrough

USER, GROUP, PROJECT = 12345, 23456, 34567
EXCHANGE, NOREPLACE = 2, 1


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    tmp_path.chmod(0o755)
    with passthrough(tmp_path / "below", tmp_path / "at", "--sweep", "0.3") as one:
        one.below.chmod(0o777)
        yield one


def as_user(script: str, at: Path, *, groups: tuple[int, ...] = ()) -> str:
    """Run Python as an ordinary user in the mount; what it printed."""
    more = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    argv = ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", more, "--", "/usr/bin/env", "python3"]
    done = subprocess.run(
        [*argv, "-c", f"import os\n{script}"], cwd=at, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, bytes(old), -100, bytes(new), flags) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_reading_and_writing(mounted: Mounted) -> None:
    file = mounted.at / "file"
    file.write_bytes(b"x" * 300_000)
    assert (mounted.below / "file").read_bytes() == b"x" * 300_000
    with file.open("r+b") as handle:
        handle.seek(299_999)
        handle.write(b"yz")
        handle.flush()
        os.fsync(handle.fileno())
        handle.seek(299_998)
        assert handle.read() == b"xyz"
    (mounted.below / "other").write_text("from below")
    assert (mounted.at / "other").read_text() == "from below"


def test_what_is_created_belongs_to_who_created_it(mounted: Mounted) -> None:
    as_user(
        "os.umask(0o027); open('f', 'w').close(); os.mkdir('d'); os.symlink('f', 'l');"
        "os.mkfifo('p'); os.link('f', 'f2')",
        mounted.at,
    )
    for name, mode in (("f", 0o640), ("d", 0o750), ("p", 0o640)):
        status = (mounted.below / name).lstat()
        assert (status.st_uid, status.st_gid) == (USER, GROUP)
        assert stat.S_IMODE(status.st_mode) == mode
    assert (mounted.below / "l").lstat().st_uid == USER
    assert (mounted.below / "f2").stat().st_nlink == 2


def test_permissions_are_those_of_the_caller_with_all_groups(mounted: Mounted) -> None:
    project, private = mounted.below / "project", mounted.below / "private"
    for directory, mode in ((project, 0o2770), (private, 0o700)):
        directory.mkdir()
        os.chown(directory, 0, PROJECT)
        directory.chmod(mode)
    as_user("open('project/f', 'w').close(); os.mkdir('project/d')", mounted.at, groups=(PROJECT,))
    assert (project / "f").stat().st_gid == PROJECT
    assert (project / "d").stat().st_gid == PROJECT
    assert (project / "d").stat().st_mode & stat.S_ISGID
    for path in ("private/f", "project/g"):
        script = f"""
try: open({path!r}, "w")
except PermissionError: print("denied")
"""
        assert as_user(script, mounted.at) == "denied"


def test_attributes(mounted: Mounted) -> None:
    file = mounted.at / "f"
    file.write_text("abc")
    file.chmod(0o604)
    os.chown(file, USER, GROUP)
    os.utime(file, ns=(1_000_000_001, 2_000_000_002))
    below = (mounted.below / "f").stat()
    assert stat.S_IMODE(below.st_mode) == 0o604
    assert (below.st_uid, below.st_gid) == (USER, GROUP)
    assert (below.st_atime_ns, below.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    above = file.stat()
    for name in ("st_mode", "st_uid", "st_size", "st_blocks", "st_mtime_ns", "st_ctime_ns"):
        assert getattr(above, name) == getattr(below, name), name
    os.truncate(file, 1)
    assert (mounted.below / "f").read_text() == "a"


def test_one_time_can_be_set_without_the_other(mounted: Mounted) -> None:
    file = mounted.at / "f"
    file.touch()
    os.utime(file, ns=(5, 6))
    subprocess.run(["touch", "-a", "-d", "@9", file], check=True)
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (9_000_000_000, 6)


def test_symlinks_are_never_followed_below(mounted: Mounted, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    link = mounted.at / "link"
    link.symlink_to(outside)
    assert link.readlink() == outside
    os.lchown(link, USER, GROUP)
    os.utime(link, ns=(7, 8), follow_symlinks=False)
    os.setxattr(link, "trusted.mark", b"1", follow_symlinks=False)
    assert os.listxattr(link, follow_symlinks=False) == ["trusted.mark"]
    assert link.lstat().st_uid == USER
    assert link.lstat().st_mtime_ns == 8
    assert outside.stat().st_uid == 0
    assert os.listxattr(outside) == []
    os.link(link, mounted.at / "link2", follow_symlinks=False)
    assert (mounted.below / "link2").is_symlink()


@pytest.fixture
def user_attributes(mounted: Mounted) -> bool:
    """Whether the file system below has them: a tmpfs not before kernel 6.6."""
    probe = mounted.below / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    finally:
        probe.unlink()
    return True


def test_extended_attributes(mounted: Mounted, user_attributes: bool) -> None:
    file = mounted.at / "f"
    file.touch()
    one, two = ("user.one", "user.two") if user_attributes else ("trusted.one", "trusted.two")
    os.setxattr(file, one, b"1")
    os.setxattr(file, two, b"\0\xff")
    assert set(os.listxattr(file)) == {one, two}
    assert os.getxattr(mounted.below / "f", two) == b"\0\xff"
    with pytest.raises(FileExistsError):
        os.setxattr(file, one, b"", os.XATTR_CREATE)
    os.removexattr(file, one)
    with pytest.raises(OSError, match="No data"):
        os.getxattr(file, one)
    with pytest.raises(OSError, match="No data"):
        os.removexattr(file, one)
    if not user_attributes:
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(file, "user.one", b"1")


def test_a_user_is_not_told_of_attributes_that_are_for_root(
    mounted: Mounted, user_attributes: bool
) -> None:
    file = mounted.below / "f"
    file.touch()
    os.setxattr(file, "trusted.secret", b"1")
    plain = ["user.plain"] if user_attributes else []
    for name in plain:
        os.setxattr(file, name, b"1")
    assert set(os.listxattr(mounted.at / "f")) == {"trusted.secret", *plain}
    assert as_user("print(os.listxattr('f'))", mounted.at) == str(plain)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The binary form of a POSIX ACL: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_access_control_lists_are_obeyed_and_inherited(mounted: Mounted) -> None:
    nobody = 0xFFFFFFFF
    entries = acl(
        (0x01, 7, nobody), (0x02, 7, USER), (0x04, 5, nobody), (0x10, 7, nobody), (0x20, 0, nobody)
    )
    directory = mounted.at / "shared"
    directory.mkdir()
    os.setxattr(directory, "system.posix_acl_access", entries)
    os.setxattr(directory, "system.posix_acl_default", entries)
    as_user("os.umask(0o077); open('shared/f', 'w').close()", mounted.at)
    # A default ACL takes the place of the umask, as below.
    inside = mounted.below / "shared" / "f"
    assert stat.S_IMODE(inside.stat().st_mode) == 0o660
    assert "system.posix_acl_access" in os.listxattr(inside)
    assert os.getxattr(mounted.at / "shared" / "f", "system.posix_acl_access")


def test_a_write_by_a_user_takes_the_set_id_bits_away(mounted: Mounted) -> None:
    names = ("written", "truncated", "opened")
    for name in names:
        file = mounted.below / name
        file.write_text("#!")
        file.chmod(0o6777)
    as_user(
        "open('written', 'a').write('x'); os.truncate('truncated', 0);"
        "os.open('opened', os.O_WRONLY | os.O_TRUNC)",
        mounted.at,
    )
    for name in names:
        assert stat.S_IMODE((mounted.below / name).stat().st_mode) == 0o777, name


def test_an_open_file_that_was_removed_goes_on(mounted: Mounted) -> None:
    with (mounted.at / "f").open("w+") as handle:
        handle.write("abc")
        handle.flush()
        (mounted.at / "f").unlink()
        assert os.fstat(handle.fileno()).st_nlink == 0
        os.ftruncate(handle.fileno(), 2)
        os.fchmod(handle.fileno(), 0o600)
        handle.seek(0)
        assert handle.read() == "ab"
    assert list(mounted.below.iterdir()) == []


def test_a_file_may_be_written_through_a_handle_that_its_mode_forbids(mounted: Mounted) -> None:
    as_user(
        "d = os.open('f', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400); os.write(d, b'abc');"
        "os.ftruncate(d, 2); os.fsync(d)",
        mounted.at,
    )
    assert (mounted.below / "f").read_text() == "ab"


def test_renaming(mounted: Mounted) -> None:
    one, two = mounted.at / "one", mounted.at / "two"
    one.write_text("1")
    two.write_text("2")
    renameat2(one, two, EXCHANGE)
    assert (one.read_text(), two.read_text()) == ("2", "1")
    with pytest.raises(FileExistsError):
        renameat2(one, two, NOREPLACE)
    with pytest.raises(OSError, match="Invalid"):
        renameat2(one, mounted.at / "three", 4)
    one.rename(two)
    assert two.read_text() == "2"
    assert not one.exists()


def test_a_directory_stays_itself_when_it_is_renamed_below(mounted: Mounted) -> None:
    (mounted.at / "a").mkdir()
    (mounted.at / "a" / "f").write_text("mine")
    directory = os.open(mounted.at / "a", os.O_RDONLY | os.O_DIRECTORY)
    (mounted.below / "a").rename(mounted.below / "b")
    (mounted.below / "a").mkdir()
    (mounted.below / "a" / "f").write_text("another")
    with open("f", opener=lambda path, flags: os.open(path, flags, dir_fd=directory)) as file:
        assert file.read() == "mine"
    os.close(directory)


def test_a_long_listing_is_whole_while_files_go(mounted: Mounted) -> None:
    names = {f"{number:05}" for number in range(3000)}
    for name in names:
        (mounted.below / name).touch()
    seen = []
    with os.scandir(mounted.at) as listing:
        for entry in listing:
            seen.append(entry.name)
            if len(seen) == 100:
                for name in sorted(names - set(seen))[:500]:
                    (mounted.at / name).unlink()
    assert len(seen) == len(set(seen))
    assert set(seen) >= {path.name for path in mounted.below.iterdir()}
    raw = subprocess.run(["ls", "-a", mounted.at], check=True, capture_output=True, text=True)
    assert {".", ".."} < set(raw.stdout.split())


def test_inode_numbers_are_stable_and_differ_across_devices(tmp_path: Path) -> None:
    below = tmp_path / "below"
    inner = below / "inner"
    inner.mkdir(parents=True)
    LinuxMounts().mount("inner", inner, "tmpfs", data="size=1m")
    try:
        for number in range(50):
            (below / f"a{number}").touch()
            (inner / f"b{number}").touch()

        def numbers() -> dict[str, int]:
            with passthrough(below, tmp_path / "at") as one:
                found = [*one.at.iterdir(), *(one.at / "inner").iterdir()]
                root = one.at.stat().st_ino
                assert (one.at / "inner" / "..").stat().st_ino == root
                return {path.name: path.stat().st_ino for path in found}

        first = numbers()
        assert len(set(first.values())) == 101
        assert first == numbers()
        assert first["a1"] == (below / "a1").stat().st_ino
    finally:
        LinuxMounts().unmount(inner)


def test_statfs_is_that_of_the_storage(mounted: Mounted) -> None:
    above, below = os.statvfs(mounted.at), os.statvfs(mounted.below)
    for name in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
        assert getattr(above, name) == getattr(below, name), name
    assert abs(above.f_bavail - below.f_bavail) < below.f_blocks / 100


def test_read_only(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "f").write_text("x")
    with passthrough(tmp_path / "below", tmp_path / "at", "--read-only") as one:
        assert (one.at / "f").read_text() == "x"
        for change in (
            lambda: (one.at / "f").write_text("y"),
            lambda: (one.at / "g").touch(),
            lambda: (one.at / "f").unlink(),
            lambda: (one.at / "f").chmod(0o777),
        ):
            with pytest.raises(OSError, match="Read-only") as raised:
                change()
            assert raised.value.errno == errno.EROFS


def test_sparse_and_large_files(mounted: Mounted) -> None:
    file, size = mounted.at / "big", 5 << 30
    with file.open("wb") as handle:
        handle.seek(size)
        handle.write(b"end")
    assert file.stat().st_size == size + 3
    assert (mounted.below / "big").stat().st_blocks < 1000
    with file.open("rb") as handle:
        assert os.pread(handle.fileno(), 10, size) == b"end"
        assert os.pread(handle.fileno(), 10, size // 2) == b"\0" * 10


def test_mapped_memory_and_append_to_the_same_file(mounted: Mounted) -> None:
    file = mounted.at / "f"
    file.write_bytes(b"a" * 8192)
    with file.open("r+b") as handle, file.open("ab", buffering=0) as appended:
        with mmap.mmap(handle.fileno(), 8192) as memory:
            memory[4096:4100] = b"mmap"
            appended.write(b"tail")
            memory.flush()
        os.fsync(handle.fileno())
    content = (mounted.below / "f").read_bytes()
    assert content == b"a" * 4096 + b"mmap" + b"a" * 4092 + b"tail"


def test_appending_from_many_places(mounted: Mounted) -> None:
    script = "import sys\nfor _ in range(200): open('log', 'a').write(sys.argv[1] * 9 + '\\n')"
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(number)], cwd=mounted.at)
        for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = (mounted.below / "log").read_text().splitlines()
    assert len(lines) == 800
    assert all(len(set(line)) == 1 and len(line) == 9 for line in lines)


def test_direct_io_is_possible(mounted: Mounted) -> None:
    (mounted.at / "f").write_bytes(b"x" * 8192)
    descriptor = os.open(mounted.at / "f", os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    assert os.preadv(descriptor, [buffer], 4096) == 4096
    os.close(descriptor)


def test_locks_hold_between_users_of_the_mount(mounted: Mounted) -> None:
    with (mounted.at / "f").open("w") as one, (mounted.at / "f").open("w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_cannot_be_is_refused_as_such(mounted: Mounted) -> None:
    with (mounted.at / "f").open("wb") as handle:
        handle.write(b"x" * 10)
        handle.flush()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.fallocate(handle.fileno(), 1, 0, ctypes.c_long(4096)) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        assert os.lseek(handle.fileno(), 0, os.SEEK_HOLE) == 10


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda at: (at / "no").read_text(), errno.ENOENT),
        (lambda at: (at / "f" / "x").read_text(), errno.ENOTDIR),
        (lambda at: (at / "d").rmdir(), errno.ENOTEMPTY),
        (lambda at: (at / "d").unlink(), errno.EISDIR),
        (lambda at: (at / "f").rmdir(), errno.ENOTDIR),
        (lambda at: (at / "f").mkdir(), errno.EEXIST),
        (lambda at: (at / ("n" * 256)).touch(), errno.ENAMETOOLONG),
        (lambda at: (at / "d").rename(at / "d" / "x" / "y"), errno.EINVAL),
        (lambda at: (at / "loop").read_text(), errno.ELOOP),
        (lambda at: os.link(at / "d", at / "d2"), errno.EPERM),
    ],
)
def test_errors_are_those_of_the_kernel(
    mounted: Mounted, call: Callable[[Path], object], number: int
) -> None:
    (mounted.at / "f").touch()
    (mounted.at / "d" / "x").mkdir(parents=True)
    (mounted.at / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        call(mounted.at)


def test_odd_names(mounted: Mounted) -> None:
    names = [b"a b", b"\xff\xfe", "ümläut".encode(), b"new\nline", b"-rf", b"'\"$(x)", b"x" * 255]
    at = os.fsencode(mounted.at)
    for name in names:
        os.close(os.open(at + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert set(os.listdir(at)) == set(names) == set(os.listdir(os.fsencode(mounted.below)))


def test_many_at_once(mounted: Mounted) -> None:
    def work(number: int) -> None:
        for turn in range(50):
            path = mounted.at / f"{number}-{turn}"
            path.write_bytes(bytes([number]) * 10_000)
            assert path.read_bytes() == bytes([number]) * 10_000
            path.rename(mounted.at / f"{number}-last")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(list(mounted.below.iterdir())) == 8


def test_a_change_below_is_seen_when_the_cache_time_is_over(tmp_path: Path) -> None:
    with passthrough(tmp_path / "below", tmp_path / "at", "--cache-timeout", "0.2") as one:
        (one.below / "f").write_text("one")
        assert (one.at / "f").read_text() == "one"
        (one.below / "f").write_text("three")
        time.sleep(0.3)
        assert (one.at / "f").read_text() == "three"


def test_a_source_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    argv = [sys.executable, "-m", "fuse_mounter.passthrough", str(tmp_path / "file"), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr
