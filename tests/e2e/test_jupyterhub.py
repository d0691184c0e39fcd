# SPDX-License-Identifier: Apache-2.0
"""A real JupyterHub with the real KubeSpawner and the configuration of the example values starts
notebooks in a cluster that is a small server.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes.hub_cluster import HubCluster
from tests.fakes.kubernetes_schemas import VERSIONS, problems
from tests.fakes.prometheus_answers import PrometheusAnswers

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv/hub/bin/python"
API_TOKEN = "a-token-of-the-tests"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Hub:
    """A hub that runs, and people who visit it."""

    def __init__(
        self, url: str, cluster: HubCluster, prometheus: PrometheusAnswers, log: Path
    ) -> None:
        self.url, self.cluster, self.prometheus, self.log = url, cluster, prometheus, log

    def visitor(self, name: str) -> requests.Session:
        """Somebody who has logged in."""
        session = requests.Session()
        session.trust_env = False
        session.get(f"{self.url}/login", timeout=30).raise_for_status()
        form = {"username": name, "password": "x", "_xsrf": session.cookies["_xsrf"]}
        answer = session.post(f"{self.url}/login", data=form, allow_redirects=False, timeout=30)
        assert answer.status_code == 302, answer.text
        return session

    def page(self, session: requests.Session) -> str:
        answer = session.get(f"{self.url}/spawn", timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.text

    def choose(self, session: requests.Session, key: str) -> requests.Response:
        """Send the form."""
        return session.post(
            f"{self.url}/spawn",
            params={"_xsrf": session.cookies["_xsrf"]},
            data={"nodeshare-instance": key},
            allow_redirects=False,
            timeout=90,
        )

    def outcome(
        self, session: requests.Session, name: str, answer: requests.Response
    ) -> requests.Response:
        """What came of a start: after a second the hub sends people to a page that waits."""
        deadline = time.monotonic() + 60
        while answer.status_code < 400 and time.monotonic() < deadline:
            time.sleep(0.1)
            answer = session.get(
                f"{self.url}/spawn-pending/{name}", allow_redirects=False, timeout=60
            )
        return answer

    def start_by_api(self, name: str, options: Any) -> requests.Response:
        return requests.post(
            f"{self.url}/api/users/{name}/server",
            headers={"Authorization": f"token {API_TOKEN}"},
            json=options,
            timeout=60,
        )


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    assert PYTHON.exists(), "make test makes it"
    directory = tmp_path_factory.mktemp("hub")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(HubCluster())
        prometheus = stack.enter_context(PrometheusAnswers())
        hub_port = free_port()
        (directory / "test.json").write_text(
            json.dumps(
                {
                    "directory": str(directory),
                    "values": str(ROOT / "deploy/jupyterhub/values.yaml"),
                    "package": str(ROOT / "deploy/jupyterhub"),
                    "hub_port": hub_port,
                    "proxy_port": free_port(),
                    "notebook_port": cluster.notebooks.port,
                    "api_token": API_TOKEN,
                    "uids": {"ada": 4711, "bob": 4712, "eve": 4713, "mallory": 4714, "lee": 4715},
                    "groups": {"gpu-users": ["ada", "kim", "lee"], "<b>others</b>": ["bob"]},
                    "changes": {
                        "availability": {
                            "prometheus": {"url": prometheus.url},
                            "timeout_s": 1,
                            "keep_s": 1,
                        }
                    },
                }
            )
        )
        environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(cluster.kubeconfig(directory / "kubeconfig")),
            "NODESHARE_TEST_HUB": str(directory / "test.json"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        log = stack.enter_context((directory / "hub.log").open("w"))
        process = subprocess.Popen(
            [PYTHON, "-m", "jupyterhub", "-f", ROOT / "tests/fakes/jupyterhub_config.py"],
            cwd=directory,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{hub_port}/hub"
            wait_for(url, process, directory / "hub.log")
            yield Hub(url, cluster, prometheus, directory / "hub.log")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{url}/health", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the hub did not start:\n{log.read_text()[-4000:]}")


def keys(page: str) -> list[str]:
    return re.findall(r'name="nodeshare-instance" value="([^"]+)"', page)


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["spec"]["containers"]
    return dict(found)


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value") for one in container(pod)["env"]}


def until_started(hub: Hub, name: str) -> dict[str, Any]:
    """The manifest that was sent for somebody whose server is up."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = requests.get(
            f"{hub.url}/api/users/{name}",
            headers={"Authorization": f"token {API_TOKEN}"},
            timeout=30,
        )
        if answer.json()["servers"].get("", {}).get("ready"):
            return hub.cluster.pod(f"jupyter-{name}")
        time.sleep(0.1)
    raise AssertionError(f"no server of {name} came up")


