# SPDX-License-Identifier: Apache-2.0
"""The lxcfs-compatible root, mounted for real and read from real containers."""

from __future__ import annotations

import errno
import os
import re
import secrets
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from tests.fakes.compat_root import ServedRoot, compat_root
from tests.fakes.real_container import (
    LIMITS_AVAILABLE,
    ROOTS,
    RealContainer,
    eventually,
    remove_cgroup,
)

MIB = 1 << 20
CPUS = "sys/devices/system/cpu"
MakeContainer = Callable[..., RealContainer]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRoot]:
    """Mounted before any container is started."""
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse")
    with compat_root(tmp_path_factory.mktemp("root")) as served:
        yield served


def total_kb(text: str) -> int:
    found = re.search(r"^MemTotal: +(\d+) kB$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def inside(container: RealContainer, root: ServedRoot, path: str = "proc/meminfo") -> str:
    """What a process in its namespaces, but not in its cgroup, is told."""
    return container.run("cat", str(root.at / path))


def in_cgroup(container: RealContainer, command: str) -> str:
    """What a process of the host in its cgroup, but not in its namespaces, is told."""
    enter = [f"echo 0 > {directory}/cgroup.procs" for directory in container.directories()]
    script = "; ".join([*enter, command])
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20).stdout


def number_of(attempt: Callable[[], object]) -> int | None:
    """The error it ends with."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    return None


def test_everybody_is_told_his_own(root: ServedRoot, make_container: MakeContainer) -> None:
    one, two = make_container("one", memory=256 * MIB), make_container("two", memory=128 * MIB)
    for _ in range(3):
        assert total_kb(inside(one, root)) == 256 * 1024
        assert total_kb(inside(two, root)) == 128 * 1024
        assert total_kb((root.at / "proc/meminfo").read_text()) == total_kb(
            Path("/proc/meminfo").read_text()
        )
    assert inside(one, root, f"{CPUS}/online") == "0\n"
    assert inside(one, root, "proc/cpuinfo").count("processor") == 1
    assert (root.at / "proc/cpuinfo").read_text().count("processor") == os.cpu_count()
    assert root.report().fallbacks == {}


def test_the_limit_of_a_cgroup_above_counts(
    root: ServedRoot, make_container: MakeContainer
) -> None:
    one = make_container("one", memory=256 * MIB)
    above = RealContainer("above", one.parent, id="")
    above.limit(memory=100 * MIB)
    assert total_kb(inside(one, root)) == 100 * 1024


@pytest.fixture
def nameless() -> Iterator[RealContainer]:
    """A container whose cgroup no runtime has named after an id, as those of LXC."""
    if not LIMITS_AVAILABLE:
        pytest.skip("no memory and cpu controllers here")
    container = RealContainer("lxc", f"nodeshare-test-{secrets.token_hex(6)}", id="lxc.payload.one")
    try:
        yield container
    finally:
        container.remove()
        for hierarchy in ROOTS:
            assert remove_cgroup(hierarchy / container.parent)


def test_the_first_process_of_the_pid_namespace_stands_for_a_container_without_a_name(
    root: ServedRoot, nameless: RealContainer
) -> None:
    nameless.create()
    nameless.limit(memory=200 * MIB, cpus=1.0)
    nameless.start()
    assert total_kb(inside(nameless, root)) == 200 * 1024

    # systemd moves itself into a cgroup of its own below the container's.
    below = [directory / "init.scope" for directory in nameless.directories()]
    try:
        for directory in below:
            directory.mkdir()
            for name in ("cpuset.mems", "cpuset.cpus"):
                if (directory / name).exists():
                    (directory / name).write_text((directory.parent / name).read_text())
            if (directory / "memory.limit_in_bytes").exists():
                (directory / "memory.limit_in_bytes").write_text(str(50 * MIB))
            (directory / "cgroup.procs").write_text(str(nameless.pid))
        assert total_kb(inside(nameless, root)) == 200 * 1024
    finally:
        nameless.kill()
        for directory in below:
            eventually(partial(remove_cgroup, directory), "an empty cgroup")


def test_in_a_shared_pid_namespace_the_callers_own_cgroup_counts(
    root: ServedRoot, make_container: MakeContainer
) -> None:
    first, sidecar = make_container("one", memory=256 * MIB), make_container(memory=64 * MIB)
    read = f"nsenter -t {first.pid} -p cat {root.at}/proc/meminfo"
    assert total_kb(in_cgroup(sidecar, read)) == 64 * 1024
    # Also in that of the host: hostPID.
    assert total_kb(in_cgroup(sidecar, f"cat {root.at}/proc/meminfo")) == 64 * 1024


def test_a_smaller_cgroup_within_the_container_does_not_count(
    root: ServedRoot, make_container: MakeContainer
) -> None:
    one = make_container("one", memory=256 * MIB)
    below = one.directory("memory") / "worker"
    below.mkdir()
    limit = below / "memory.limit_in_bytes"
    if limit.exists():
        limit.write_text(str(32 * MIB))
    try:
        command = f"echo 0 > {below}/cgroup.procs; exec cat {root.at}/proc/meminfo"
        assert total_kb(one.run("sh", "-c", command)) == 256 * 1024
    finally:
        eventually(lambda: remove_cgroup(below), "an empty cgroup")


def test_sigusr2_shows_the_hosts_values_and_again_ones_own(
    root: ServedRoot, make_container: MakeContainer
) -> None:
    one = make_container("one", memory=256 * MIB)
    host_kb = total_kb(Path("/proc/meminfo").read_text())
    root.toggle()
    assert total_kb(inside(one, root)) == host_kb
    root.toggle()
    assert total_kb(inside(one, root)) == 256 * 1024
    root.process.send_signal(signal.SIGUSR1)
    assert total_kb(inside(one, root)) == 256 * 1024


def test_a_descriptor_that_stays_open_is_told_anew_from_the_start(
    root: ServedRoot, make_container: MakeContainer
) -> None:
    one = make_container("one", memory=256 * MIB)
    script = (
        "import os, sys\n"
        f"file = os.open({str(root.at / 'proc/meminfo')!r}, os.O_RDONLY)\n"
        "for line in sys.stdin:\n"
        "    os.lseek(file, 0, 0)\n"
        "    print(os.read(file, 65536).split()[1].decode(), flush=True)\n"
    )
    reader = subprocess.Popen(
        ["nsenter", "-t", str(one.pid), "-m", "-p", "python3", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for mebibytes in (256, 128, 192):
            one.limit(memory=mebibytes * MIB)
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{mebibytes * 1024}\n"
        reader.stdin.close()


@pytest.mark.parametrize("path", ["proc/cpuinfo", "proc/stat", "proc/slabinfo", "proc/meminfo"])
def test_what_is_read_in_pieces_is_one_text_of_the_size_that_is_told(
    root: ServedRoot, path: str
) -> None:
    file = root.at / path
    descriptor = os.open(file, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        pieces = [os.pread(descriptor, 100, at) for at in range(0, size + 200, 100)]
        text = b"".join(pieces)
        assert abs(len(text) - size) <= 16  # numbers of the host may have got another digit
        assert text.endswith(b"\n")
        for at in (1, 77, size // 2, size - 1):
            assert os.pread(descriptor, 50, at) == text[at : at + 50]
        assert os.pread(descriptor, 10, len(text)) == b""
        assert os.pread(descriptor, 10, 1 << 40) == b""
    finally:
        os.close(descriptor)
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert names == [
        line.split()[0] for line in Path("/", path).read_bytes().splitlines() if line.strip()
    ]


def test_sizes_are_exact_for_each_caller(root: ServedRoot, make_container: MakeContainer) -> None:
    one = make_container("one")
    for path in ("proc/meminfo", "proc/cpuinfo", "proc/stat", f"{CPUS}/online", "proc/swaps"):
        file = root.at / path
        said, read = one.run("sh", "-c", f"stat -c %s {file}; cat {file} | wc -c").split()
        assert said == read, path


def test_names_modes_and_the_rest_of_a_file_system(root: ServedRoot) -> None:
    assert {path.name for path in root.at.iterdir()} == {"proc", "sys", "cgroup"}
    offered = {"cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"}
    names = {path.name for path in (root.at / "proc").iterdir()}
    assert offered & set(os.listdir(PROC)) == names - {"pressure"}
    assert sorted(os.listdir(root.at / CPUS)) == sorted(os.listdir(f"/{CPUS}"))
    assert (root.at / "proc/meminfo").stat().st_mode == 0o100444
    assert (root.at / "proc").stat().st_mode == 0o040555
    assert os.access(root.at / "proc/meminfo", os.R_OK)
    assert not os.access(root.at / "proc/meminfo", os.W_OK)
    assert not os.access(root.at / "proc/meminfo", os.X_OK)
    assert os.statvfs(root.at).f_namemax == 255
    for link in Path(f"/{CPUS}/cpu0").iterdir():
        if link.is_symlink():
            assert (root.at / CPUS / "cpu0" / link.name).readlink() == link.readlink()
    for missing in ("nothing", "proc/nothing", "proc/meminfo2", f"{CPUS}/cpu4711", "proc/self"):
        with pytest.raises(FileNotFoundError):
            (root.at / missing).read_bytes()


def test_nothing_can_be_changed(root: ServedRoot) -> None:
    file = root.at / "proc/meminfo"
    attempts: list[Callable[[], object]] = [
        lambda: os.open(file, os.O_WRONLY),
        lambda: os.open(file, os.O_RDWR),
        lambda: os.open(root.at / "proc/new", os.O_WRONLY | os.O_CREAT),
        lambda: os.truncate(file, 0),
        file.unlink,
        lambda: file.chmod(0o777),
        lambda: os.chown(file, 1, 1),
        lambda: os.utime(file),
        lambda: file.rename(root.at / "proc/other"),
        lambda: (root.at / "proc/new").mkdir(),
        lambda: (root.at / "proc").rmdir(),
        lambda: (root.at / "proc/new").symlink_to("meminfo"),
        lambda: (root.at / "proc/new").hardlink_to(file),
        lambda: os.mkfifo(root.at / "proc/new"),
        lambda: os.setxattr(file, "user.a", b"b"),
    ]
    refused = {errno.EACCES, errno.EPERM, errno.EOPNOTSUPP}
    assert {number_of(attempt) for attempt in attempts} <= refused
    assert total_kb(file.read_text()) > 0
    # The kernel's own are not to be reached either: what a container's root could switch off.
    with pytest.raises(PermissionError):
        os.open(root.at / CPUS / "cpu1/online", os.O_WRONLY)


def test_only_root_reads_the_hosts_slabs(root: ServedRoot, make_container: MakeContainer) -> None:
    assert len((root.at / "proc/slabinfo").read_text().splitlines()) > 2
    slabs = root.at / "proc/slabinfo"
    as_user = ["setpriv", "--reuid=65534", "--clear-groups", "cat"]
    for parent in root.at.parents:
        if not parent.stat().st_mode & 0o001:  # pytest's own directories
            parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run([*as_user, str(slabs)], capture_output=True, text=True, timeout=20)
    assert "Permission denied" in done.stderr
    done = subprocess.run(
        [*as_user, str(root.at / "proc/meminfo")], capture_output=True, text=True, timeout=20
    )
    assert total_kb(done.stdout) > 0
    assert len(inside(make_container(), root, "proc/slabinfo").splitlines()) == 2


def test_thousands_of_opens(root: ServedRoot) -> None:
    before = root.descriptors()
    opened = [os.open(root.at / "proc/cpuinfo", os.O_RDONLY) for _ in range(900)]
    try:
        texts = {os.read(descriptor, 1 << 20) for descriptor in opened}
        assert len(texts) >= 1
        assert all(text.startswith(b"processor") for text in texts)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    for _ in range(1500):
        assert (root.at / "proc/uptime").read_bytes()
    assert root.descriptors() - before < 20


def test_readers_that_come_and_go_leave_nothing(
    root: ServedRoot, make_container: MakeContainer
) -> None:
    one = make_container("one", memory=256 * MIB)
    script = f"for i in $(seq 150); do head -n 1 {root.at}/proc/meminfo; done | sort -u"
    assert total_kb(one.run("sh", "-c", script)) == 256 * 1024
    one.kill()
    again = make_container("two", memory=64 * MIB)
    assert total_kb(inside(again, root)) == 64 * 1024
    assert root.report().fallbacks == {}


def test_a_container_that_is_made_again_under_its_old_name(
    root: ServedRoot, nameless: RealContainer
) -> None:
    for mebibytes in (64, 96):
        nameless.create()
        nameless.limit(memory=mebibytes * MIB, cpus=1.0)
        nameless.start()
        assert total_kb(inside(nameless, root)) == mebibytes * 1024
        nameless.remove()


def test_formats_that_programs_match(root: ServedRoot, make_container: MakeContainer) -> None:
    one = make_container("one")
    up = re.fullmatch(r"(\d+\.\d\d) \d+\.\d\d\n", inside(one, root, "proc/uptime"))
    assert up is not None
    assert float(up[1]) < 60
    load = inside(one, root, "proc/loadavg")
    assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d \d+\.\d\d \d+/\d+ \d+\n", load)
    stat = inside(one, root, "proc/stat").splitlines()
    assert [line.split()[0] for line in stat[:2]] == ["cpu", "cpu0"]
    assert not any(line.endswith(" ") for line in stat)
    assert inside(one, root, "proc/swaps").startswith("Filename")


def test_bound_over_a_containers_proc_as_pod_specs_do(
    root: ServedRoot, make_container: MakeContainer
) -> None:
    one = make_container("one", memory=256 * MIB)
    for name in ("meminfo", "cpuinfo", "stat", "uptime", "loadavg"):
        said = one.run("mount", "--bind", f"{root.at}/proc/{name}", f"/proc/{name}")
        assert said == ""
    assert one.run("mount", "--bind", f"{root.at}/{CPUS}", f"/{CPUS}") == ""
    memory = one.run("free", "-m").splitlines()[1].split()
    assert memory[1] == "256"
    assert int(memory[2]) <= 256
    assert one.run("getconf", "_NPROCESSORS_ONLN").split() == ["1"]
    assert one.run("getconf", "_NPROCESSORS_CONF").split() == ["1"]
    assert "up 0 min" in one.run("uptime")
    assert re.search(r"^CPU\(s\): +1$", one.run("lscpu"), re.MULTILINE)
    assert "MiB Mem :    256.0 total" in one.run("top", "-bn1")
    said = one.run(
        "python3", "-c", "import os; print(os.cpu_count(), open('/proc/meminfo').read())"
    )
    assert said.startswith("1 ")
    assert total_kb(said.removeprefix("1 ")) == 256 * 1024


def test_a_host_that_mounts_the_root_over_its_own_files_does_not_stop_it(
    root: ServedRoot,
) -> None:
    script = (
        f"mount --bind {root.at}/proc/meminfo /proc/meminfo && "
        f"mount --bind {root.at}/{CPUS} /{CPUS} && nsenter -t 1 true; "
        "cat /proc/meminfo; cat /sys/devices/system/cpu/online"
    )
    # In a namespace of its own, whose /proc the server does not use; and then in the server's.
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=20
    )
    assert total_kb(done.stdout) == total_kb(Path("/proc/meminfo").read_text())
    served = ["nsenter", "-t", str(root.process.pid), "-m", "unshare", "-m", "--propagation"]
    done = subprocess.run(
        [*served, "unchanged", "sh", "-c", script], capture_output=True, text=True, timeout=20
    )
    assert total_kb(done.stdout) > 0


def test_errors_of_the_kernels_files_are_the_readers(root: ServedRoot) -> None:
    """And the mount goes on."""
    for path in Path(f"/{CPUS}").rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            expected: bytes | int | None = path.read_bytes()
        except OSError as error:
            expected = error.errno
        try:
            found: bytes | int | None = (root.at / str(path).lstrip("/")).read_bytes()
        except OSError as error:
            found = error.errno
        if isinstance(expected, bytes) and isinstance(found, bytes):
            continue  # counters differ from one reading to the next
        assert found == expected, path
    assert root.process.poll() is None


def test_the_server_ends_with_its_last_mount(tmp_path: Path) -> None:
    with compat_root(tmp_path) as served:
        LinuxMounts().unmount(served.at, detach=True)
        assert served.process.wait(timeout=20) == 0


def waits_for_pressure(container: RealContainer, root: ServedRoot, trigger: str) -> str:
    """What a process in the container gets of a trigger: an error, or whether poll woke it."""
    script = (
        "import os, select\n"
        f"file = os.open({str(root.at / 'proc/pressure/cpu')!r}, os.O_RDWR | os.O_NONBLOCK)\n"
        "try:\n"
        f"    os.write(file, {trigger.encode()!r})\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
        "else:\n"
        "    poll = select.poll()\n"
        "    poll.register(file, select.POLLPRI)\n"
        "    print([event & select.POLLPRI for _, event in poll.poll(8000)])\n"
    )
    return container.run("python3", "-c", script).strip()


def test_triggers_of_pressure(root: ServedRoot, make_container: MakeContainer) -> None:
    one = make_container("one")
    if not Path("/proc/pressure/cpu").exists():
        pytest.skip("this kernel tells no pressure")
    assert waits_for_pressure(one, root, "some 100 150000") == "Invalid argument"
    assert waits_for_pressure(one, root, "nonsense") == "Invalid argument"
    for _ in range(2):
        one.spawn("taskset 1 sh -c 'while :; do :; done'")
    assert waits_for_pressure(one, root, "some 100000 2000000") == f"[{select.POLLPRI}]"
    # The host's own are not to be used through it.
    with pytest.raises(PermissionError):
        os.open(root.at / "proc/pressure/cpu", os.O_RDWR)


def test_a_poll_without_a_trigger_does_not_wait(root: ServedRoot) -> None:
    with (root.at / "proc/meminfo").open("rb") as file:
        readable, _, _ = select.select([file], [], [], 10)
        assert readable == [file]
