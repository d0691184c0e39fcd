# SPDX-License-Identifier: Apache-2.0
"""What a configuration would advertise, in words; and the command that looks at a machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from agents import cli, config, overview
from agents.config import NodeConfig
from agents.errors import ConfigError
from agents.overview import Seen
from gpu_plugin.agent import AGENT
from gpu_plugin.commands import look
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.devices import LostGpu
from gpu_plugin.explain import explain
from gpu_plugin.resources import plan
from tests.fakes.gpus import A100_SLICES, MIB, gpu, machine, mig_gpu, rule


def test_explain_says_units_messages_largest_pods_and_what_nobody_serves() -> None:
    section = GpuPluginConfig(
        resources=(
            rule("nodeshare/gpu-memory", select={"mig": "none"}, split=True),
            rule("nodeshare/small", select={"mig": ["1g.10gb"]}, exclusive=True),
            rule("nodeshare/h100", select={"models": ["*H100*"]}),
        )
    )
    found = machine(gpu(0, reserved=269 * MIB), gpu(1), mig_gpu(2, A100_SLICES))
    report = explain(section, found)
    text = "\n".join(report.lines)
    assert report.lines[0] == "machine: 3 GPUs, driver 580.95.05"
    assert f"31.74GiB  31     1GiB        {gpu(0).uuid}" in text
    assert f"32GiB     32     1GiB        {gpu(1).uuid}" in text
    assert "1g.10gb gi9" in text
    assert "63 over devices" in text
    assert "served by no rule: MIG-00000002-0002-0000-0000-000000000000 (3g.40gb of" in text
    assert report.lines[-1] == "problem: nodeshare/h100 matches no device of this machine"
    shared, small, h100 = report.document["resources"]
    assert (shared["units"], shared["largest_pod_units"]) == (63, 63)
    assert [device["units"] for device in small["devices"]] == [1, 1]
    assert (small["chunk_bytes"], small["largest_pod_units"]) == (None, 1)
    assert (h100["units"], h100["largest_pod_units"], h100["devices"]) == (0, 0, [])
    unserved = [f"MIG-00000002-000{number}-0000-0000-000000000000" for number in (2, 3)]
    assert report.document["unserved"] == unserved


def test_explain_says_what_the_plan_of_the_agent_costs() -> None:
    section = GpuPluginConfig(resources=(rule("nodeshare/gpu-memory"),))
    found = machine(gpu(0))
    (resource,) = plan(section.resources, found).resources
    report = explain(section, found)
    (entry,) = report.document["resources"]
    assert entry["bytes"] == asdict(resource.sizes)
    for size in (resource.sizes.message, resource.sizes.checkpoint, resource.sizes.pod_status):
        assert f" {size} " in "\n".join(report.lines)


def test_explain_names_an_overlap_and_a_lost_gpu() -> None:
    section = GpuPluginConfig(resources=(rule("a/b"), rule("a/c")))
    lost = LostGpu(1, None, "fallen off the bus")
    report = explain(section, machine(gpu(0), lost=(lost,)))
    assert "lost: GPU 1 (unknown UUID): fallen off the bus" in report.lines
    (problem,) = (one for one in report.document["problems"] if one["devices"])
    assert problem["devices"] == [gpu(0).uuid]
    assert "served by neither" in problem["text"]
    assert report.document["unserved"] == [], "a problem names it already"
    assert report.document["lost"][0]["reason"] == "fallen off the bus"


def test_explain_marks_a_simulated_machine() -> None:
    report = explain(GpuPluginConfig(), machine(simulated=True))
    assert report.lines[0].startswith("SIMULATED machine")
    assert report.document["simulated"] is True


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    AGENT.commands(parser.add_subparsers(required=True))
    options = parser.parse_args(words)
    return int(options.run(options))


def test_gpu_ls_of_a_described_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", "--machine", "demo") == 0
    shown = capsys.readouterr().out
    assert "SIMULATED" in shown
    assert shown.count("1g.10gb") == 2
    assert run("ls", "--machine", "v100x2", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [device["model"] for device in document["devices"]] == ["Tesla V100-PCIE-32GB"] * 2
    assert document["simulated"] is True


def test_look_shows_the_units_of_a_configuration(tmp_path: Path) -> None:
    node = config.NodeConfig(state_dir=tmp_path)
    found = look(GpuPluginConfig(resources=(rule(),), simulate="v100x2"), node)
    assert [(device.units, device.units_allocated) for device in found.devices] == [(31, None)] * 2
    assert found.resources[0].registered is False


def test_an_unknown_machine_is_an_error_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="demo"):
        look(GpuPluginConfig(simulate="pdp11"), NodeConfig(state_dir=tmp_path))


def test_a_changed_section_takes_a_restart() -> None:
    before, after = GpuPluginConfig(), GpuPluginConfig(simulate="demo")
    assert AGENT.refuse_change(before, before) is None
    assert "restart the agent" in str(AGENT.refuse_change(before, after))


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("pdp11", "no machine is called 'pdp11'; use a100-mig-maxiv, demo"),
        ("/nonexistent.yaml", "cannot read '/nonexistent.yaml'"),
        ("{}/bad.yaml", "bad.yaml: machine.gpus: missing"),
        ("{}/broken.yaml", "broken.yaml: not valid YAML"),
        ("{}/config.yaml", "config.yaml: gpu_plugin: unknown key"),
    ],
)
@pytest.mark.parametrize("words", [["plan", "--pod", "1"], ["explain"]])
def test_a_bad_machine_is_one_line_with_the_remedy(
    tmp_path: Path,
    words: list[str],
    machine: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config_file = tmp_path / "config.yaml"
    config_file.write_text("gpu_plugin: {resources: [{name: nodeshare/gpu-memory}]}\n")
    (tmp_path / "bad.yaml").write_text("machine: {name: a, driver_version: '1.2'}\n")
    (tmp_path / "broken.yaml").write_text("machine: [\n")
    assert cli.main([*words, str(config_file), "--machine", machine.format(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_explain_of_a_whole_file_is_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("gpu_plugin: {resources: [{name: nodeshare/gpu-memory}]}\nlxcfs_helper:\n")
    assert cli.main(["explain", str(path), "--machine", "v100x2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gpu_plugin"]["resources"][0]["units"] == 62
    assert cli.main(["explain", str(path), "--machine", "v100x2"]) == 0
    assert "lxcfs_helper" not in capsys.readouterr().out, "it has nothing to explain"


def test_gpu_ls_says_who_holds_what_as_the_running_agent_tells_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"node: {{name: a, state_dir: {tmp_path}, run_dir: {tmp_path}}}\n"
        "gpu_plugin: {simulate: v100x2, resources: [{name: nodeshare/gpu-memory}]}\n"
    )
    node = config.NodeConfig(state_dir=tmp_path)
    rules = GpuPluginConfig(resources=(rule(),), simulate="v100x2")
    first, second = look(rules, node).document()["devices"]
    holders = [{"namespace": "hub", "pod": "ada", "resource": "nodeshare/gpu-memory", "units": 8}]
    told = {
        "devices": [
            {**first, "units_allocated": 8, "offers": (), "holders": holders},
            {**second, "units_allocated": 5, "offers": (), "resource": "nodeshare/another-rule"},
        ],
        "acts": [],
    }
    monkeypatch.setattr(overview, "look", lambda *_: (Seen(AGENT, told),))
    assert run("ls", "--config", str(file), "--json") == 0
    mine, other = json.loads(capsys.readouterr().out)["devices"]
    assert (mine["units_allocated"], mine["holders"]) == (8, holders)
    assert other["units_allocated"] is None
    assert run("ls", "--config", str(file)) == 0
    assert "hub/ada 8" in capsys.readouterr().out
