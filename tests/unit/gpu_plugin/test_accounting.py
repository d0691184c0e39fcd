# SPDX-License-Identifier: Apache-2.0
"""Joining: nobody is lost, nobody counts twice, and what is not known stays unknown."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agents.container_cgroups import ContainerCgroup, Outside, Place
from agents.processes import ProcessKey
from gpu_plugin.accounting import Accounting, GpuUse, Grant, KnownContainer, Origin, account
from gpu_plugin.devices import GpuProcess, Memory, ProcessKind
from gpu_plugin.readings import Reading

GIB = 1 << 30
HERE = ContainerCgroup("11111111-2222-3333-4444-555555555555", "ab" * 32, "/kubepods/a")
THERE = ContainerCgroup(None, "cd" * 32, "/docker/c")


def reading(device: str, *processes: GpuProcess, used: int = 0, asked_at: float = 100.0) -> Reading:
    memory = Memory(32 * GIB, 0, used, 32 * GIB - used)
    return Reading(device, memory, processes, 0.5, asked_at)


def process(pid: int, used: int | None, kind: ProcessKind = ProcessKind.COMPUTE) -> GpuProcess:
    return GpuProcess(pid, used, kind)


def origin(pid: int, place: Place, start_ticks: int = 10) -> Origin:
    return Origin(ProcessKey(pid, start_ticks), place, "python")


def join(*readings: Reading, origins: list[Origin], known: list[KnownContainer]) -> Accounting:
    return account(
        {one.device: one for one in readings},
        {one.key.pid: one for one in origins},
        known,
        at=1.0,
        wall=2.0,
        after_boot=104.0,
    )


def test_how_old_an_answer_of_the_driver_is() -> None:
    found = join(reading("GPU-0"), reading("GPU-1", asked_at=110.0), origins=[], known=[])
    assert [one.age_s for one in found.devices.values()] == [4.0, 0.0]


def test_a_process_in_two_lists_counts_once() -> None:
    found = join(
        reading(
            "GPU-0",
            process(7, 3 * GIB),
            process(7, 3 * GIB, ProcessKind.GRAPHICS),
            process(8, None),
            process(8, GIB, ProcessKind.MPS),
            used=5 * GIB,
        ),
        origins=[origin(7, HERE), origin(8, HERE)],
        known=[KnownContainer(HERE)],
    )
    (container,) = found.containers
    assert container.used("GPU-0") == 4 * GIB
    assert [(use.process.pid, use.kind) for use in container.uses] == [
        (7, ProcessKind.COMPUTE),
        (8, ProcessKind.COMPUTE),
    ]
    assert found.devices["GPU-0"].unattributed == GIB


def test_a_process_on_two_devices_counts_on_both() -> None:
    found = join(
        reading("GPU-0", process(7, GIB)),
        reading("GPU-1", process(7, 2 * GIB)),
        origins=[origin(7, HERE)],
        known=[KnownContainer(HERE, (Grant("a", "r", "GPU-0", 1, GIB),))],
    )
    (container,) = found.containers
    assert (container.used("GPU-0"), container.used("GPU-1")) == (GIB, 2 * GIB)
    assert container.uninvited


def test_a_pid_that_was_given_to_another_process_is_unknown() -> None:
    """It started after the driver was asked: whoever the driver meant has ended."""
    later = origin(7, HERE, start_ticks=10_001)
    found = join(
        reading("GPU-0", process(7, GIB), asked_at=100.0),
        origins=[later],
        known=[KnownContainer(HERE)],
    )
    assert found.containers == ()
    assert found.unknown == (GpuUse(ProcessKey(7, 0), "GPU-0", GIB, ProcessKind.COMPUTE),)


def test_a_device_that_does_not_tell_its_processes_is_absent() -> None:
    silent = Reading("GPU-0", Memory(GIB, 0, 0, GIB), None, None, 100.0)
    found = join(silent, reading("GPU-1"), origins=[], known=[])
    assert found.devices.keys() == {"GPU-1"}


def test_what_a_container_was_given_may_be_unknown() -> None:
    """Nothing is said against it then."""
    for known in ([], [KnownContainer(HERE, None)]):
        found = join(reading("GPU-0", process(7, GIB)), origins=[origin(7, HERE)], known=known)
        assert found.containers == ()
        assert [use.process.pid for use in found.unknown] == [7]


def test_shared_memory_that_counts_twice_leaves_nothing_below_zero() -> None:
    found = join(
        reading("GPU-0", process(7, 3 * GIB), process(8, 3 * GIB), used=4 * GIB),
        origins=[],
        known=[],
    )
    assert found.devices["GPU-0"].unattributed == 0


_PLACES = st.sampled_from([HERE, THERE, Outside.HOST, Outside.UNKNOWN, None])
_PROCESSES = st.lists(
    st.builds(
        GpuProcess,
        st.integers(1, 6),
        st.one_of(st.none(), st.integers(0, GIB)),
        st.sampled_from(ProcessKind),
    ),
    max_size=12,
)


@given(
    st.dictionaries(st.sampled_from(["GPU-0", "GPU-1", "MIG-2"]), _PROCESSES),
    st.dictionaries(st.integers(1, 6), _PLACES),
    st.sets(st.sampled_from([HERE, THERE])),
)
def test_everybody_is_counted_once_on_each_device(
    listed: dict[str, list[GpuProcess]],
    places: dict[int, Place | None],
    looked_at: set[ContainerCgroup],
) -> None:
    found = join(
        *(reading(device, *processes) for device, processes in listed.items()),
        origins=[origin(pid, place) for pid, place in places.items() if place is not None],
        known=[KnownContainer(one) for one in looked_at],
    )
    uses = [*found.host, *found.unknown, *(use for one in found.containers for use in one.uses)]
    counted = Counter((use.device, use.process.pid) for use in uses)
    assert set(counted.values()) <= {1}
    assert counted.keys() == {
        (device, process.pid) for device, processes in listed.items() for process in processes
    }
    for container in found.containers:
        assert container.uninvited
        assert all(places[use.process.pid] in looked_at for use in container.uses)
    assert all(places[use.process.pid] is Outside.HOST for use in found.host)
    for use in uses:
        told = [
            one.used
            for one in listed[use.device]
            if one.pid == use.process.pid and one.used is not None
        ]
        assert use.used == (max(told) if told else None), "unknown is never 0"
    for device, one in found.devices.items():
        unknown = any(use.used is None for use in uses if use.device == device)
        assert (one.unattributed is None) is unknown
