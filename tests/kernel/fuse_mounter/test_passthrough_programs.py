# SPDX-License-Identifier: Apache-2.0
"""Real programs on the passthrough file system, which see by themselves when something is wrong."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import subprocess
import venv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.passthrough_mount import passthrough

_LIMIT_S = 120


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long counts: all of it once more where the kernel writes later."""
    modes = [(), ("--writeback",)] if metafunc.config.getoption("--soak") else [()]
    if "mount" in metafunc.fixturenames:
        names = [" ".join(mode) or "default" for mode in modes]
        metafunc.parametrize("mount", modes, indirect=True, scope="module", ids=names)


@pytest.fixture(scope="module")
def mount(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """For all tests here: whatever one leaves must not disturb the next."""
    place = tmp_path_factory.mktemp("programs")
    with passthrough(place / "below", place / "at", *request.param) as one:
        yield one.at


@pytest.fixture
def at(mount: Path, tmp_path: Path) -> Path:
    place = mount / tmp_path.name
    place.mkdir()
    return place


def run(argv: Sequence[str | Path], cwd: Path | None = None) -> str:
    """Its output; it has to end well."""
    environment = {
        **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_git(at: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    run(["git", "init", "-q", "-b", "main"], source)
    for commit in range(3):
        for number in range(15):
            file = source / f"d{number % 7}" / f"f{number}"
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{commit} {number}\n" * (number * 20 + 1))
        run(["git", "add", "."], source)
        run(["git", "commit", "-q", "-m", f"{commit}"], source)
    run(["git", "clone", "-q", "--no-hardlinks", source, at / "copy"])
    copy = at / "copy"
    run(["git", "checkout", "-q", "HEAD~2"], copy)
    run(["git", "checkout", "-q", "main"], copy)
    run(["git", "gc", "-q"], copy)
    run(["git", "fsck", "--strict"], copy)
    assert run(["git", "status", "--porcelain"], copy) == ""
    assert run(["git", "rev-parse", "HEAD"], copy) == run(["git", "rev-parse", "HEAD"], source)


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_sqlite(at: Path, journal: str) -> None:
    """Several connections write at once; locks and mapped memory have to hold."""
    path = at / "data.sqlite"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        connection.execute(f"pragma journal_mode = {journal}")
        connection.execute("pragma synchronous = normal")
        return connection

    with closing(connect()) as first:
        first.execute("create table t (writer int, number int, text text)")

    def write(writer: int) -> None:
        with closing(connect()) as connection:
            for number in range(10):
                connection.execute("begin immediate")
                row = (writer, number, "x" * 2000)
                connection.execute("insert into t values (?, ?, ?)", row)
                connection.execute("rollback" if number % 5 == 4 else "commit")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    with closing(connect()) as last:
        assert last.execute("select count(*) from t").fetchone() == (3 * 8,)
        assert last.execute("pragma integrity_check").fetchone() == ("ok",)


def described(root: Path) -> dict[str, object]:
    """All there is to tell of a tree: kinds, owners, modes, times, attributes, contents, links."""
    found: dict[str, object] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status, name = path.lstat(), str(path.relative_to(root))
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
        times = 0 if path.is_dir() else status.st_mtime_ns
        same = first.setdefault(status.st_ino, name)
        found[name] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_rdev, times, content,
            attributes, same if not path.is_dir() else "",
        )  # fmt: skip
    return found


def odd_tree(root: Path) -> None:
    """Everything that a copy has to carry over."""
    (root / "d/e").mkdir(parents=True)
    (root / "d/file").write_bytes(os.urandom(200_000))
    (root / "d/empty").touch()
    os.link(root / "d/file", root / "d/e/hard")
    (root / "link").symlink_to("d/nowhere")
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (root / "new\nline").write_text("x")
    (root / os.fsdecode(b"\xff\xfe")).write_text("y")
    with (root / "sparse").open("wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    os.setxattr(root / "d/file", "trusted.mark", b"\0\xff")
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (2, 4, 1234), (4, 4, nobody), (16, 4, nobody), (32, 0, nobody)]
    packed = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, bits, who in entries
    )
    os.setxattr(root / "d/file", "system.posix_acl_access", packed)
    os.setxattr(root / "d", "system.posix_acl_default", packed)
    os.chown(root / "d/empty", 1234, 2345)
    (root / "d/empty").chmod(0o6751)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(number, 1_234_567_890_123_456_789 + number), follow_symlinks=False)


