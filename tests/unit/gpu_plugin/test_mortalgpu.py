# SPDX-License-Identifier: Apache-2.0
"""Chart values of MortalGPU and MetaGPU become a valid configuration; no loss is silent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import config
from agents.errors import ConfigError
from gpu_plugin.agent import AGENT
from gpu_plugin.config import GpuPluginConfig, ResourceRule
from gpu_plugin.devices import Machine
from gpu_plugin.mortalgpu_yaml import convert
from gpu_plugin.resources import plan
from tests.fakes.gpus import A100_SLICES, MIB, gpu, machine, mig_gpu

V100, A100 = "Tesla V100-PCIE-32GB", "NVIDIA A100-SXM4-80GB"
NODE = machine(gpu(0, reserved=269 * MIB), mig_gpu(1, A100_SLICES))

#: As MortalGPU documents its production.
DOCUMENTED = f"""
image: {{tag: 1.2.0}}
config:
  memoryEnforcer: true
  grpcSecurity: {{deviceToken: secret-1, containerToken: secret-2, jwtSecret: secret-3}}
  allocator: {{plugin: collocate, noSplit: true}}
  deviceSharing:
    - {{resourceName: mortalgpu/a100-shared, metagpusPerGpu: 400, migid: [2], modelName: [{A100}]}}
    - {{resourceName: mortalgpu/a100-shared, metagpusPerGpu: 400, modelName: [{V100}]}}
    - {{resourceName: mortalgpu/a100-20g, metagpusPerGpu: 200, migid: [3]}}
    - {{resourceName: mortalgpu/a100-10g, metagpusPerGpu: 100, migid: [9, 10]}}
