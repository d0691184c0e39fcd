# SPDX-License-Identifier: Apache-2.0
"""The API server's answers through the official client, over HTTPS on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import kube
from agents.errors import ConfigError, Unavailable
from agents.kube import Conflict, FailedPod, KubeCluster
from tests.fakes.api_server import CERTIFICATE, TOKEN, ApiServer


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Iterator[KubeCluster]:
    cluster = kube.connect(server.kubeconfig(tmp_path / "config"))
    yield cluster
    cluster.close()


def test_a_node_is_read_whole(server: ApiServer, cluster: KubeCluster) -> None:
    server.add_node("a", "x/y", annotations={"k": "v"})
    server.add_node("b")
    node = cluster.node("a")
    assert node.taints == ({"key": "x/y", "effect": "NoSchedule"},)
    assert node.annotations == {"k": "v"}
    assert node.resource_version == server.nodes["a"]["metadata"]["resourceVersion"]
    assert (cluster.node("b").taints, cluster.node("b").annotations) == ((), None)


def test_a_patch_is_applied_whole_or_not_at_all(server: ApiServer, cluster: KubeCluster) -> None:
    server.add_node("a", "x/y", annotations={})
    wrong = {"op": "test", "path": "/spec/taints/0/key", "value": "other"}
    add = {"op": "add", "path": "/metadata/annotations/n~1a", "value": "1"}
    with pytest.raises(Conflict):
        cluster.patch_node("a", [add, wrong])
    assert server.annotations("a") == {}
    cluster.patch_node("a", [add])
    assert server.annotations("a") == {"n/a": "1"}


def test_failed_pods_come_page_by_page_and_of_one_node(
    server: ApiServer, cluster: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "_PAGE", 2)
    for number in range(5):
        server.add_pod(f"p{number}", "a", limits={"nodeshare/gpu": "1"}, message="no room")
    server.add_pod("elsewhere", "b")
    server.add_pod("running", "a", phase="Running")
    found = list(cluster.failed_pods("a"))
    assert [pod.name for pod in found] == ["p0", "p1", "p2", "p3", "p4"]
    assert found[0] == FailedPod(
        "default",
        "p0",
        "uid-of-p0",
        "UnexpectedAdmissionError",
        "no room",
        "2026-01-02T03:04:05Z",
        frozenset({"nodeshare/gpu"}),
    )
    assert len([line for line in server.requests if "/pods" in line]) == 3


def test_only_the_very_pod_is_deleted(server: ApiServer, cluster: KubeCluster) -> None:
    server.add_pod("p", "a", uid="old")
    (old,) = cluster.failed_pods("a")
    server.add_pod("p", "a", uid="new")  # the name was taken again
    assert cluster.delete_pod(old) is False
    assert ("default", "p") in server.pods
    (new,) = cluster.failed_pods("a")
    assert cluster.delete_pod(new) is True
    assert cluster.delete_pod(new) is False, "gone already"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (401, "expired"),
        (403, "grant the service account get and patch of nodes"),
        (404, "set node.name"),
        (429, "429: as the test wanted"),
        (500, "500: as the test wanted"),
        (503, "503: as the test wanted"),
        ("<html>", "did not answer JSON"),
        ("[1]", "did not answer an object"),
    ],
)
def test_every_error_says_what_was_tried_and_what_to_do(
    server: ApiServer, cluster: KubeCluster, fault: int | str, expected: str
) -> None:
    server.add_node("a")
    server.faults.append(fault)
    with pytest.raises(Unavailable, match=expected) as caught:
        cluster.node("a")
    assert "cannot get node 'a'" in str(caught.value)
    assert len(server.requests) == 1, "nothing is tried twice here"
    assert cluster.node("a").name == "a", "the next call is not harmed"


def test_a_wrong_token_is_said(server: ApiServer, tmp_path: Path) -> None:
    cluster = kube.connect(server.kubeconfig(tmp_path / "config", token="secret-of-somebody"))
    with pytest.raises(Unavailable, match="401") as caught:
        cluster.node("a")
    assert "secret" not in str(caught.value)
    cluster.close()


def test_nobody_listens(tmp_path: Path) -> None:
    with ApiServer() as server:
        path = server.kubeconfig(tmp_path / "config")
    cluster = kube.connect(path)
    with pytest.raises(Unavailable, match="can be reached from this node"):
        cluster.node("a")
    cluster.close()


def test_a_server_that_hangs_costs_seconds(
    server: ApiServer, cluster: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "_TIMEOUT_S", (1.0, 0.1))
    server.hang.clear()
    with pytest.raises(Unavailable, match="no answer from"):
        cluster.node("a")


def test_an_unknown_certificate_is_refused(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = server.kubeconfig(tmp_path / "config")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "certificate-authority" not in line))
    cluster = kube.connect(path)
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        cluster.node("a")
    cluster.close()


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "clusters: 3\n", "current-context: x\n"])
def test_a_bad_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match="kubeconfig"):
        kube.connect(path)
    with pytest.raises(ConfigError, match="nonexistent"):
        kube.connect(tmp_path / "nonexistent")


def test_outside_a_cluster_there_is_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Unavailable, match="run in a pod with a service account"):
        kube.connect(None)


def test_the_service_account_of_the_pod(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    place = "kubernetes.config.incluster_config.SERVICE"
    monkeypatch.setattr(f"{place}_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(f"{place}_CERT_FILENAME", str(CERTIFICATE))
    server.add_node("a")
    cluster = kube.connect(None)
    assert cluster.node("a").name == "a"
    cluster.close()
