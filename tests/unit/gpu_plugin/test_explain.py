# SPDX-License-Identifier: Apache-2.0
"""What a configuration would advertise, in words; and the command that looks at a machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from agents import config
from agents.config import NodeConfig
from agents.errors import ConfigError
from gpu_plugin.agent import AGENT
from gpu_plugin.commands import look
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.explain import explain
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
    assert explain(section, found) == (
        "machine: 3 GPUs, driver 580.95.05",
        "nodeshare/gpu-memory: 63 units of 1GiB on 2 devices",
        f"  {gpu(0).uuid} (Tesla V100-PCIE-32GB): 31 units (31.74GiB usable)",
        f"  {gpu(1).uuid} (Tesla V100-PCIE-32GB): 32 units (32GiB usable)",
        "  largest pod: 63 units, may span devices",
        "  list message: 3697 of 4194304 bytes",
        "nodeshare/small: 2 units of a whole device on 2 devices",
        "  MIG-00000002-0009-0000-0000-000000000000 (1g.10gb of NVIDIA A100-SXM4-80GB): 1 units "
        "(9.5GiB usable)",
        "  MIG-00000002-0010-0000-0000-000000000000 (1g.10gb of NVIDIA A100-SXM4-80GB): 1 units "
        "(9.5GiB usable)",
        "  largest pod: 1 units, on one device",
        "  list message: 116 of 4194304 bytes",
        "nodeshare/h100: 0 units of 1GiB on 0 devices",
        "served by no rule: MIG-00000002-0002-0000-0000-000000000000 "
        "(3g.40gb of NVIDIA A100-SXM4-80GB)",
        "served by no rule: MIG-00000002-0003-0000-0000-000000000000 "
        "(2g.20gb of NVIDIA A100-SXM4-80GB)",
        "problem: nodeshare/h100 matches no device of this machine",
    )


def test_explain_marks_a_simulated_machine() -> None:
    assert explain(GpuPluginConfig(), machine(simulated=True))[0].startswith("SIMULATED machine")


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
