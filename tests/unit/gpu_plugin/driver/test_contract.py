# SPDX-License-Identifier: Apache-2.0
"""Both implementations of `Nvml` answer alike, on every machine and whatever happens on it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpu_plugin.devices import (
    Gpu,
    GpuProcess,
    Machine,
    Memory,
    MemoryLimits,
    ProcessKind,
    Utilisation,
    XidEvent,
)
from gpu_plugin.nvml import (
    DeviceIsGone,
    GpuIsLost,
    NoSuchCgroup,
    NotPermitted,
    NotSupported,
    Nvml,
    NvmlUnavailable,
)
from gpu_plugin.simulated.happenings import DEMANDS, Made
from gpu_plugin.simulated.nvml import SimulatedNvml
from tests.fakes.nvml.machines import Bench, OpenNvml
from tests.fakes.nvml.remote import DriverProcess

pytestmark = pytest.mark.processes

GIB = 1 << 30
COMPUTE, GRAPHICS, MPS = ProcessKind.COMPUTE, ProcessKind.GRAPHICS, ProcessKind.MPS
MEMORY_V2 = "nvmlDeviceGetMemoryInfo_v2"

BenchOf = Callable[[str], Bench]


def without_reasons(machine: Machine) -> Machine:
    """What both must agree on: not the words, and not whether it is real."""
    assert all(lost.reason for lost in machine.lost)
    lost = tuple(dataclasses.replace(each, reason="") for each in machine.lost)
    return dataclasses.replace(machine, lost=lost, simulated=False)


def answers(nvml: Nvml, bench: Bench) -> list[object]:
    """All that can be asked of a machine."""
    asked: list[object] = [without_reasons(nvml.machine())]
    for uuid in bench.uuids:
        for question in (nvml.memory, nvml.processes, nvml.utilisation):
            try:
                asked.append(question(uuid))
            except (GpuIsLost, NotSupported, NotPermitted) as error:
                asked.append((uuid, type(error)))
    return asked


def agree(bench: Bench, new_driver: DriverProcess) -> list[object]:
    """The answers of both, which must be equal."""
    simulated = SimulatedNvml(bench.machine, bench.state_path, host=bench.host)
    driver = new_driver.open(bench.description, bench.state_path, bench.host)
    try:
        expected = answers(simulated, bench)
        assert answers(driver, bench) == expected
    finally:
        driver.close()
    return expected


# --- every machine ------------------------------------------------------------------------------


def test_idle_machines_are_told_alike(any_bench: Bench, new_driver: DriverProcess) -> None:
    machine = agree(any_bench, new_driver)[0]
    assert isinstance(machine, Machine)
    assert [gpu.uuid for gpu in machine.gpus] == [gpu.uuid for gpu in any_bench.machine.gpus]


def test_busy_machines_are_told_alike(any_bench: Bench, new_driver: DriverProcess) -> None:
    for place, uuid in enumerate(any_bench.uuids):
        for pid in range(100 * (place + 1), 100 * (place + 1) + 3 * place):
            any_bench.start(pid)
            kinds = (COMPUTE,) if pid % 3 else (COMPUTE, GRAPHICS)
            any_bench.state.hold(uuid, pid, None if pid % 5 == 0 else pid << 20, kinds)
        any_bench.state.utilise(uuid, gpu_percent=place, memory_percent=100 - place)
    agree(any_bench, new_driver)


def test_faulty_machines_are_told_alike(any_bench: Bench, new_driver: DriverProcess) -> None:
    for gpu in any_bench.machine.gpus:
        for each in gpu.slices[::2]:
            any_bench.state.remove(each.uuid)
    any_bench.state.lose(any_bench.machine.gpus[-1].uuid)
    agree(any_bench, new_driver)


@pytest.mark.parametrize(
    "symbol",
    [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetUUID",
    ],
)
def test_denied_and_missing_functions_are_told_alike(
    demo: Bench, new_driver: DriverProcess, symbol: str
) -> None:
    demo.start(7)
    demo.state.hold(demo.uuids[0], 7, GIB, (COMPUTE, MPS))
    demo.state.hold(demo.uuids[-1], 7, GIB, (COMPUTE, MPS))
    demo.state.missing(symbol)
    if symbol != "nvmlDeviceGetUUID":  # no driver lacks that
        agree(demo, new_driver)
    demo.state.clear()
    demo.state.hold(demo.uuids[0], 7, GIB, (COMPUTE, MPS))
    demo.state.deny(symbol)
    agree(demo, new_driver)


# --- what is enumerated -------------------------------------------------------------------------


def test_a_machine_without_mig(bench_of: BenchOf, open_nvml: OpenNvml) -> None:
    machine = open_nvml(bench_of("v100x2")).machine()
    assert machine.driver_version == "580.95.05"
    first, second = machine.gpus
    assert (first.index, first.minor, first.model) == (0, 0, "Tesla V100-PCIE-32GB")
    assert (first.pci_bus_id, second.pci_bus_id) == ("0000:3b:00.0", "0000:d8:00.0")
    assert (first.numa_node, second.numa_node) == (0, 1)
    assert first.mig_enabled is None
    assert first.memory == Memory(
        total=32 * GIB, reserved=269 << 20, used=0, free=(32 << 30) - (269 << 20)
    )


def test_mig_slices_have_their_own_memory(bench_of: BenchOf, open_nvml: OpenNvml) -> None:
    (gpu,) = open_nvml(bench_of("a100-mig-maxiv")).machine().gpus
    assert gpu.mig_enabled
    told = [(each.profile, each.gpu_instance, each.memory.total >> 20) for each in gpu.slices]
    assert told == [
        ("3g.40gb", 2, 40192),
        ("2g.20gb", 3, 19968),
        ("1g.10gb", 9, 9728),
        ("1g.10gb", 10, 9728),
    ]
    assert {each.parent_uuid for each in gpu.slices} == {gpu.uuid}


def test_gaps_and_instances_cut_further(bench_of: BenchOf, open_nvml: OpenNvml) -> None:
    plain, cut, empty = open_nvml(bench_of("odd")).machine().gpus
    assert (plain.model, plain.minor, plain.pci_bus_id) == ("Odd: GPU 0", 9, "0001:c1:02.0")
    assert (plain.numa_node, plain.memory.reserved) == (None, 0)
    # In the order of their numbers, and without the two that share a GPU instance.
    told = [(each.profile, each.compute_instance) for each in cut.slices]
    assert told == [("1g.6gb+me", 3), ("1g.6gb", 0)]
    assert (empty.mig_enabled, empty.slices, empty.numa_node) == (True, (), 3)


def test_a_removed_slice_is_gone_and_comes_back(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    gone = nvml.machine().gpus[2].slices[1].uuid
    demo.state.remove(gone)
    with pytest.raises(DeviceIsGone, match=gone):
        nvml.memory(gone)
    assert gone not in {each.uuid for each in nvml.machine().gpus[2].slices}
    with pytest.raises(DeviceIsGone):
        nvml.processes(gone)
    demo.state.restore(gone)
    assert nvml.machine().gpus[2].slices[1].uuid == gone
    assert nvml.memory(gone).total == 19968 << 20


def test_an_unknown_uuid_is_no_device(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    for uuid in ("GPU-never", "MIG-never", "", "*"):
        with pytest.raises(DeviceIsGone):
            nvml.memory(uuid)


# --- memory and processes -----------------------------------------------------------------------


def test_held_memory_is_used_memory(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    uuid = demo.machine.gpus[0].uuid
    demo.state.hold(uuid, demo.start(11), 3 * GIB)
    before = nvml.memory(uuid)
    assert before.used == 3 * GIB
    assert before.free == before.total - before.reserved - before.used
    demo.state.hold(uuid, 11, 5 * GIB)
    assert nvml.memory(uuid).used == 5 * GIB
    demo.state.release(11)
    assert nvml.memory(uuid).used == 0
    assert nvml.processes(uuid) == ()


def test_a_slice_and_its_gpu_both_count(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    gpu = demo.machine.gpus[2]
    first, second = gpu.slices[:2]
    demo.state.hold(first.uuid, demo.start(21), 4 * GIB)
    demo.state.hold(second.uuid, demo.start(22), 2 * GIB)
    assert nvml.memory(first.uuid).used == 4 * GIB
    assert nvml.memory(gpu.uuid).used == 6 * GIB
    in_first = GpuProcess(21, 4 * GIB, COMPUTE, 2, 0)
    assert nvml.processes(first.uuid) == (in_first,)
    assert nvml.processes(gpu.uuid) == (in_first, GpuProcess(22, 2 * GIB, COMPUTE, 3, 0))


def test_kinds_are_told_apart_and_counted_once(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    uuid = demo.machine.gpus[1].uuid
    demo.state.hold(uuid, demo.start(31), GIB, (GRAPHICS, COMPUTE))
    demo.state.hold(uuid, demo.start(30), GIB, (MPS,))
    assert nvml.processes(uuid) == (
        GpuProcess(30, GIB, MPS),
        GpuProcess(31, GIB, COMPUTE),
        GpuProcess(31, GIB, GRAPHICS),
    )
    assert nvml.memory(uuid).used == 2 * GIB


def test_unknown_memory_is_none_and_never_zero(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    uuid = demo.machine.gpus[0].uuid
    demo.state.hold(uuid, demo.start(41), None)
    demo.state.hold(uuid, demo.start(42), 0)
    assert [each.used for each in nvml.processes(uuid)] == [None, 0]


def test_dead_processes_hold_nothing(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    uuid = demo.machine.gpus[0].uuid
    for pid in (51, 52, 53, 54):
        demo.state.hold(uuid, demo.start(pid), GIB)
    demo.end(51)
    demo.zombify(52)
    demo.end(53)
    demo.start(53, start_ticks=2000)  # the pid belongs to another process now
    assert [each.pid for each in nvml.processes(uuid)] == [54]
    assert nvml.memory(uuid).used == GIB


def test_more_than_there_is_leaves_nothing_free(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    uuid = demo.machine.gpus[0].uuid
    demo.state.hold(uuid, demo.start(61), 100 * GIB)
    memory = nvml.memory(uuid)
    assert memory.free == 0
    assert memory.used == memory.total - memory.reserved


def test_utilisation_is_a_share_and_unknown_on_mig(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    v100, _, a100 = demo.machine.gpus
    demo.state.utilise(v100.uuid, gpu_percent=75, memory_percent=20)
    assert nvml.utilisation(v100.uuid) == Utilisation(0.75, 0.2)
    demo.state.utilise(v100.uuid, gpu_percent=0, memory_percent=0)
    assert nvml.utilisation(v100.uuid) == Utilisation(0, 0)
    assert nvml.utilisation(a100.uuid) == Utilisation(None, None)
    assert nvml.utilisation(a100.slices[0].uuid) == Utilisation(None, None)


def test_who_uses_the_time_of_a_device(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    v100, other, a100 = demo.machine.gpus
    first, second = demo.start(71), demo.start(72)
    for pid in (first, second):
        demo.state.hold(v100.uuid, pid, GIB)
    assert nvml.process_utilisation(v100.uuid) == {}, "nobody does anything"
    demo.state.busy(v100.uuid, first, 60)
    assert nvml.process_utilisation(v100.uuid) == {first: 0.6}
    assert nvml.process_utilisation(other.uuid) == {}
    demo.state.busy(v100.uuid, second, 30)
    assert nvml.process_utilisation(v100.uuid) == {first: 0.6, second: 0.3}
    demo.state.release(first)
    assert nvml.process_utilisation(v100.uuid) == {second: 0.3}
    for uuid in (a100.uuid, a100.slices[0].uuid):
        with pytest.raises(NotSupported):
            nvml.process_utilisation(uuid)
    demo.state.missing("nvmlDeviceGetProcessUtilization")
    fresh = open_nvml(demo)
    with pytest.raises(NotSupported):
        fresh.process_utilisation(v100.uuid)


# --- faults --------------------------------------------------------------------------------


def test_a_lost_gpu_isolates_only_itself(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    lost = demo.machine.gpus[2]
    nvml.machine()
    demo.state.lose(lost.uuid)
    for uuid in (lost.uuid, lost.slices[0].uuid):
        with pytest.raises(GpuIsLost, match="lost"):
            nvml.memory(uuid)
        with pytest.raises(GpuIsLost):
            nvml.processes(uuid)
        with pytest.raises(GpuIsLost):
            nvml.utilisation(uuid)
    machine = nvml.machine()
    assert [gpu.index for gpu in machine.gpus] == [0, 1]
    assert [(gpu.index, gpu.uuid) for gpu in machine.lost] == [(2, lost.uuid)]
    assert nvml.memory(machine.gpus[0].uuid).used == 0
    demo.state.recover(lost.uuid)
    assert [gpu.uuid for gpu in nvml.machine().lost] == [lost.uuid], "not within the session"
    nvml.reopen()
    again = nvml.machine()
    assert again.lost == ()
    assert again.session > machine.session
    assert nvml.memory(lost.slices[0].uuid).used == 0


def test_a_gpu_that_never_answered_has_no_name(demo: Bench, open_nvml: OpenNvml) -> None:
    demo.state.lose(demo.machine.gpus[0].uuid)
    machine = open_nvml(demo).machine()
    assert [(gpu.index, gpu.uuid) for gpu in machine.lost] == [(0, None)]
    assert [gpu.index for gpu in machine.gpus] == [1, 2]


def test_a_driver_that_went_comes_back(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    before = nvml.machine()
    demo.state.unload_driver()
    for question in (nvml.machine, lambda: nvml.memory(demo.uuids[0]), lambda: nvml.wait_event(0)):
        with pytest.raises(NvmlUnavailable, match=r"(?i)not loaded"):
            question()
    demo.state.reload_driver()
    assert nvml.memory(demo.uuids[0]).used == 0
    assert nvml.machine() == before


def test_a_reload_between_two_calls_is_not_noticed(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    uuid = nvml.machine().gpus[2].slices[3].uuid
    nvml.wait_event(0)
    for _ in range(3):
        demo.state.reload_driver()
        assert nvml.memory(uuid).used == 0
        assert nvml.wait_event(0) is None


def test_missing_permission_names_the_setting(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    demo.state.deny(MEMORY_V2)
    with pytest.raises(NotPermitted):
        nvml.memory(demo.uuids[0])
    machine = nvml.machine()
    assert machine.gpus == ()
    assert [gpu.uuid for gpu in machine.lost] == [gpu.uuid for gpu in demo.machine.gpus]
    demo.state.deny(MEMORY_V2, denied=False)
    assert len(nvml.machine().gpus) == 3


def test_without_the_newer_call_reserved_memory_is_used(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    gpu = demo.machine.gpus[0]
    demo.state.missing(MEMORY_V2)
    demo.state.hold(gpu.uuid, demo.start(71), GIB)
    memory = nvml.memory(gpu.uuid)
    assert (memory.total, memory.reserved) == (gpu.memory, 0)
    assert memory.used == GIB + gpu.reserved
    assert memory.free == memory.total - memory.used


def test_compute_processes_that_cannot_be_told_are_not_none(
    demo: Bench, open_nvml: OpenNvml
) -> None:
    nvml = open_nvml(demo)
    uuid = demo.uuids[0]
    demo.state.hold(uuid, demo.start(72), GIB, (COMPUTE, GRAPHICS, MPS))
    for name in ("Graphics", "MPSCompute"):
        demo.state.missing(f"nvmlDeviceGet{name}RunningProcesses_v3")
    assert len(nvml.processes(uuid)) == 3  # by the older form
    for name in ("Graphics", "MPSCompute"):
        demo.state.missing(f"nvmlDeviceGet{name}RunningProcesses_v2")
    demo.state.reload_driver()  # what is not supported is remembered until then
    assert nvml.processes(uuid) == (GpuProcess(72, GIB, COMPUTE),)
    for version in ("v2", "v3"):
        demo.state.missing(f"nvmlDeviceGetComputeRunningProcesses_{version}")
    demo.state.reload_driver()
    with pytest.raises(NotSupported):
        nvml.processes(uuid)


def test_a_slow_call_delays_no_other(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    uuid = demo.uuids[0]
    nvml.machine()
    demo.state.slow(MEMORY_V2, 300)
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        slow = pool.submit(nvml.memory, uuid)
        assert nvml.utilisation(uuid) == Utilisation(0, 0)
        assert nvml.processes(uuid) == ()
        assert not slow.done()
        assert slow.result(timeout=10).used == 0
        assert time.monotonic() - started >= 0.3
    demo.state.slow(MEMORY_V2, 10_000)
    demo.state.slow(MEMORY_V2, 0)
    started = time.monotonic()
    assert nvml.memory(uuid).used == 0
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("word", [*DEMANDS, "nothing"])
def test_what_the_driver_demands(demo: Bench, open_nvml: OpenNvml, word: str) -> None:
    nvml = open_nvml(demo)
    a100 = demo.machine.gpus[2].uuid
    demo.state.demand(a100, "reboot")
    demo.state.demand(a100, word)
    assert [gpu.demand for gpu in nvml.machine().gpus] == [None, None, DEMANDS.get(word)]


def test_a_gpu_that_is_unplugged_is_lost_and_then_not_listed(
    demo: Bench, open_nvml: OpenNvml
) -> None:
    nvml = open_nvml(demo)
    before = nvml.machine()
    demo.state.unplug(before.gpus[0].uuid)
    assert [(lost.index, lost.uuid) for lost in nvml.machine().lost] == [(0, before.gpus[0].uuid)]
    nvml.reopen()
    after = nvml.machine()
    assert after.lost == ()
    assert [gpu.uuid for gpu in after.gpus] == [gpu.uuid for gpu in before.gpus[1:]]
    assert [gpu.index for gpu in after.gpus] == [0, 1], "the indices shift"
    demo.state.unplug(before.gpus[0].uuid, unplugged=False)
    assert len(nvml.machine().gpus) == 2
    nvml.reopen()
    assert nvml.machine() == before


def test_one_gpu_that_hangs_delays_no_question_about_another(
    demo: Bench, open_nvml: OpenNvml
) -> None:
    nvml = open_nvml(demo)
    nvml.machine()
    demo.state.hang(demo.uuids[0], 150)
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        slow = pool.submit(nvml.gpu, 0)
        assert nvml.outline().gpus == 3
        assert isinstance(nvml.gpu(1), Gpu)
        assert nvml.memory(demo.uuids[1]).used == 0
        assert not slow.done()
        assert isinstance(slow.result(timeout=30), Gpu)
        assert time.monotonic() - started >= 0.15


def test_slices_come_and_go_with_the_geometry(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    parent = demo.machine.gpus[2]
    gone, kept = parent.slices[0].uuid, parent.slices[1].uuid
    nvml.machine()
    demo.state.remove(gone)
    for number in range(2):
        made = Made(parent.uuid, f"MIG-made-{number}", 11 + number, 0, 9728 << 20, "1g.10gb")
        demo.state.make(made)
    demo.state.make(Made(parent.uuid, "MIG-cut", 13, 0, 9728 << 20, "1c.2g.20gb"))
    found = {each.uuid: each for each in nvml.machine().gpus[2].slices}
    assert {gone, "MIG-cut"}.isdisjoint(found)
    assert (found["MIG-made-1"].profile, found["MIG-made-1"].gpu_instance) == ("1g.10gb", 12)
    demo.state.hold("MIG-made-0", demo.start(91), GIB)
    assert nvml.memory("MIG-made-0").used == GIB
    demo.state.switch_mig(parent.uuid, on=False)
    whole = nvml.machine().gpus[2]
    assert (whole.mig_enabled, whole.slices) == (False, ())
    for uuid in (kept, "MIG-made-0"):
        with pytest.raises(DeviceIsGone):
            nvml.memory(uuid)
    demo.state.switch_mig(parent.uuid, on=True)
    assert {each.uuid for each in nvml.machine().gpus[2].slices} == found.keys()
    demo.state.switch_mig(demo.uuids[0], on=True)
    assert nvml.machine().gpus[0].mig_enabled is None, "a V100 cannot"


# --- events --------------------------------------------------------------------------------


def test_xids_arrive_once_and_in_order(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    v100, _, a100 = demo.machine.gpus
    demo.state.xid(v100.uuid, 13)  # before anybody waits
    assert nvml.wait_event(0) is None
    demo.state.xid(v100.uuid, 79)
    demo.state.xid("GPU-never", 48)
    demo.state.xid(a100.slices[2].uuid, 31)
    demo.state.xid(v100.uuid, 79)
    got = [nvml.wait_event(1), nvml.wait_event(1), nvml.wait_event(1)]
    assert got == [XidEvent(v100.uuid, 79), XidEvent(a100.uuid, 31, 9, 0), XidEvent(v100.uuid, 79)]
    assert nvml.wait_event(0) is None


def test_a_waiter_is_woken(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    assert nvml.wait_event(0) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(nvml.wait_event, 30)
        nvml.machine()  # other calls go on beside it
        assert not waiting.done()
        demo.state.xid(demo.uuids[1], 63)
        assert waiting.result(timeout=10) == XidEvent(demo.uuids[1], 63)


def test_waiting_ends_with_the_time_and_with_close(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    started = time.monotonic()
    assert nvml.wait_event(0.1) is None
    assert 0.1 <= time.monotonic() - started < 10
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(nvml.wait_event, 60)
        threading.Event().wait(0.05)
        nvml.close()
        assert waiting.result(timeout=10) is None
    for question in (nvml.machine, lambda: nvml.wait_event(1)):
        with pytest.raises(NvmlUnavailable, match="closed"):
            question()
    nvml.close()


def test_a_lost_gpu_takes_no_events_from_the_others(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    nvml.machine()
    assert nvml.wait_event(0) is None
    demo.state.lose(demo.uuids[0])
    assert nvml.wait_event(0.3) is None
    demo.state.xid(demo.uuids[1], 94)
    assert nvml.wait_event(5) == XidEvent(demo.uuids[1], 94)
    assert set(nvml.unmonitored()) == {demo.uuids[0]}
    demo.state.recover(demo.uuids[0])
    nvml.reopen()
    assert nvml.machine().lost == ()
    assert nvml.wait_event(0) is None
    assert nvml.unmonitored() == {}
    demo.state.xid(demo.uuids[0], 45)
    assert nvml.wait_event(5) == XidEvent(demo.uuids[0], 45)


def test_a_gpu_that_tells_of_no_events_is_named(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    demo.state.deafen(demo.uuids[0])
    assert nvml.wait_event(0) is None
    assert set(nvml.unmonitored()) == {demo.uuids[0]}
    demo.state.xid(demo.uuids[0], 79)
    demo.state.xid(demo.uuids[1], 79)
    assert nvml.wait_event(5) == XidEvent(demo.uuids[1], 79)
    for gpu in demo.machine.gpus:
        demo.state.deafen(gpu.uuid)
    nvml.reopen()
    with pytest.raises(NotSupported):
        nvml.wait_event(0)
    assert set(nvml.unmonitored()) == {gpu.uuid for gpu in demo.machine.gpus}
    demo.state.clear()
    nvml.reopen()
    assert nvml.wait_event(0) is None
    assert nvml.unmonitored() == {}


def test_an_event_that_waits_outlives_its_session(demo: Bench, open_nvml: OpenNvml) -> None:
    nvml = open_nvml(demo)
    assert nvml.wait_event(0) is None
    for code in (94, 79):
        demo.state.xid(demo.uuids[0], code)
    former = nvml.outline().session
    nvml.reopen()
    assert nvml.machine().session > former
    told = [nvml.wait_event(1) for _ in range(2)]
    assert told == [XidEvent(demo.uuids[0], 94), XidEvent(demo.uuids[0], 79)]
    assert [event.session for event in told if event] == [former, former]
    assert nvml.wait_event(0) is None


def test_events_are_heard_again_after_the_driver_was_opened_anew(
    demo: Bench, open_nvml: OpenNvml
) -> None:
    nvml = open_nvml(demo)
    assert nvml.wait_event(0) is None
    for reopen in (nvml.reopen, demo.state.reload_driver):
        reopen()
        nvml.machine()
        assert nvml.wait_event(0) is None
        demo.state.xid(demo.uuids[0], 79)
        event = nvml.wait_event(5)
        assert event == XidEvent(demo.uuids[0], 79)
        assert event.session == nvml.outline().session


# --- memory limits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (MemoryLimits(soft=2 * GIB, hard=4 * GIB), MemoryLimits(2 * GIB, 4 * GIB, 0)),
        (MemoryLimits(soft=None, hard=4 * GIB), MemoryLimits(None, 4 * GIB, 0)),
        (MemoryLimits(soft=0, hard=0), MemoryLimits(None, 0, 0)),
        (MemoryLimits(soft=1, hard=None, used=9), MemoryLimits(1, None, 0)),
        (MemoryLimits(soft=None, hard=None), MemoryLimits(None, None, 0)),
    ],
)
def test_limits_are_kept(
    bench_of: BenchOf, open_nvml: OpenNvml, wanted: MemoryLimits, kept: MemoryLimits
) -> None:
    bench = bench_of("h200")
    nvml = open_nvml(bench)
    cgroup = bench.host.cgroup / "kubepods.slice" / "a pod.slice"
    cgroup.mkdir(parents=True)
    (uuid,) = bench.uuids
    assert nvml.memory_limits(uuid, str(cgroup)) == MemoryLimits(None, None, 0)
    nvml.set_memory_limits(uuid, str(cgroup), wanted)
    assert nvml.memory_limits(uuid, str(cgroup)) == kept
    assert nvml.memory_limits(uuid, str(cgroup.parent)) == MemoryLimits(None, None, 0)


def test_limits_tell_what_the_cgroup_uses(bench_of: BenchOf, open_nvml: OpenNvml) -> None:
    bench = bench_of("h200")
    nvml = open_nvml(bench)
    (uuid,) = bench.uuids
    for pid, cgroup in ((81, "/pod"), (82, "/pod/container"), (83, "/pod-other"), (84, "/")):
        bench.start(pid, cgroup=cgroup)
        bench.state.hold(uuid, pid, pid << 20)
    for layout in ("pod", "unified/pod"):  # cgroup v2 alone, and beside v1
        directory = bench.host.cgroup / layout
        directory.mkdir(parents=True)
        assert nvml.memory_limits(uuid, str(directory)).used == (81 + 82) << 20


def test_limits_need_a_cgroup(bench_of: BenchOf, open_nvml: OpenNvml) -> None:
    bench = bench_of("h200")
    nvml = open_nvml(bench)
    for path in (str(bench.host.cgroup / "ended"), "relative", str(bench.description)):
        with pytest.raises(NoSuchCgroup, match="cgroup"):
            nvml.set_memory_limits(bench.uuids[0], path, MemoryLimits(1, 2))
    with pytest.raises(DeviceIsGone):
        nvml.memory_limits("GPU-never", str(bench.host.cgroup))


@pytest.mark.parametrize(("name", "place"), [("demo", 0), ("demo", 2), ("demo", 3), ("odd", 1)])
def test_limits_are_not_for_old_drivers_or_mig(
    bench_of: BenchOf, open_nvml: OpenNvml, name: str, place: int
) -> None:
    bench = bench_of(name)
    nvml = open_nvml(bench)
    for _ in range(2):
        with pytest.raises(NotSupported):
            nvml.memory_limits(bench.uuids[place], str(bench.host.cgroup))
        with pytest.raises(NotSupported):
            nvml.set_memory_limits(bench.uuids[place], str(bench.host.cgroup), MemoryLimits(1, 2))


def test_a_limit_set_by_one_is_seen_by_the_other(
    bench_of: BenchOf, new_driver: DriverProcess
) -> None:
    bench = bench_of("h200")
    (uuid,) = bench.uuids
    cgroup = str(bench.host.cgroup)
    simulated = SimulatedNvml(bench.machine, bench.state_path, host=bench.host)
    driver = new_driver.open(bench.description, bench.state_path, bench.host)
    driver.set_memory_limits(uuid, cgroup, MemoryLimits(5, 6))
    assert simulated.memory_limits(uuid, cgroup) == MemoryLimits(5, 6, 0)
    simulated.set_memory_limits(uuid, cgroup, MemoryLimits(None, 7))
    assert driver.memory_limits(uuid, cgroup) == MemoryLimits(None, 7, 0)
    driver.close()
