# SPDX-License-Identifier: Apache-2.0
"""What becomes of pods on an empty node; the running agent does the same (end to end)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from agents.errors import AgentError, ConfigError
from gpu_plugin import rejection
from gpu_plugin.agent import AGENT
from gpu_plugin.config import GpuPluginConfig
from gpu_plugin.placement import Refused
from gpu_plugin.plan_report import report
from gpu_plugin.pod_request import parse
from gpu_plugin.rehearsal import Node, Outcome, Verdict
from gpu_plugin.resources import plan
from tests.fakes.gpus import A100_SLICES, GIB, gpu, machine, mig_gpu, rule

SHARED, SLICE = "nodeshare/gpu-memory", "nodeshare/slice"
TWO = machine(gpu(0, total=20 * GIB), gpu(1, total=20 * GIB), mig_gpu(2, A100_SLICES))
RULES = (
    rule(SHARED, select={"mig": "none"}),
    rule(SLICE, select={"mig": ["1g.10gb"]}, exclusive=True),
)


def verdicts(*words: str) -> list[Verdict]:
    decided = plan(RULES, TWO)
    node = Node(decided.resources)
    return [node.admit(pod) for pod in parse(words, [each.name for each in decided.resources])]


def test_pods_land_as_the_placement_wants() -> None:
    first, second, third = verdicts("gpu-memory=12", "gpu-memory=15", "gpu-memory=5,slice=1")
    assert [share.devices[0].uuid for share in first.shares] == [gpu(0).uuid]
    assert [share.devices[0].uuid for share in second.shares] == [gpu(1).uuid]
    assert [(share.resource, share.units) for share in third.shares] == [(SHARED, 5), (SLICE, 1)]


def test_a_pod_that_fits_no_single_device_is_rejected_with_the_very_words() -> None:
    *_, last = verdicts("gpu-memory=12", "gpu-memory=12", "gpu-memory=9")
    assert last.outcome is Outcome.REJECTED
    assert last.message == (
        "Pod was rejected: Allocate failed due to device plugin GetPreferredAllocation rpc failed "
        "with err: rpc error: code = FailedPrecondition desc = asked 9 of nodeshare/gpu-memory, "
        f"largest free block 8 on {gpu(0).uuid} (16 free on 2 devices, and a request may not span "
        "devices), which is unexpected"
    )


def test_a_pod_that_the_scheduler_would_not_bind_waits_and_takes_nothing() -> None:
    one, two, three = verdicts("gpu-memory=20*1", "gpu-memory=21,slice=9", "gpu-memory=20")
    assert two.outcome is Outcome.WAITS
    assert two.message == (
        f"0/1 nodes are available: 1 Insufficient {SHARED}, 1 Insufficient {SLICE}."
    )
    assert (one.outcome, three.outcome) == (Outcome.LANDS, Outcome.LANDS)


def test_a_rejected_pod_keeps_what_it_had_got() -> None:
    words = ("gpu-memory=12", "gpu-memory=12", "slice=1,gpu-memory=9", "slice=2", "slice=1")
    *_, rejected, short, last = verdicts(*words)
    assert [(share.resource, share.units) for share in rejected.shares] == [(SLICE, 1)]
    assert short.outcome is Outcome.REJECTED, "the scheduler does not know"
    assert f"devices unavailable for {SLICE}. Requested: 2, Available: 1" in str(short.message)
    assert last.outcome is Outcome.LANDS


def test_a_message_is_found_by_the_whole_name_of_its_resource() -> None:
    names = [SHARED, SLICE]
    for text in (
        f"asked 9 of {SLICE}, 3 are free",
        f"devices unavailable for {SLICE}. Requested: 2",
        f"cannot allocate unhealthy devices {SLICE}, which is unexpected",
        f"unregistered device {SLICE}",
    ):
        assert rejection.named_resource(text, names) == SLICE
    for text in (f"{SLICE}-4g", f"x{SLICE}", f"a/{SLICE}", f"{SLICE}.x", f"{SLICE}/y", "", "slice"):
        assert rejection.named_resource(text, names) is None


def test_every_refusal_names_the_resource() -> None:
    assert rejection.description(SLICE, Refused("x", f"no {SLICE}")) == f"no {SLICE}"
    assert rejection.description(SLICE, AgentError("a full disk")) == f"{SLICE}: a full disk"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    AGENT.verbs(parser.add_subparsers(required=True))
    options = parser.parse_args(words)
    return int(options.run(options))


def test_the_command_says_it_in_tables_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "gpu_plugin: {resources: [{name: nodeshare/gpu-memory, select: {mig: none}},"
        ' {name: nodeshare/slice, select: {mig: ["1g.10gb"]}, exclusive: true},'
        " {name: nodeshare/none, select: {models: [T4]}}]}"
    )
    words = ["plan", str(path), "--machine", "demo"]
    words += ["--pod", "gpu-memory=20*2", "--pod", "gpu-memory=12", "--pod", "slice=3"]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "SIMULATED" in shown
    assert "GPU 1: 20" in shown
    assert "pod-3: rejected: Pod was rejected" in shown
    assert "pod-4: waits: 0/1 nodes" in shown
    assert "problem: nodeshare/none matches no device" in shown
    assert run(*words, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    outcomes = [pod["outcome"] for pod in document["pods"]]
    assert outcomes == ["lands", "lands", "rejected", "waits"]
    shared = document["resources"][0]
    assert shared["largest_free_block"] == 11
    assert [device["held"] for device in shared["devices"]] == [20, 20]


def test_without_rules_there_is_nothing_to_plan() -> None:
    with pytest.raises(ConfigError, match=r"no gpu_plugin\.resources"):
        report(GpuPluginConfig(), TWO, ["1"])
