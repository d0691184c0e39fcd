# SPDX-License-Identifier: Apache-2.0
"""What a container sees of files: its root, volumes with each propagation, devices, identity."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import CONTAINER_GPU_DIR, PROC, HostFs
from agents.mounts import LinuxMounts, Propagation
from agents.standin.leftovers import sweep
from agents.standin.pods import DeviceNode, RunningContainer, Volume, VolumePropagation
from agents.standin.runtime import ContainerRunner
from tests.fakes.containers import container

Start = Callable[..., RunningContainer]
Shell = Callable[[RunningContainer, str], str]


@pytest.fixture
def shell(runner: ContainerRunner) -> Shell:
    """Run a line of shell in a container; its output, and its exit code where that is not 0."""

    def run(running: RunningContainer, line: str) -> str:
        result = runner.exec(running.start.id, ["sh", "-c", line], timeout_s=10)
        return result.output.strip() + ("" if result.ok else f" [{result.code}]")

    return run


def test_the_userland_of_the_host_cannot_be_written(start: Start, shell: Shell) -> None:
    running = start()
    for place in ("/usr/bin/new", "/usr/new", "/bin/new", "/etc/passwd", "/sys/new"):
        assert shell(running, f"echo x > {place}").endswith("[2]"), place
    assert shell(running, "echo 1 > /proc/sys/vm/swappiness").endswith("[2]")
    assert shell(running, "echo b > /proc/sysrq-trigger").endswith("[2]")


def test_it_has_places_of_its_own(start: Start, shell: Shell) -> None:
    running = start()
    for place in ("/tmp", "/run", "/root", "/dev/shm", "/home"):
        line = f"mkdir -p {place} && echo x > {place}/new && cat {place}/new"
        assert shell(running, line) == "x", place
    assert shell(running, "cat /etc/hostname; id -un") == "notebook-1\nroot"
    assert shell(running, "echo x > /dev/null; head -c 2 /dev/zero | wc -c") == "2"
    assert shell(running, "echo x | cat /dev/stdin; test -c /dev/pts/ptmx && echo pty") == "x\npty"
    assert shell(running, "stat -c %a /tmp /etc /etc/hosts").split() == ["1777", "755", "644"]


def test_it_sees_nothing_else_of_the_host(start: Start, shell: Shell, tmp_path: Path) -> None:
    running = start()
    assert shell(running, f"ls {tmp_path}").endswith("[2]")
    assert shell(running, "ls -d /work /var/lib /boot /mnt /media 2>/dev/null").startswith(" [")
    assert shell(running, "cat /proc/keys /proc/timer_list") == ""
    points = {entry.mount_point for entry in mountinfo.read(PROC, running.pid)}
    assert not [point for point in points if point.startswith(str(tmp_path))]


def test_volumes_show_the_hosts_files(start: Start, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("a")
    (tmp_path / "link").symlink_to("data")
    running = start(
        volumes=[
            Volume(tmp_path / "data", "/data"),
            Volume(tmp_path / "link", "/data/../srv/link".replace("/data/..", "")),
            Volume(tmp_path / "data/file", "/etc/one-file", read_only=True),
            Volume(tmp_path / "data", "/read-only", read_only=True),
            Volume(tmp_path / "data", "/data/inner/deep"),
        ]
    )
    assert shell(running, "cat /data/file /srv/link/file /etc/one-file /data/inner/deep/file") == (
        "aaaa"
    )
    assert shell(running, "echo b > /data/file && cat /read-only/file") == "b"
    assert (tmp_path / "data/file").read_text() == "b\n"
    for place in ("/read-only/new", "/etc/one-file"):
        assert "Read-only file system" in shell(running, f"echo x > {place}"), place


def test_a_missing_host_path_becomes_an_empty_directory(
    start: Start, shell: Shell, tmp_path: Path
) -> None:
    running = start(volumes=[Volume(tmp_path / "new/deep", "/data")])
    assert (tmp_path / "new/deep").is_dir()
    assert shell(running, "ls -A /data") == ""


def test_a_container_path_cannot_lead_out_through_a_volume(
    start: Start, tmp_path: Path, runner: ContainerRunner
) -> None:
    """The second volume's path goes through a link of the first one, to a directory of the host."""
    outside, first = tmp_path / "outside", tmp_path / "first"
    outside.mkdir()
    first.mkdir()
    (first / "link").symlink_to(outside)
    start(volumes=[Volume(first, "/a"), Volume(first, "/a/link/inner")])
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("propagation", "late"),
    [
        (VolumePropagation.NONE, "[1]"),
        (VolumePropagation.HOST_TO_CONTAINER, "late"),
        (VolumePropagation.BIDIRECTIONAL, "late"),
    ],
)
def test_a_mount_made_later_on_the_host(
    start: Start,
    shell: Shell,
    shared: Path,
    tmp_path: Path,
    propagation: VolumePropagation,
    late: str,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("late")
    for name in ("early", "late"):
        (shared / name).mkdir()
    LinuxMounts().bind(source, shared / "early")
    running = start(volumes=[Volume(shared, "/data", propagation=propagation)])
    assert shell(running, "cat /data/early/file") == "late", "what was there is always seen"
    LinuxMounts().bind(source, shared / "late")
    assert shell(running, "cat /data/late/file 2>/dev/null").strip() == late


def test_the_peer_group_is_what_was_asked(start: Start, shared: Path) -> None:
    group = mountinfo.at(mountinfo.read(PROC), shared)[0].shared
    expected = {
        VolumePropagation.NONE: (None, None),
        VolumePropagation.HOST_TO_CONTAINER: (None, group),
        VolumePropagation.BIDIRECTIONAL: (group, None),
    }
    for propagation, (peers, master) in expected.items():
        volume = Volume(shared, "/data", read_only=True, propagation=propagation)
        running = start(volumes=[volume])
        (entry,) = mountinfo.at(mountinfo.read(PROC, running.pid), "/data")
        assert (entry.shared, entry.master) == (peers, master), propagation
        assert entry.read_only, propagation
    assert not mountinfo.at(mountinfo.read(PROC), shared)[0].read_only, "the host's own is not"


@pytest.mark.parametrize(
    ("propagation", "wanted"),
    [
        (VolumePropagation.HOST_TO_CONTAINER, "a shared or slave mount"),
        (VolumePropagation.BIDIRECTIONAL, "a shared mount"),
    ],
)
def test_propagation_from_a_private_mount_is_refused_as_by_containerd(
    start: Start, tmp_path: Path, propagation: VolumePropagation, wanted: str
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    LinuxMounts().mount("private", private, "tmpfs")
    LinuxMounts().set_propagation(private, Propagation.PRIVATE)
    try:
        text = f'path "{private}" is mounted on "{private}" but it is not {wanted}'
        with pytest.raises(AgentError) as raised:
            start(volumes=[Volume(private, "/data", propagation=propagation)])
        assert str(raised.value) == text
    finally:
        LinuxMounts().unmount(private)


def test_a_device_node_is_the_hosts(start: Start, shell: Shell) -> None:
    running = start(devices=[DeviceNode(Path("/dev/zero"), "/dev/nvidia0")])
    assert shell(running, "test -c /dev/nvidia0 && head -c 3 /dev/nvidia0 | wc -c") == "3"


def test_the_identity_of_an_allocation_cannot_be_shed(
    start: Start, shell: Shell, tmp_path: Path
) -> None:
    """What the GPU plugin mounts: root in the container neither unmounts, covers nor changes it."""
    identity = tmp_path / "allocation.nonce"
    identity.mkdir()
    (identity / "status").write_text("8 of 16\n")
    running = start(volumes=[Volume(identity, CONTAINER_GPU_DIR, read_only=True)])
    assert shell(running, f"cat {CONTAINER_GPU_DIR}/status") == "8 of 16"
    for attempt in (
        f"umount {CONTAINER_GPU_DIR}",
        f"umount -l {CONTAINER_GPU_DIR}",
        f"mount -t tmpfs none {CONTAINER_GPU_DIR}",
        f"mount --bind /tmp {CONTAINER_GPU_DIR}",
        f"mount -o remount,rw {CONTAINER_GPU_DIR}",
        f"rmdir {CONTAINER_GPU_DIR}",
        f"mv {CONTAINER_GPU_DIR} /tmp/gpu",
        f"touch {CONTAINER_GPU_DIR}/new",
        "unshare -m true",
    ):
        assert shell(running, attempt).endswith("]"), attempt
    (entry,) = mountinfo.at(mountinfo.read(PROC, running.pid), CONTAINER_GPU_DIR)
    assert entry.root.endswith("/allocation.nonce")
    seen = (PROC / f"{running.pid}/root{CONTAINER_GPU_DIR}").stat()
    assert (seen.st_dev, seen.st_ino) == (identity.stat().st_dev, identity.stat().st_ino)


def test_its_own_cgroup_is_shown_and_cannot_be_changed(
    start: Start, shell: Shell, runner: ContainerRunner
) -> None:
    if "memory" in runner.missing_controllers:
        pytest.skip("no memory controller")
    running = start(memory_bytes=48 << 20)
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    assert shell(running, f"cat {files} 2>/dev/null | head -1").split()[0] == str(48 << 20)
    assert "Read-only" in shell(running, f"for f in {files}; do echo 1 > $f; done")


def test_a_root_of_busybox(directory: Path, cgroup_parent: str, host: HostFs) -> None:
    binary = shutil.which("busybox")
    assert binary is not None, "install busybox-static"
    runner = ContainerRunner(directory, cgroup_parent, host, busybox=Path(binary))
    try:
        running = runner.start(container())
        result = runner.exec(
            running.start.id, ["sh", "-c", "ls /usr /lib; readlink /bin/ls"], timeout_s=10
        )
        assert "busybox" in result.output.splitlines()
        assert result.output.count("No such file or directory") == 2, "nothing else of the host"
        runner.close()
    finally:
        sweep(directory, cgroup_parent, host)


def test_a_busybox_that_is_none_is_refused(
    directory: Path, cgroup_parent: str, host: HostFs
) -> None:
    with pytest.raises(AgentError, match="is not a busybox"):
        ContainerRunner(directory, cgroup_parent, host, busybox=Path(shutil.which("true") or ""))
    assert not directory.exists()
