# SPDX-License-Identifier: Apache-2.0
"""Machine descriptions: the shipped ones, and what is wrong with a user's."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from agents.errors import ConfigError
from gpu_plugin.simulated.description import MigMode, known_machines, load_machine

MINIMAL = """
machine:
  name: small
  driver_version: "580.95"
  gpus:
    - {model: Some GPU, memory: 8GiB}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "machine.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_the_shipped_machines() -> None:
    assert known_machines() == ("a100-mig-maxiv", "demo", "h100x8", "h200", "v100x2")
    for name in known_machines():
        machine = load_machine(name)
        assert machine.name == name
        assert machine == load_machine(name)
        uuids = [gpu.uuid for gpu in machine.gpus]
        uuids += [each.uuid for gpu in machine.gpus for each in gpu.slices]
        assert len(set(uuids)) == len(uuids)


def test_uuids_are_the_same_in_every_run_and_differ_between_machines() -> None:
    assert load_machine("h200").gpus[0].uuid == "GPU-914f58a5-06fb-5a5d-8b46-7a176b6dd860"
    first = {gpu.uuid for gpu in load_machine("demo").gpus}
    assert first.isdisjoint(gpu.uuid for gpu in load_machine("v100x2").gpus)


def test_numa_nodes_are_spread_evenly() -> None:
    assert [gpu.numa_node for gpu in load_machine("h100x8").gpus] == [0] * 4 + [1] * 4


def test_a_slice_has_less_memory_than_its_name_says() -> None:
    for each in load_machine("a100-mig-maxiv").gpus[0].slices:
        gigabytes = int(each.profile.partition(".")[2].removesuffix("gb"))
        assert each.memory < gigabytes << 30


def test_a_users_file(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    for given in (path, str(path)):
        (gpu,) = load_machine(given).gpus
        assert (gpu.index, gpu.minor, gpu.memory, gpu.mig) == (0, 0, 8 << 30, MigMode.UNSUPPORTED)


def test_an_unknown_name_is_told_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'v100x3'.*a100-mig-maxiv, demo, .*\.yaml"):
        load_machine("v100x3")


@pytest.mark.parametrize("name", ["missing.yaml", "directory.yaml", "binary.yaml"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=f"cannot read .*{name}"):
        load_machine(tmp_path / name)


def gpu(text: str) -> str:
    return MINIMAL.replace("model: Some GPU, memory: 8GiB", text)


SLICED = "model: A, memory: 40GiB, mig: enabled, slices: "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "no section `machine`", id="empty"),
        pytest.param("node: {}", "no section `machine`", id="another section"),
        pytest.param("- a", "not sections with keys", id="a list"),
        pytest.param("machine: {", "not valid YAML", id="not YAML"),
        pytest.param("gpus: []", "gpus: unknown key; known are machine", id="no top"),
        pytest.param(MINIMAL + "  size: 3\n", "machine.size: unknown key", id="unknown key"),
        pytest.param(MINIMAL.replace("small", "''"), "machine.name", id="no name"),
        pytest.param(MINIMAL.replace("small", '"a\\nb"'), "machine.name", id="two lines"),
        pytest.param(MINIMAL.replace('"580.95"', "newest"), "driver_version", id="version"),
        pytest.param(MINIMAL.split("  gpus")[0], "machine.gpus: missing", id="no gpus"),
        pytest.param(gpu("memory: 8GiB"), "gpus.0.model: missing", id="no model"),
        pytest.param(gpu("model: A, memory: 8"), "gpus.0.memory: 8 is not a size", id="unit"),
        pytest.param(gpu("model: A, memory: 1GiB, count: 0"), "gpus.0.count", id="none"),
        pytest.param(gpu("model: A, memory: 0"), "reserved must be less", id="no memory"),
        pytest.param(
            gpu("model: A, memory: 1GiB, reserved: 2GiB"), "reserved must be less", id="reserved"
        ),
        pytest.param(
            gpu('model: A, memory: 1GiB, count: 2, pci: ["0000:01:00.0"]'),
            "pci names 1 devices, but count is 2",
            id="pci count",
        ),
        pytest.param(gpu('model: A, memory: 1GiB, pci: ["1:0"]'), "gpus.0.pci.0", id="pci form"),
        pytest.param(
            gpu("model: A, memory: 1GiB, count: 2, minors: [4, 4]"),
            "two GPUs have the minor 4",
            id="minors",
        ),
        pytest.param(
            gpu('model: A, memory: 1GiB, count: 2, pci: ["0000:01:00.0", "0000:01:00.0"]'),
            "two GPUs have the pci_bus_id '0000:01:00.0'",
            id="pci twice",
        ),
        pytest.param(gpu("model: A, memory: 1GiB, mig: on"), "gpus.0.mig", id="YAML's boolean"),
        pytest.param(
            gpu(
                "model: A, memory: 9GiB, slices: [{profile: 1g.5gb, gpu_instance: 1, memory: 1GiB}]"
            ),
            "slices need `mig: enabled`",
            id="slices without MIG",
        ),
        pytest.param(
            gpu(SLICED + "[{profile: small, gpu_instance: 1, memory: 1GiB}]"),
            "slices.0.profile",
            id="profile",
        ),
        pytest.param(
            gpu(
                SLICED + "[{profile: 4g.20gb, gpu_instance: 1, memory: 30GiB},"
                "{profile: 3g.20gb, gpu_instance: 2, memory: 20GiB}]"
            ),
            "more memory than the GPU",
            id="too much memory",
        ),
        pytest.param(
            gpu(
                SLICED + "[{profile: 4g.20gb, gpu_instance: 1, memory: 9GiB},"
                "{profile: 4g.20gb, gpu_instance: 2, memory: 9GiB}]"
            ),
            "more than the 7 compute slices",
            id="too many slices",
        ),
        pytest.param(
            gpu(
                SLICED + "[{profile: 1c.2g.10gb, gpu_instance: 1, memory: 9GiB},"
                "{profile: 1c.2g.10gb, gpu_instance: 1, memory: 9GiB}]"
            ),
            "same gpu_instance and compute_instance",
            id="the same slice",
        ),
        pytest.param(
            gpu(
                SLICED + "[{profile: 1g.5gb, gpu_instance: 1, memory: 4GiB, index: 3},"
                "{profile: 1g.5gb, gpu_instance: 2, memory: 4GiB, index: 3}]"
            ),
            "each index once",
            id="the same index",
        ),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_machine(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