@pytest.mark.parametrize(
    "copy",
    [
        "rsync -aHAX --sparse {source}/ {target}/",
        "tar -C {source} --xattrs --xattrs-include=* --acls -cSf {archive} . "
        "&& tar -C {target} --xattrs --xattrs-include=* --acls -xpf {archive}",
    ],
    ids=["rsync", "tar"],
)
def test_a_copy_there_and_back_has_everything(at: Path, tmp_path: Path, copy: str) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    there = at / "there"
    for directory in (source, there, back):
        directory.mkdir()
    odd_tree(source)
    for one, other in ((source, there), (there, back)):
        archive = tmp_path / "archive.tar"
        run(["sh", "-ec", copy.format(source=one, target=other, archive=archive)])
    assert described(back) == described(source)
    assert (back / "sparse").stat().st_blocks < 1000


def test_a_virtual_environment(at: Path) -> None:
    """Many small files, links, and a program that is run from there."""
    venv.create(at / "venv", symlinks=True, with_pip=False)
    (at / "venv/lib/python.pth").write_text("")
    python = at / "venv/bin/python"
    assert run([str(python), "-c", "import sys; print(sys.prefix)"]).strip() == str(at / "venv")


def test_an_installer_that_replaces_files_while_others_read_them(at: Path) -> None:
    """As pip does: write beside, rename over; readers see one of the two, whole."""
    texts = {letter * 5000 for letter in "ab"}
    names = [at / f"module{number}.py" for number in range(20)]
    for name in names:
        name.write_text("a" * 5000)

    def install(turn: int) -> None:
        for name in names:
            new = name.with_name(f"{name.name}.{turn}.tmp")
            new.write_text("ab"[turn % 2] * 5000)
            new.replace(name)

    def read(_: int) -> None:
        for name in names * 5:
            assert name.read_text() in texts

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda turn: read(turn) if turn % 3 else install(turn), range(12)))
    assert len(list(at.iterdir())) == 20


def test_fio_reads_back_what_it_wrote(at: Path, tmp_path: Path) -> None:
    """Blocks from two processes, in any order or through mapped memory, each checked."""
    for engine, order, block in (("psync", "randrw", "4k"), ("mmap", "randwrite", "12k")):
        run([
            "fio", f"--name={engine}", f"--directory={at}", f"--ioengine={engine}", f"--bs={block}",
            f"--rw={order}", "--size=2m", "--numjobs=2", "--verify=crc32c", "--do_verify=1",
            "--verify_fatal=1", "--fsync=64", "--group_reporting",
        ], cwd=tmp_path)  # fmt: skip


@pytest.mark.soak
def test_stress_ng_finds_nothing_wrong(at: Path, soak: bool) -> None:
    """Its stressors of file systems check what they did (`--verify`)."""
    stressors = (
        "access", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "filename", "fstat",
        "getdent", "hdd", "iomix", "link", "lockf", "mknod", "mmapaddr", "msync", "readahead",
        "rename", "revio", "seek", "sendfile", "splice", "symlink", "touch", "utime", "xattr",
    )  # fmt: skip
    argv = ["stress-ng", "--temp-path", str(at), "--verify", "--hdd-bytes", "4m"]
    argv += ["--iomix-bytes", "4m"]
    argv += ["--timeout", "60" if soak else "1", "--oomable"]
    chosen = stressors if soak else ("dentry", "filename", "link", "rename", "xattr", "utime")
    run([*argv, *(part for name in chosen for part in (f"--{name}", "1"))])
