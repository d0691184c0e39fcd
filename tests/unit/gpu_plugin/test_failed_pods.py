# SPDX-License-Identifier: Apache-2.0
"""Failed pods: found by reason, message and request, and deleted by uid. With a real API server's
rules.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.errors import ConfigError
from gpu_plugin.agent import AGENT
from tests.fakes.api_server import ApiServer

SHARED, LARGER = "nodeshare/gpu", "nodeshare/gpu-large"
OURS = (
    "Pod was rejected: Allocate failed due to device plugin GetPreferredAllocation rpc failed with "
    f"err: rpc error: code = FailedPrecondition desc = asked 9 of {SHARED}, 3 are free, which is "
    "unexpected"
)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def words(server: ApiServer, tmp_path: Path) -> list[str]:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"node: {{name: a, api_server: {{kubeconfig: {server.kubeconfig(tmp_path / 'k')}}}}}\n"
        f"gpu_plugin: {{resources: [{{name: {SHARED}}}]}}\n"
    )
    return ["failed-pods", "--config", str(path)]


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    AGENT.commands(parser.add_subparsers(required=True))
    options = parser.parse_args(words)
    return int(options.run(options))


def add_strangers(server: ApiServer) -> None:
    """Failed pods that are not ours to touch, each for one reason."""
    ours = {"limits": {SHARED: "9"}, "message": OURS}
    server.add_pod("other-reason", "a", **ours, reason="Evicted")
    server.add_pod("other-node", "b", **ours)
    server.add_pod("runs", "a", **ours, phase="Running")
    server.add_pod(
        "other-resource", "a", limits={LARGER: "1"}, message=OURS.replace(SHARED, LARGER)
    )
    server.add_pod("asks-for-nothing", "a", message=OURS)
    server.add_pod("other-message", "a", limits={SHARED: "1"}, message="Pod was rejected: cpu")


def test_only_our_pods_are_listed_and_nothing_is_deleted(
    server: ApiServer, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    add_strangers(server)
    server.add_pod("mine", "a", limits={SHARED: "9"}, message=OURS, namespace="hub")
    unhealthy = f"cannot allocate unhealthy devices {SHARED}, which is unexpected"
    server.add_pod("mine-too", "a", limits={SHARED: "1"}, message=unhealthy)
    before = set(server.pods)
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "--delete" in shown
    assert OURS in shown
    assert run(*words, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [pod["name"] for pod in document["pods"]] == ["mine-too", "mine"]
    assert set(server.pods) == before


def test_delete_takes_away_ours_alone(
    server: ApiServer, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    add_strangers(server)
    strangers = set(server.pods)
    for number in range(3):
        server.add_pod(f"mine-{number}", "a", limits={SHARED: "9"}, message=OURS)
    assert run(*words, "--delete") == 0
    assert capsys.readouterr().out.count("deleted") == 3
    assert set(server.pods) == strangers
    assert run(*words, "--delete") == 0
    assert "no pod of node a has failed" in capsys.readouterr().out


def test_one_that_cannot_be_deleted_does_not_keep_the_others(
    server: ApiServer, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        server.add_pod(f"mine-{number}", "a", limits={SHARED: "9"}, message=OURS)
    server.faults_of["DELETE"] = [403]
    assert run(*words, "--delete") == 1
    shown = capsys.readouterr().out
    assert "grant the service account" in shown
    assert [name for _, name in server.pods] == ["mine-0"]


def test_another_node_and_another_kubeconfig(
    server: ApiServer, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_strangers(server)
    other = server.kubeconfig(tmp_path / "other")
    assert run(*words, "--node", "b", "--kubeconfig", str(other), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [pod["name"] for pod in document["pods"]] == ["other-node"]


def test_a_configuration_without_resources_can_have_no_such_pod(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("gpu_plugin:\n")
    with pytest.raises(ConfigError, match="that the agent of the node runs"):
        run("failed-pods", "--config", str(path))
