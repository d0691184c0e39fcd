# SPDX-License-Identifier: Apache-2.0
"""A machine that is written down and read again is the same machine."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.errors import ConfigError
from gpu_plugin.agent import AGENT
from gpu_plugin.devices import Gpu, LostGpu, Machine, Memory, MigSlice
from gpu_plugin.inventory import devices_of
from gpu_plugin.simulated.description import known_machines, load_machine, parse
from gpu_plugin.simulated.nvml import SimulatedNvml
from gpu_plugin.simulated.record import describe
from tests.fakes.gpus import GIB, gpu, machine

digits = st.integers(0, 2**48 - 1).map("{:012x}".format)
sizes = st.integers(1 << 30, 1 << 40) | st.integers(1, 200).map(lambda count: count * GIB)


def uuid(prefix: str, tail: str) -> str:
    return f"{prefix}-00000000-0000-0000-0000-{tail}"


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    gpus: list[Gpu] = []
    tails = draw(st.lists(digits, min_size=1, max_size=3, unique=True))
    for index, tail in enumerate(tails):
        total = draw(sizes)
        reserved = draw(st.integers(0, total - 1))
        mig = draw(st.sampled_from([None, False, True]))
        count = draw(st.integers(0, 3)) if mig else 0
        slices = tuple(
            MigSlice(
                uuid("MIG", f"{index}{number}{tail[2:]}"),
                uuid("GPU", tail),
                draw(st.sampled_from(["1g.10gb", "2g.20gb", "1g.10gb+me"])),
                number + 3,
                draw(st.integers(0, 2)),
                memory(max(total // 4, 1)),
            )
            for number in range(count)
        )
        gpus.append(
            Gpu(
                uuid=uuid("GPU", tail),
                index=index,
                minor=draw(st.just(index) | st.just(index + 100)),
                model=draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)),
                pci_bus_id=f"0000:{index:02x}:00.0",
                numa_node=draw(st.none() | st.integers(0, 7)),
                memory=memory(total, reserved),
                mig_enabled=mig,
                slices=slices,
            )
        )
    return machine(*gpus)


def memory(total: int, reserved: int = 0) -> Memory:
    return Memory(total, reserved, reserved, total - reserved)


def read(text: str, directory: Path) -> Machine:
    return SimulatedNvml(parse(text, "text"), directory / "nothing").machine()


@settings(deadline=None)
@given(machines())
def test_nothing_is_lost_on_the_way(found: Machine) -> None:
    text = describe(found, "a")
    again = read(text, Path("/nonexistent"))
    assert devices_of(again) == devices_of(found)
    assert [gpu.mig_enabled for gpu in again.gpus] == [gpu.mig_enabled for gpu in found.gpus]
    assert again.driver_version == found.driver_version
    assert again.simulated, "and it says that it is none"
    assert describe(again, "a").partition("\n")[2] == text.partition("\n")[2]


@pytest.mark.parametrize("name", known_machines())
def test_every_shipped_machine_can_be_written_down(name: str, tmp_path: Path) -> None:
    found = SimulatedNvml(load_machine(name), tmp_path / "nothing").machine()
    assert read(describe(found, "b"), tmp_path) == found


def test_a_lost_gpu_is_named_and_left_out() -> None:
    lost = LostGpu(1, None, "fallen off the bus")
    text = describe(machine(gpu(0), lost=(lost,)), "a")
    assert "# Not described: GPU 1 (unknown UUID) is lost: fallen off the bus" in text
    assert len(parse(text, "text").gpus) == 1


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("[{model: a, memory: 1GiB, uuids: [GPU-1]}]", "uuids"),
        (f"[{{model: a, memory: 1GiB, count: 2, uuids: [{gpu(0).uuid}]}}]", "names 1 devices"),
        (
            f"[{{model: a, memory: 1GiB, count: 2, uuids: [{gpu(0).uuid}, {gpu(0).uuid}]}}]",
            "two GPUs have the uuid",
        ),
        (
            "[{model: a, memory: 9GiB, count: 2, mig: enabled, slices: [{profile: 1g.5gb, "
            "gpu_instance: 1, memory: 1GiB, uuid: MIG-00000000-0000-0000-0000-000000000000}]}]",
            "count makes several",
        ),
    ],
)
def test_wrong_uuids_are_refused(gpus: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse(f"machine: {{name: a, driver_version: '1.2', gpus: {gpus}}}", "text")


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    AGENT.commands(parser.add_subparsers(required=True))
    options = parser.parse_args(words)
    return int(options.run(options))


def test_the_command_writes_what_machine_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("describe", "--machine", "demo", "--name", "mine") == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert run("ls", "--machine", str(path), "--json") == 0
    described = capsys.readouterr().out
    assert run("ls", "--machine", "demo", "--json") == 0
    assert described == capsys.readouterr().out


def test_a_name_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"machine\.name"):
        run("describe", "--machine", "demo", "--name", "two\nlines")