"""


def converted(
    text: str, on: Machine | None = None
) -> tuple[dict[str, ResourceRule], GpuPluginConfig, tuple[str, ...]]:
    written, notes = convert(text, "values.yaml", on)
    parsed = config.parse(written, {"gpu_plugin": GpuPluginConfig}).sections["gpu_plugin"]
    assert isinstance(parsed, GpuPluginConfig)
    assert all(note in written for note in notes), "what is said is in the file as well"
    return {rule.name: rule for rule in parsed.resources}, parsed, notes


def entry(**fields: Any) -> str:
    whole = {"resourceName": "a/b", **fields}
    return yaml.safe_dump({"config": {"deviceSharing": [whole]}})


def test_the_documented_example_on_its_machine() -> None:
    rules, _, notes = converted(DOCUMENTED, NODE)
    decided = plan(list(rules.values()), NODE)
    assert decided.problems == ()
    units = {
        resource.name: [served.units for served in resource.devices]
        for resource in decided.resources
    }
    assert units == {
        "mortalgpu/a100-shared": [401, 496],
        "mortalgpu/a100-20g": [201],
        "mortalgpu/a100-10g": [100, 100],
    }
    assert not any("deviceSharing" in note for note in notes), "everything was carried over"


@pytest.mark.parametrize(("said", "mode"), [("true", "enforce"), ("false", "observe")])
def test_enforcement_is_as_it_was(said: str, mode: str) -> None:
    text = DOCUMENTED.replace("memoryEnforcer: true", f"memoryEnforcer: {said}")
    _, parsed, notes = converted(text, NODE)
    assert parsed.enforcement.mode.value == mode
    assert not any("memoryEnforcer" in note for note in notes)


def test_secrets_are_not_repeated() -> None:
    written, notes = convert(DOCUMENTED, "values.yaml", None)
    assert "secret-" not in written
    assert "secret-" not in "".join(notes)
    assert any(note.startswith("config.grpcSecurity: ") for note in notes)
    with pytest.raises(ConfigError, match="line 2") as caught:
        convert("a: 1\njwtSecret: secret-9: [\n", "values.yaml", None)
    assert "secret-9" not in str(caught.value)


def test_without_the_machine_what_one_selector_cannot_say_is_named() -> None:
    rules, _, notes = converted(DOCUMENTED)
    assert rules["mortalgpu/a100-shared"].select.mig_ids == (2,)
    assert any("config.deviceSharing[1]" in note and "--machine" in note for note in notes)


def test_entries_of_one_name_are_merged_where_one_selector_can_say_it() -> None:
    text = """
    config:
      deviceSharing:
        - {resourceName: a/b, metagpusPerGpuMemoryChunkMB: 100, migid: [9]}
        - {resourceName: a/b, metagpusPerGpuMemoryChunkMB: 100, migid: [10, 9]}
        - {resourceName: a/c, uuid: [GPU-1]}
        - {resourceName: a/c, uuid: []}
    """
    rules, _, notes = converted(text)
    assert rules["a/b"].select.mig_ids == (9, 10)
    assert rules["a/c"].select.uuids is None, "an empty list does not filter"
    assert [note for note in notes if "deviceSharing" in note] == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metagpusPerGpu": 320, "modelName": [V100]}, 100 * MIB),  # from the name of the model
        ({"metagpusPerGpuMemoryChunkMB": 512}, 512 * MIB),
        (
            {"metagpusPerGpu": 80, "metagpusPerGpuMemoryChunkMB": 512, "modelName": [A100]},
            1003 * MIB,
        ),
        ({"modelName": [V100]}, 100 * MIB),  # 320 is the default
        ({"metagpusPerGpu": 10}, 100 * MIB),  # nothing is known
        ({"metagpusPerGpu": 10_000_000, "modelName": [V100]}, MIB),
    ],
)
def test_shares_become_a_chunk(fields: dict[str, Any], expected: int) -> None:
    rules, _, _ = converted(entry(**fields))
    assert rules["a/b"].chunk == expected


def test_the_chunk_is_exact_on_a_machine_and_never_gives_fewer_units() -> None:
    rules, _, _ = converted(entry(metagpusPerGpu=320, modelName=[V100]), NODE)
    (resource,) = plan(list(rules.values()), NODE).resources
    assert rules["a/b"].chunk == 101 * MIB
    assert [served.units for served in resource.devices] == [321]


def test_reserved_chunks_and_whole_devices() -> None:
    rules, _, _ = converted(entry(metagpusPerGpuMemoryChunkMB=100, reservedChunks=7))
    assert rules["a/b"].reserved == 700 * MIB
    rules, _, _ = converted(entry(metagpusPerGpu=1))
    assert rules["a/b"].exclusive


def test_a_model_with_the_signs_of_a_glob_matches_itself_alone() -> None:
    rules, _, _ = converted(entry(modelName=["A*[1]?"]))
    assert rules["a/b"].select.models == ("A[*][[]1][?]",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("allocator: {plugin: spread}", {"placement": "spread"}),
        ("allocator: {noSplit: false}", {"split": True}),
        ("allocator: {plugin: external, externalConfig: {path: /x}}", {"placement": "pack"}),
    ],
)
def test_the_allocator(text: str, expected: dict[str, Any]) -> None:
    rules, _, notes = converted(f"config: {{deviceSharing: [{{resourceName: a/b}}], {text}}}")
    dumped = rules["a/b"].model_dump(mode="json")
    assert {key: dumped[key] for key in expected} == expected
    assert any("allocator.plugin" in note for note in notes) == ("external" in text)
    assert any("allocator.externalConfig" in note for note in notes) == ("external" in text)


def test_metagpu_has_its_keys_at_the_root_and_may_split() -> None:
    text = f"""
    accelerator: nvidia
    jwtSecret: secret
    deviceSharing:
      - {{resourceName: cnvrg.io/metagpu, metaGpus: 64, uuid: ["*"]}}
      - {{resourceName: cnvrg.io/auto, autoReshare: true, metaGpus: 7, uuid: [{gpu(0).uuid}]}}
    """
    rules, _, notes = converted(text, machine(gpu(0)))
    assert rules["cnvrg.io/metagpu"].chunk == 512 * MIB
    assert rules["cnvrg.io/metagpu"].split
    assert rules["cnvrg.io/metagpu"].select.uuids is None
    assert any(note.startswith("jwtSecret: ") for note in notes)
    assert any(note.startswith("accelerator: ") for note in notes)
    assert any("cnvrg.io/metagpu and" in note for note in notes), "they overlap on this machine"


def test_mounts_log_and_aliases() -> None:
    text = """
    mortalgpu:
      config:
        log: {verbose: true, json: false}
        pluginMounts:
          - {hostPath: /opt/tool, containerPath: /usr/local/tool}
          - {hostPath: relative, containerPath: /x}
          - 7
        deviceSharing: [{resourceName: a/b}]
    """
    _, section, notes = converted(text)
    assert [str(mount.host_path) for mount in section.container.mounts] == ["/opt/tool"]
    assert [alias.value for alias in section.container.aliases] == ["metagpu"]
    written, _ = convert(text, "values.yaml", None)
    assert config.parse(written, {"gpu_plugin": GpuPluginConfig}).node.log.level.value == "debug"
    assert any("pluginMounts[1].host_path: 'relative'" in note for note in notes)
    assert any("pluginMounts[2]" in note for note in notes)


def test_unknown_keys_are_named_wherever_they_are() -> None:
    text = yaml.safe_dump(
        {
            "config": {"new": 1, "deviceSharing": [{"resourceName": "a/b", "weight": 3}]},
            "two\nlines": 1,
        }
    )
    _, _, notes = converted(text)
    for path in ("config.deviceSharing[0].weight: ", "config.new: ", "two lines: "):
        assert any(note.startswith(path) for note in notes), path


def test_a_name_that_the_api_server_would_refuse_is_left_out() -> None:
    rules, _, notes = converted(entry(resourceName="bad_name"))
    assert rules == {}
    assert any("deviceSharing[0].resourceName" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no keys in it"),
        ("[1]", "no keys in it"),
        ("gpu_plugin: {}", "no list config.deviceSharing"),
        ("config: 3", "config: 3 is not a section"),
        ("config: {deviceSharing: {}}", "no list config.deviceSharing"),
        ("config: {deviceSharing: [1]}", r"deviceSharing\[0\]: an entry needs a resourceName"),
        ("config: {deviceSharing: [{resourceName: 3}]}", "needs a resourceName"),
        ("config: {log: 1, deviceSharing: [{resourceName: a/b}]}", "config.log: 1 is not"),
    ],
)
def test_values_of_another_kind_are_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        convert(text, "values.yaml", None)


@pytest.mark.parametrize(
    "fields",
    [
        {"metagpusPerGpu": "many"},
        {"metagpusPerGpu": -1},
        {"metagpusPerGpu": True},
        {"reservedChunks": 1.5},
        {"uuid": "GPU-1"},
        {"migid": ["2"]},
        {"modelName": [1]},
    ],
)
def test_a_wrong_entry_is_named(fields: dict[str, Any]) -> None:
    key = next(iter(fields))
    with pytest.raises(ConfigError, match=rf"config\.deviceSharing\[0\]\.{key}"):
        convert(entry(**fields), "values.yaml", None)


small = st.integers(0, 500)
entries = st.fixed_dictionaries(
    {"resourceName": st.sampled_from(["a/b", "a/c", "no", "x.y/z"])},
    optional={
        "metagpusPerGpu": small,
        "metagpusPerGpuMemoryChunkMB": small,
        "reservedChunks": small,
        "uuid": st.lists(st.sampled_from(["*", gpu(0).uuid, "GPU-x"])),
        "modelName": st.lists(st.sampled_from([V100, A100, "[*"])),
        "migid": st.lists(st.sampled_from([2, 3, 99])),
        "autoReshare": st.booleans(),
        "somethingElse": st.text(max_size=3),
    },
)


@settings(deadline=None)
@given(st.lists(entries, min_size=1, max_size=4), st.sampled_from([None, NODE]))
def test_any_values_make_a_valid_configuration(
    sharing: list[dict[str, Any]], on: Machine | None
) -> None:
    converted(yaml.safe_dump({"config": {"deviceSharing": sharing}}), on)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(DOCUMENTED)
    parser = argparse.ArgumentParser()
    AGENT.verbs(parser.add_subparsers(required=True))
    options = parser.parse_args(["import", "mortalgpu", str(path), "--machine", "demo"])
    assert options.run(options) == 0
    shown = capsys.readouterr()
    config.parse(shown.out, {"gpu_plugin": GpuPluginConfig})
    assert "nodeshare: not carried over: image" in shown.err