def test_two_people_of_different_groups_start_what_they_are_offered(hub: Hub) -> None:
    now = time.time()
    labels = {"resource": "nodeshare/gpu-memory"}
    hub.prometheus.rows = [
        (labels, now, 9),
        (labels | {"told": "at"}, now, now),
        (labels | {"told": "node", "node": "n-tight"}, now, 8),
        (labels | {"told": "node", "node": "n-wide"}, now, 9),
    ]
    ada, bob = hub.visitor("ada"), hub.visitor("bob")
    page = hub.page(ada)
    assert keys(page) == ["small", "gpu/4", "gpu/8", "gpu/16", "slice"]
    for words in ("free now on 2 nodes", "no room now, 9 GiB at most are free", "no node tells"):
        assert words in page
    assert keys(hub.page(bob)) == ["small"]

    assert hub.choose(ada, "gpu/8").status_code == 302
    assert hub.choose(bob, "small").status_code == 302
    pod = until_started(hub, "ada")
    assert [problems(pod, version) for version in VERSIONS] == [[]] * len(VERSIONS)
    resources = container(pod)["resources"]
    assert resources["limits"]["nodeshare/gpu-memory"] == "8"
    assert resources["requests"]["nodeshare/gpu-memory"] == "8"
    assert pod["metadata"]["annotations"]["nodeshare/gpu-memory-limit"] == "12GiB"
    assert pod["metadata"]["annotations"]["example.org/team"] == "hub", "the hub's own stay"
    assert pod["metadata"]["labels"]["nodeshare/instance"] == "gpu"
    preferred = pod["spec"]["affinity"]["nodeAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert [one["preference"]["matchFields"][0]["values"] for one in preferred] == [
        ["n-tight"],
        ["n-wide"],
    ]
    assert environment(pod)["OMP_NUM_THREADS"] == "4"
    assert environment(pod)["OAUTH2_TOKEN"] == "FILE:/run/tokens/eos.token"
    assert environment(pod)["LANG"] == "C.UTF-8"

    other = until_started(hub, "bob")
    assert problems(other, VERSIONS[-1]) == []
    assert set(container(other)["resources"]["limits"]) == {"cpu", "memory"}
    assert environment(other)["OMP_NUM_THREADS"] == "2"
    assert container(other)["securityContext"]["runAsUser"] == 4712
    paths = {one["name"]: one["hostPath"]["path"] for one in other["spec"]["volumes"]}
    assert paths == {
        "nodeshare-mounts": "/var/lib/nodeshare/mounts",
        "nodeshare-tokens": "/run/nodeshare/credentials/4712",
    }


def test_what_is_not_offered_cannot_be_had(hub: Hub) -> None:
    """By a form that was made by hand, or by the hub's API."""
    before = len(hub.cluster.created)
    mallory = hub.visitor("mallory")
    for forged in ("gpu/8", "slice", "gpu/1000", "../gpu", "<script>alert(1)</script>"):
        answer = hub.outcome(mallory, "mallory", hub.choose(mallory, forged))
        assert answer.status_code == 403
        assert "is not offered to you" in unescape(answer.text)
        assert "<script>alert" not in answer.text
    link = {"opt-nodeshare-instance": "gpu/8"}
    answer = mallory.get(f"{hub.url}/spawn", params=link, allow_redirects=False, timeout=30)
    assert hub.outcome(mallory, "mallory", answer).status_code == 403
    assert keys(hub.page(mallory)) == ["small"], "the form is there again"
    for options in ({"instance": "gpu/8"}, {"instance": ["small"]}, {"instance": {"name": "gpu"}}):
        answer = hub.start_by_api("mallory", options)
        assert answer.status_code == 403, answer.text
        assert "not offered to you" in answer.json()["message"]
    assert len(hub.cluster.created) == before


