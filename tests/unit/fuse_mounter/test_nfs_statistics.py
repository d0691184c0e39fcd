# SPDX-License-Identifier: Apache-2.0
"""What the kernel counts of NFS mounts, as several kernels write it, and what follows from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agents.hostfs import HostFs
from fuse_mounter.drivers import nfs_statistics
from fuse_mounter.drivers.nfs_sign import Memory, Observer, measurements, remember, suspicion
from fuse_mounter.drivers.nfs_statistics import Bytes, Operation, Statistics, Transport

_FIXTURES = Path(__file__).parents[2] / "fixtures/mountstats"
#: Recorded: kernel 6.1, NFSv4.2 with two connections (nconnect=2), a mount of NFSv4.1 beside it;
#: without the operations that were never used, but for one.
NCONNECT = (_FIXTURES / "kernel-6.1-nconnect.txt").read_text()
#: As fs/nfs/super.c and net/sunrpc wrote it up to kernel 5.2: eight numbers, no errors.
OLD = (_FIXTURES / "kernel-5.2-nfs3.txt").read_text()
#: After net/sunrpc/xprtrdma and xprtsock.c; NFSv4.0, which keeps no session.
RDMA = (_FIXTURES / "rdma.txt").read_text()


def read(text: str, place: str) -> Statistics:
    return nfs_statistics.parse(nfs_statistics.by_place(text)[place])


def test_only_nfs_is_found_and_by_its_unescaped_place() -> None:
    assert set(nfs_statistics.by_place(NCONNECT)) == {"/tmp/one", "/tmp/two"}
    assert set(nfs_statistics.by_place(OLD)) == {"/mnt/with space"}
    assert nfs_statistics.by_place("") == {}
    assert nfs_statistics.by_place("no device mounted on / with fstype rootfs\n") == {}


def test_a_mount_of_a_recent_kernel() -> None:
    found = read(NCONNECT, "/tmp/one")
    assert (found.age_s, found.lease_expired_s) == (8, 1)
    assert found.bytes == Bytes(11, 3, 11, 3)
    assert found.transports == (Transport("tcp", 2, 3, 58, 58, 0),)
    assert [one.name for one in found.operations] == ["NULL", "READ", "CREATE_SESSION"]
    assert found.operations[2] == Operation("CREATE_SESSION", 3, 3, 0, 0.006, 0.011, 1)


def test_every_connection_counts() -> None:
    assert [one.sent for one in read(NCONNECT, "/tmp/two").transports] == [15, 7]


def test_a_mount_of_nfs3_on_an_old_kernel() -> None:
    found = read(OLD, "/mnt/with space")
    assert (found.age_s, found.lease_expired_s) == (7200, None)
    assert found.bytes == Bytes(130, 240, 1000, 2000)
    assert found.transports == (Transport("tcp", 1, 12, 5000, 4998, 17),)
    assert found.operations == (Operation("GETATTR", 4000, 4003, 2, 40.0, 42.5, None),)


def test_other_transports_and_no_lease_where_none_is_kept() -> None:
    found = read(RDMA, "/fast")
    rdma, udp = Transport("rdma", 3, 24, 11, 10, 4), Transport("udp", 0, None, 30, 29, 2)
    assert found.transports == (rdma, udp)
    assert found.lease_expired_s is None


@pytest.mark.parametrize(
    "text",
    [
        NCONNECT.replace("per-op statistics", "something else"),
        NCONNECT.replace("age:", "years:"),
        NCONNECT.replace("bytes:\t11", "bytes:\tmany"),
        NCONNECT.replace("tcp 0 0 2 0 3 58 58 0 58 0 2 0 0", "tcp 0 0 2"),
        NCONNECT.partition("bytes:")[0],
    ],
)
def test_an_unknown_format_is_one_error(text: str) -> None:
    with pytest.raises(ValueError, match="statistics of NFS cannot be read"):
        read(text, "/tmp/one")


def transport(sent: int, received: int, connects: int = 1) -> Transport:
    return Transport("tcp", connects, 0, sent, received, 0)


def after(*readings: Sequence[Transport]) -> Memory:
    """One reading a second, the first at 0."""
    memory: Memory | None = None
    for second, transports in enumerate(readings):
        memory = remember(memory, transports, float(second))
    assert memory is not None
    return memory


@pytest.mark.parametrize(
    ("readings", "out", "silent_since"),
    [
        pytest.param([(10, 10), (10, 10), (10, 10)], 0, None, id="idle"),
        pytest.param([(10, 10), (20, 20), (31, 30), (41, 40)], 0, None, id="busy"),
        pytest.param([(10, 10), (12, 10), (13, 10)], 3, 1.0, id="silent"),
        pytest.param([(10, 10), (12, 10), (13, 12)], 0, None, id="came back"),
        pytest.param([(10, 10), (12, 10), (13, 12), (13, 12)], 0, None, id="one was given up"),
        pytest.param([(10, 10), (12, 10), (13, 12), (15, 12)], 2, 3.0, id="silent once more"),
        pytest.param([(20, 15), (20, 15), (20, 15)], 0, None, id="lost long ago"),
        pytest.param([(20, 15), (22, 15), (22, 15)], 2, 1.0, id="lost long ago, then silent"),
        pytest.param([(31, 26), (31, 26), (32, 26)], 1, 2.0, id="silent while busy"),
    ],
)
def test_requests_that_wait(
    readings: list[tuple[int, int]], out: int, silent_since: float | None
) -> None:
    memory = after(*([transport(*one)] for one in readings))
    assert (memory.out, memory.silent_since) == (out, silent_since)


def test_what_was_out_on_a_lost_connection_is_not_waited_for() -> None:
    memory = after([transport(10, 10)], [transport(15, 10)], [transport(20, 10, connects=2)])
    assert (memory.out, memory.silent_since) == (0, None)


def test_a_silent_server_is_suspected_in_words() -> None:
    found = read(NCONNECT, "/tmp/two")
    silent = after([transport(10, 10)], [transport(13, 10)], [transport(13, 10)])
    assert suspicion(silent, found, 1.5) is None
    assert suspicion(silent, found, 5.0) == (
        "3 requests are out, and its server has not replied for 4 s"
    )
    idle = after([transport(1, 1)])
    assert suspicion(idle, found, 9.0) is None
    assert suspicion(idle, replace(found, lease_expired_s=3), 9.0) is None
    late = suspicion(idle, replace(found, lease_expired_s=33), 9.0)
    assert late == "its server has not renewed the lease, which ended 33 s ago"


def test_measurements_are_of_used_operations_and_named_alike() -> None:
    made = list(measurements(read(OLD, "/mnt/with space"), after([transport(1, 1)])))
    by_name = {one.name: one for one in made}
    assert by_name["nfs_retransmissions"].value == 3
    assert by_name["nfs_timeouts"].value == 2
    assert by_name["nfs_backlog"].value == 17
    assert by_name["nfs_round_trip_seconds"].labels == (("operation", "GETATTR"),)
    assert "nfs_operation_errors" not in by_name  # not counted by that kernel
    for text, place in ((NCONNECT, "/tmp/one"), (OLD, "/mnt/with space"), (RDMA, "/fast")):
        labels: dict[str, tuple[str, ...]] = {}
        for one in measurements(read(text, place), after([transport(1, 1)])):
            names = tuple(name for name, _ in one.labels)
            assert labels.setdefault(one.name, names) == names


def test_one_reading_serves_all_and_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    file = tmp_path / "self/mountstats"
    file.write_text(NCONNECT)
    now = [100.0]
    observer, host = Observer(clock=lambda: now[0]), HostFs(proc=tmp_path)
    assert observer.sign(Path("/tmp/one"), host) is not None
    file.write_text(NCONNECT.replace("58 58", "60 58"))
    assert observer.sign(Path("/tmp/elsewhere"), host) is None
    now[0] += 1
    assert observer.sign(Path("/tmp/one"), host) == observer.sign(Path("/tmp/one"), host)
    now[0] += 2
    sign = observer.sign(Path("/tmp/one"), host)
    assert sign is not None
    assert sign.suspicion == "2 requests are out, and its server has not replied for 2 s"
    now[0] += 1
    file.write_text("")
    assert observer.sign(Path("/tmp/one"), host) is None
    now[0] += 1
    file.write_text(NCONNECT.replace("58 58", "60 58"))
    again = observer.sign(Path("/tmp/one"), host)
    assert again is not None
    assert again.suspicion is None  # another mount, as far as anybody knows


def test_the_drivers_page_has_all_measurements() -> None:
    page = (Path(__file__).parents[3] / "fuse_mounter/drivers/README.md").read_text()
    listed = re.findall(r"^\| `nodeshare_mount_(nfs_\w+)` \| (\w+) \| (.+) \|$", page, re.MULTILINE)
    made = {
        (f"{one.name}_total" if one.kind == "counter" else one.name, one.kind, one.help)
        for one in measurements(read(NCONNECT, "/tmp/one"), after([transport(1, 1)]))
    }
    assert set(listed) == made
