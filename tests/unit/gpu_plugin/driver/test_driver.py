# SPDX-License-Identifier: Apache-2.0
"""What only the real driver path has: the library, its versions, its sessions, races inside it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpu_plugin.devices import GpuProcess, ProcessKind, XidEvent
from gpu_plugin.nvml import GpuIsLost, NotSupported, Nvml, NvmlUnavailable
from gpu_plugin.simulated.happenings import Made
from gpu_plugin.simulated.nvml import SimulatedNvml
from tests.fakes.nvml import raw
from tests.fakes.nvml.machines import Bench
from tests.fakes.nvml.remote import DriverProcess, driver_process

pytestmark = pytest.mark.processes

GIB = 1 << 30

#: What the library built as an old driver lacks.
NEWER = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
)


@pytest.fixture
def driver(demo: Bench, new_driver: DriverProcess) -> Nvml:
    return new_driver.open(demo.description, demo.state_path, demo.host)


def test_without_a_library_the_remedy_is_named(demo: Bench, tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    with driver_process(tmp_path) as process:
        driver = process.open(demo.description, demo.state_path, demo.host)
        assert not process.apply(raw.loaded, "pynvml")  # a simulated machine never needs it
        for _ in range(2):
            with pytest.raises(NvmlUnavailable, match="Library Not Found") as caught:
                driver.machine()
            assert "runtimeClassName nvidia" in (caught.value.remedy or "")
        assert process.apply(raw.loaded, "pynvml")
        driver.close()


def test_without_a_kernel_driver_it_waits_for_one(
    demo: Bench, new_driver: DriverProcess, tmp_path: Path
) -> None:
    driver = new_driver.open(tmp_path / "later", demo.state_path, demo.host)
    with pytest.raises(NvmlUnavailable, match="Driver Not Loaded") as caught:
        driver.machine()
    assert "modprobe nvidia" in (caught.value.remedy or "")
    demo.description.rename(tmp_path / "later")
    assert len(driver.machine().gpus) == 3
    driver.close()


@pytest.mark.parametrize("name", ["demo", "h200"])
def test_an_old_driver_does_what_it_can(
    bench_of: Callable[[str], Bench], old_driver: DriverProcess, name: str
) -> None:
    bench = bench_of(name)
    for symbol in NEWER:  # absent in the library; so told to the simulation
        bench.state.missing(symbol)
    bench.state.hold(bench.uuids[0], bench.start(5), GIB, list(ProcessKind))
    simulated = SimulatedNvml(bench.machine, bench.state_path, host=bench.host)
    driver = old_driver.open(bench.description, bench.state_path, bench.host)
    expected = simulated.machine()
    assert [gpu.memory for gpu in driver.machine().gpus] == [gpu.memory for gpu in expected.gpus]
    assert expected.gpus[0].memory.reserved == 0
    assert [gpu.numa_node for gpu in driver.machine().gpus] == [None] * len(expected.gpus)
    for uuid in bench.uuids:
        assert driver.processes(uuid) == simulated.processes(uuid)
    assert len(driver.processes(bench.uuids[0])) == 3
    with pytest.raises(NotSupported):
        driver.memory_limits(bench.uuids[0], str(bench.host.cgroup))
    driver.close()


def test_a_numa_node_comes_from_the_kernel_first(demo: Bench, driver: Nvml) -> None:
    for bus_id, node in (("0000:3b:00.0", "1\n"), ("0000:5e:00.0", "-1\n")):
        directory = demo.host.pci_devices / bus_id
        directory.mkdir(parents=True)
        (directory / "numa_node").write_text(node)
    # The third is not in the kernel's tree: NVML knows it.
    assert [gpu.numa_node for gpu in driver.machine().gpus] == [1, None, 1]
    driver.close()


def test_a_list_that_grows_is_asked_for_again(demo: Bench, driver: Nvml) -> None:
    uuid = demo.uuids[0]
    demo.state.hold(uuid, demo.start(9), GIB)
    driver.machine()
    demo.state.crowd(4)
    assert driver.processes(uuid) == (GpuProcess(9, GIB, ProcessKind.COMPUTE),)
    demo.state.crowd(1000)
    with pytest.raises(NvmlUnavailable, match="Insufficient Size"):
        driver.processes(uuid)
    demo.state.clear()
    assert driver.processes(uuid) == ()
    driver.close()


def test_event_sets_do_not_leak(demo: Bench, driver: Nvml) -> None:
    first, second = demo.uuids[:2]
    driver.machine()
    for round_ in range(80):  # the library has 64
        demo.state.lose(first)
        assert driver.wait_event(0) is None
        demo.state.recover(first)
        demo.state.reload_driver()
        assert driver.wait_event(0) is None
        demo.state.xid(second, round_)
        assert driver.wait_event(5) == XidEvent(second, round_)
    driver.close()


def test_many_threads_through_reloads_and_losses(demo: Bench, driver: Nvml, soak: bool) -> None:
    stop = threading.Event()
    counts = dict.fromkeys(("machine", "memory", "processes", "event"), 0)
    demo.state.hold(demo.uuids[0], demo.start(3), GIB)

    def ask(name: str, question: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                question()
            except (GpuIsLost, NvmlUnavailable):
                continue
            counts[name] += 1

    with ThreadPoolExecutor(4) as pool:
        running = [
            pool.submit(ask, "machine", driver.machine),
            pool.submit(ask, "memory", lambda: driver.memory(demo.uuids[3])),
            pool.submit(ask, "processes", lambda: driver.processes(demo.uuids[0])),
            pool.submit(ask, "event", lambda: driver.wait_event(0.01)),
        ]
        try:
            for _ in range(500 if soak else 20):
                demo.state.lose(demo.uuids[1])
                threading.Event().wait(0.02)
                demo.state.reload_driver()
                demo.state.recover(demo.uuids[1])
                threading.Event().wait(0.02)
        finally:
            stop.set()
        for each in running:
            each.result(timeout=30)
    assert all(counts.values()), counts
    machine = driver.machine()
    assert [gpu.index for gpu in machine.gpus] == [0, 1, 2]
    assert driver.memory(demo.uuids[0]).used == GIB
    driver.close()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["demo", "odd", "h200"])
def test_the_two_readers_of_the_state_agree(
    bench_of: Callable[[str], Bench], new_driver: DriverProcess, name: str, seed: int
) -> None:
    bench = bench_of(name)
    simulated = SimulatedNvml(bench.machine, bench.state_path, host=bench.host)
    driver = new_driver.open(bench.description, bench.state_path, bench.host)
    chosen = random.Random(f"{name}/{seed}")
    for _ in range(30):
        for _ in range(chosen.randint(1, 6)):
            _happen(bench, chosen)
        assert _slices(simulated) == _slices(driver)
        made = [each.uuid for gpu in simulated.machine().gpus for each in gpu.slices]
        for uuid in dict.fromkeys((*bench.uuids, *made)):
            for question in ("memory", "processes", "utilisation"):
                got = [_answer(nvml, question, uuid) for nvml in (simulated, driver)]
                assert got[0] == got[1], (question, uuid)
    driver.close()


def _slices(nvml: Nvml) -> list[object]:
    return [(gpu.mig_enabled, gpu.slices) for gpu in nvml.machine().gpus]


def _answer(nvml: Nvml, question: str, uuid: str) -> object:
    try:
        return getattr(nvml, question)(uuid)
    except GpuIsLost as error:
        if type(error) is GpuIsLost:
            nvml.reopen()  # only then can it come back
        return type(error)


def _happen(bench: Bench, chosen: random.Random) -> None:
    """Something, or half a line of it, or a line of a writer that we do not know."""
    state, pid = bench.state, chosen.randint(1, 9)
    uuid = chosen.choice([*bench.uuids, "GPU-never"])
    made = f"MIG-{pid}-{uuid}"  # a UUID is of one GPU for ever
    kinds = chosen.sample(list(ProcessKind), chosen.randint(1, 3))
    used = chosen.choice([None, 0, chosen.randrange(1 << 36)])
    actions: list[Callable[[], object]] = [
        lambda: state.hold(uuid, bench.start(pid), used, kinds),
        lambda: state.hold(uuid, bench.start(pid, start_ticks=chosen.randint(1, 9)), used),
        lambda: state.release(pid),
        lambda: state.release(pid, uuid),
        lambda: bench.zombify(bench.start(pid)),
        lambda: state.utilise(uuid, gpu_percent=pid, memory_percent=100 - pid),
        lambda: state.remove(uuid),
        lambda: state.restore(uuid),
        lambda: state.xid(uuid, pid),
        lambda: state.switch_mig(uuid, on=pid > 3),
        lambda: state.make(
            Made(uuid, made, pid, 0, 1 << 30, chosen.choice(["1g.5gb", "3g.20gb", "1g"]))
        ),
        lambda: state.remove(made),
        lambda: state.restore(made),
        lambda: _write(bench, f"mig {uuid}\nmake {uuid} MIG-x\ndemand {uuid} x\nhang {uuid} y\n"),
        lambda: state.reload_driver(),
        lambda: _write(bench, f"hold {uuid} {pid} - 5 psychic\nhold {uuid}\nnonsense\n\n \n"),
        lambda: _write(
            bench, f"hold {uuid} {pid} - five compute\nrelease\nlose\nslow x\nlimit a\n"
        ),
    ]
    if chosen.random() < 0.02:
        actions = [state.clear]
    chosen.choice(actions)()


def _write(bench: Bench, text: str) -> None:
    with bench.state_path.open("a") as lines:
        lines.write(text)


# --- the library itself, for whoever calls it otherwise ------------------------------------------


def test_the_library_answers_more_than_our_driver_asks(
    bench_of: Callable[[str], Bench], new_driver: DriverProcess
) -> None:
    bench = bench_of("odd")
    new_driver.apply(raw.use, bench.description, bench.state_path)
    assert new_driver.apply(raw.tour, 1, 4) == {
        "nvml": "13.615.71.05",
        "pci": ("00000000:02:00.0", "0000:02:00.0", 0, 2, 0),
        "index": (1, 4),
        "is slice": [0, 1],
        "same": [True, True, True],
        "slice": ("NVIDIA A30 MIG 1g.6gb+me", 5952),
        "events": 8,
        "hole": "NVMLError_NotFound",
        "numa of its memory": "NVMLError_NotSupported",
        "slice's minor": "NVMLError_NotSupported",
        "no index": "NVMLError_InvalidArgument",
        "no pci": "NVMLError_NotFound",
    }


def test_handles_do_not_outlive_the_driver(demo: Bench, new_driver: DriverProcess) -> None:
    new_driver.apply(raw.use, demo.description, demo.state_path)
    assert new_driver.apply(raw.stale_handle, demo.state_path) == [
        "NVMLError_Uninitialized",
        "NVMLError_Uninitialized",
        "NVMLError_InvalidArgument",
        "NVMLError_Uninitialized",
    ]