def test_nobody_waits_for_a_prometheus_that_is_away(hub: Hub) -> None:
    hub.prometheus.answering.clear()
    try:
        time.sleep(1.1)  # `keep_s`: what is known is that old
        page = hub.page(hub.visitor("kim"))
        assert keys(page) == ["small", "gpu/4", "gpu/8", "gpu/16", "slice"]
        assert requests.get(f"{hub.url}/health", timeout=10).status_code == 200
        hub.visitor("eve")
        hub.start_by_api("eve", {"instance": "small"}).raise_for_status()
        until_started(hub, "eve")
        told = re.compile(r"^\[W .*nodeshare.*what is free is not known", re.MULTILINE)
        deadline = time.monotonic() + 30
        while not told.search(hub.log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        hub.prometheus.answering.set()


def test_who_is_rejected_by_the_kubelet_is_told_at_once_and_why(hub: Hub) -> None:
    """The words are those of the plugin, wrapped as the kubelet wraps them."""
    hub.cluster.rejections["jupyter-lee"] = (
        "Pod was rejected: Allocate failed due to device plugin GetPreferredAllocation rpc failed "
        "with err: rpc error: code = FailedPrecondition desc = asked 16 of nodeshare/gpu-memory, "
        "largest free block 9 on GPU-1 (12 free on 2 devices, and a request may not span devices), "
        "which is unexpected"
    )
    lee = hub.visitor("lee")
    answer = hub.outcome(lee, "lee", hub.choose(lee, "gpu/16"))
    assert answer.status_code == 409, answer.text
    told = unescape(answer.text)
    assert "asked 16 of nodeshare/gpu-memory, largest free block 9" in told
    assert "Choose less, or try again later" in told
    assert "rpc error" not in told
    assert ("jhub", "jupyter-lee") not in hub.cluster.pods, "it is taken away"
    del hub.cluster.rejections["jupyter-lee"]
    assert hub.choose(lee, "gpu/4").status_code == 302
    until_started(hub, "lee")


def test_a_login_without_a_number_is_told_so(hub: Hub) -> None:
    zoe = hub.visitor("zoe")
    answer = hub.outcome(zoe, "zoe", hub.choose(zoe, "small"))
    assert answer.status_code == 403
    assert "user number" in unescape(answer.text)


SETTINGS: dict[str, Any] = {
    "instances": [
        {"name": "small", "cpu_limit": 2},
        {
            "name": "gpu",
            "groups": ["physics"],
            "gpu": {"resource": "nodeshare/gpu-memory", "chunk": "1GiB", "sizes": [1, 2]},
            "node_selector": {"gpu": "v100"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "image": "registry.example.org/jupyter/pytorch-notebook",
            "cpu_count": True,
        },
    ],
    "cpu_count": {"profile": "nodeshare/default.json", "node_label": "nodeshare/cpu-count=yes"},
    "mounts": [
        {"name": "data", "host_path": "/var/lib/nodeshare/mounts", "mount_path": "/data"},
        {
            "name": "lab",
            "host_path": "/var/lib/nodeshare/mounts/lab",
            "mount_path": "/lab",
            "groups": ["physics"],
        },
    ],
    "availability": {"nodes": True},
}
LOST = {
    "volumes": [{"name": "v", "hostPath": {"path": "/var/lib/nodeshare/mounts/eos"}}],
    "volume_mounts": [{"name": "v", "mountPath": "/eos", "readOnly": True}],
}
#: By name: what a spawner is configured with, who starts, and what with.
CASES: dict[str, dict[str, Any]] = {
    "one after the other": {
        "groups": ["physics"],
        "starts": [{"instance": "gpu/2"}, {"instance": "x"}, {"instance": "small"}, {}],
        "former": True,
        "config": {"node_selector": {"pool": "hub"}, "cpu_limit": 8.0, "image": "base"},
    },
    "volumes by key": {
        "starts": [{}],
        "config": {
            "volumes": {"home": {"name": "home", "emptyDir": {}}},
            "volume_mounts": {"home": {"name": "home", "mountPath": "/home"}},
        },
    },
    "a list of profiles": {
        "starts": [{}],
        "config": {"profile_list": [{"display_name": "Large", "kubespawner_override": {}}]},
    },
    "a function for the security context": {
        "groups": ["physics"],
        "starts": [{"instance": "gpu/1"}],
        "callable": {"container_security_context": {"runAsNonRoot": True}},
    },
    "volumes that would be lost": {"starts": [{}], "config": LOST},
    "tokens and no number": {
        "settings": SETTINGS | {"tokens": {"uid_field": "uid", "eos": "eos.token"}},
        "auth_state": {"uid": 0},
        "starts": [{}],
    },
}


@pytest.fixture(scope="module")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the real KubeSpawner made of each case; one process for all."""
    assert PYTHON.exists(), "make test makes it"
    directory = tmp_path_factory.mktemp("kubespawner")
    with HubCluster() as cluster:
        cluster.add_node(
            "n1", annotations={"nodeshare/largest-free-block": '{"nodeshare/gpu-memory":7}'}
        )
        cluster.write(
            lambda node: node.update(
                status={
                    "allocatable": {"nodeshare/gpu-memory": "62"},
                    "conditions": [{"type": "Ready", "status": "True"}],
                }
            ),
            "n1",
        )
        cluster.write(lambda node: node["metadata"].update(labels={"gpu": "v100"}), "n1")
        done = subprocess.run(
            [PYTHON, ROOT / "tests/fakes/kubespawner_cases.py"],
            input=json.dumps([{"settings": SETTINGS} | case for case in CASES.values()]),
            env={
                "KUBECONFIG": str(cluster.kubeconfig(directory / "kubeconfig")),
                "PYTHONPATH": str(ROOT / "deploy/jupyterhub"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
            timeout=100,
            check=True,
        )
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


def test_a_spawner_that_starts_again_keeps_nothing_of_before(spawned: dict[str, list[Any]]) -> None:
    gpu, refused, small, default = spawned["one after the other"]
    spec = gpu["pod"]["spec"]
    assert problems(gpu["pod"], VERSIONS[-1]) == []
    assert spec["nodeSelector"] == {"pool": "hub", "gpu": "v100", "nodeshare/cpu-count": "yes"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert container(gpu["pod"])["image"] == "registry.example.org/jupyter/pytorch-notebook"
    assert container(gpu["pod"])["securityContext"]["seccompProfile"] == {
        "type": "Localhost",
        "localhostProfile": "nodeshare/default.json",
    }
    assert environment(gpu["pod"])["FORMER"] == "1", "the hook that was there goes first"
    assert environment(gpu["pod"])["OMP_NUM_THREADS"] == "8", "of the hub's own limit"
    (hint,) = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert hint["preference"]["matchFields"][0]["values"] == ["n1"]
    assert {one["name"] for one in spec["volumes"]} == {"nodeshare-data", "nodeshare-lab"}

    assert refused["status"] == 403
    for start, again in enumerate((small, default), start=3):
        spec = again["pod"]["spec"]
        assert environment(again["pod"])["FORMER"] == str(start), "what it sets for each start"
        assert spec["nodeSelector"] == {"pool": "hub"}
        assert "tolerations" not in spec
        assert "affinity" not in spec
        assert set(container(again["pod"])["resources"]["limits"]) == {"cpu"}
        assert container(again["pod"])["image"] == "base"
        assert "seccompProfile" not in container(again["pod"])["securityContext"]
        assert [one["name"] for one in spec["volumes"]] == ["nodeshare-data", "nodeshare-lab"]
        assert environment(again["pod"])["OMP_NUM_THREADS"] == "2"


def test_volumes_by_key_stay(spawned: dict[str, list[Any]]) -> None:
    ((found),) = spawned["volumes by key"]
    assert problems(found["pod"], VERSIONS[-1]) == []
    assert {one["name"] for one in found["pod"]["spec"]["volumes"]} == {"home", "nodeshare-data"}
    mounts = {one["name"]: one for one in container(found["pod"])["volumeMounts"]}
    assert mounts["nodeshare-data"]["mountPropagation"] == "HostToContainer"


def test_what_would_be_lost_is_refused_at_the_start_of_the_hub(
    spawned: dict[str, list[Any]],
) -> None:
    ((found),) = spawned["volumes that would be lost"]
    assert "read_only name" in found["settings"]
    assert "HostToContainer" in found["settings"]


def test_a_list_of_profiles_is_refused(spawned: dict[str, list[Any]]) -> None:
    ((found),) = spawned["a list of profiles"]
    assert "Make its entries instances" in found["settings"]


def test_a_function_of_the_configuration_is_still_asked(spawned: dict[str, list[Any]]) -> None:
    ((found),) = spawned["a function for the security context"]
    context = container(found["pod"])["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"]["type"] == "Localhost"


def test_nobody_becomes_root_by_his_login(spawned: dict[str, list[Any]]) -> None:
    ((found),) = spawned["tokens and no number"]
    assert found["status"] == 403
    assert "user number" in found["message"]
