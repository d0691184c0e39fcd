# SPDX-License-Identifier: Apache-2.0
"""What the chart renders, for many values and each Kubernetes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import cli
from agents.containers import Pod
from lxcfs_helper.config import InjectConfig
from lxcfs_helper.selection import Exclusion, exclusion
from tests.fakes import kubernetes_schemas
from tests.fakes.chart import REPOSITORY, Chart, Object, config_of, container, daemonsets, pod
from tests.fakes.chart_values import EVERYTHING, MATRIX

pytestmark = pytest.mark.processes


@pytest.fixture(params=sorted(MATRIX))
def rendered(chart: Chart, request: pytest.FixtureRequest) -> list[Object]:
    return chart.render(MATRIX[request.param])


def _known(objects: list[Object]) -> Iterator[Object]:
    extensions = ("monitoring.coreos.com", "security.openshift.io")
    yield from (one for one in objects if not one["apiVersion"].startswith(extensions))


@pytest.mark.parametrize("version", kubernetes_schemas.VERSIONS)
def test_each_kubernetes_takes_every_object(chart: Chart, version: str) -> None:
    for values in ({}, EVERYTHING, {**EVERYTHING, "cleanup": {"enabled": True}}):
        for one in _known(chart.render(values, kubernetes=version)):
            assert not kubernetes_schemas.problems(one, version), one["metadata"]["name"]


def test_kubernetes_takes_what_other_values_render(rendered: list[Object]) -> None:
    for one in _known(rendered):
        assert not kubernetes_schemas.problems(one, "1.32"), one["metadata"]["name"]


def test_agents_take_the_configuration(
    rendered: list[Object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nodeshare.yaml"
    file.write_text(config_of(rendered))
    assert cli.main(["check", str(file)]) == 0, capsys.readouterr().err


def test_what_is_named_is_there(rendered: list[Object]) -> None:
    """Volumes of mounts, accounts of pods, the configuration; names of objects differ."""
    there = {(one["kind"], one["metadata"]["name"]) for one in rendered}
    assert len(there) == len(rendered)
    accounts = {name for kind, name in there if kind == "ServiceAccount"}
    for component, one in daemonsets(rendered).items():
        spec = pod(one)
        volumes = [volume["name"] for volume in spec["volumes"]]
        assert len(set(volumes)) == len(volumes)
        mounts = container(one)["volumeMounts"]
        assert {mount["name"] for mount in mounts} == set(volumes)
        places = [mount["mountPath"] for mount in mounts]
        assert len(set(places)) == len(places)
        assert not accounts or spec["serviceAccountName"] in accounts
        config = next(volume for volume in spec["volumes"] if volume["name"] == "config")
        sources = config["projected"]["sources"] if "projected" in config else [config]
        assert ("ConfigMap", sources[0]["configMap"]["name"]) in there, component


def test_host_paths_lie_where_they_lie_on_the_node(rendered: list[Object]) -> None:
    """Else what one process tells another (a path to bind, a socket) would be somewhere else."""
    others = {"/dev": "/host/dev"}
    for one in daemonsets(rendered).values():
        paths = {v["name"]: v["hostPath"]["path"] for v in pod(one)["volumes"] if "hostPath" in v}
        for mount in container(one)["volumeMounts"]:
            path = paths.get(mount["name"], mount["mountPath"])
            if path.startswith(("/var/cache/", "/var/log/", "/var/lib/cvmfs", "/etc/eos")):
                continue  # only the pods of one release look there
            assert mount["mountPath"] == others.get(path, path)


def test_nothing_is_mounted_in_what_is_shared_with_the_node(rendered: list[Object]) -> None:
    """A mount inside a Bidirectional one would appear on the node, once more with each pod."""
    for component, one in daemonsets(rendered).items():
        mounts = container(one)["volumeMounts"]
        shared = [m["mountPath"] for m in mounts if m.get("mountPropagation") == "Bidirectional"]
        inside = [m["mountPath"] for m in mounts for s in shared if _below(m["mountPath"], s)]
        assert not inside, component
        assert bool(shared) is (component != "gpu")


def _below(path: str, directory: str) -> bool:
    return Path(path) != Path(directory) and Path(path).is_relative_to(directory)


def test_which_agents_run(chart: Chart) -> None:
    def running(values: Mapping[str, Any]) -> set[str]:
        return set(daemonsets(chart.render(values)))

    assert running({}) == {"gpu", "mounts", "view", "holder"}
    assert running(MATRIX["without gpu"]) == {"mounts", "view", "holder"}
    assert running(MATRIX["without mounts"]) == {"gpu", "view", "holder"}
    assert running(MATRIX["without view"]) == {"gpu", "mounts", "holder"}
    assert running(MATRIX["gpu alone"]) == {"gpu"}
    assert running(MATRIX["holder as a service of the nodes"]) == {"gpu", "mounts", "view"}
    assert running({"cleanup": {"enabled": True}}) == {"cleanup"}


def test_the_cleanup_comes_to_the_nodes_of_each_agent_and_to_no_other(chart: Chart) -> None:
    """On others there may be another release, with the same directories."""
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    key = {"key": "gpu", "operator": "Exists"}
    values: dict[str, Any] = {
        "cleanup": {"enabled": True},
        "tolerations": [],
        "gpu": {"nodeSelector": {"gpu": "yes"}, "tolerations": [key]},
        "mounts": {"nodeSelector": {"data": "yes"}, "affinity": {"nodeAffinity": required}},
        "view": {"enabled": False},
    }
    found = pod(daemonsets(chart.render(values))["cleanup"])
    gpu = {"key": "gpu", "operator": "In", "values": ["yes"]}
    data = {"key": "data", "operator": "In", "values": ["yes"]}
    wanted = [{"matchExpressions": [gpu]}, {**terms[0], "matchExpressions": [data]}]
    assert found["affinity"] == {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": wanted}
        }
    }
    assert key in found["tolerations"]
    assert found["nodeSelector"] == {"kubernetes.io/os": "linux"}
    values["view"] = {"enabled": True}  # on every node
    assert "affinity" not in pod(daemonsets(chart.render(values))["cleanup"])


def test_the_holder_goes_where_somebody_needs_it(chart: Chart) -> None:
    for on, off in (("mounts", "view"), ("view", "mounts")):
        values = {on: {"nodeSelector": {"a": on}}, off: {"enabled": False}}
        holder = pod(daemonsets(chart.render(values))["holder"])
        assert holder["nodeSelector"] == {"kubernetes.io/os": "linux", "a": on}


def test_no_view_is_put_into_our_own_pods(chart: Chart) -> None:
    """They have limits, and read the node's files in their own /proc."""
    own = {"config": {"lxcfs_helper": {"inject": {"annotation": "example.org/view"}}}}
    for values, key in (({}, "nodeshare/view"), (own, "example.org/view")):
        for one in daemonsets(chart.render(values)).values():
            meta = one["spec"]["template"]["metadata"]
            said = Pod("any", "any", "uid", annotations=meta["annotations"])
            inject = InjectConfig(annotation=key)
            assert exclusion(inject, said) is Exclusion.POD


def test_the_holder_outlives_every_update(chart: Chart) -> None:
    holder = daemonsets(chart.render())["holder"]
    assert holder["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert pod(holder)["terminationGracePeriodSeconds"] > 150  # node.holder.end_limit
    assert not [key for key in container(holder) if key.endswith("Probe")]


def test_two_plugins_overlap_with_a_run_directory_each(chart: Chart) -> None:
    """And one that is alone has the node's, where the other agents have theirs."""
    for name in ("defaults", "gpu without surge", "gpu by hand"):
        gpu = daemonsets(chart.render(MATRIX[name]))["gpu"]
        run = next(volume for volume in pod(gpu)["volumes"] if volume["name"] == "run")
        surge = gpu["spec"]["updateStrategy"].get("rollingUpdate", {}).get("maxSurge")
        assert ("emptyDir" in run) is bool(surge) is (name == "defaults")
        shared = next(volume for volume in pod(gpu)["volumes"] if volume["name"] == "state")
        assert shared["hostPath"]["path"] == "/var/lib/nodeshare"


def test_probes_and_monitors_know_the_ports(chart: Chart) -> None:
    objects = chart.render(MATRIX["side by side"])
    config = yaml.safe_load(config_of(objects))
    sections = {"gpu": "gpu_plugin", "mounts": "fuse_mounter", "view": "lxcfs_helper"}
    for component, section in sections.items():
        one = container(daemonsets(objects)[component])
        port = config["node"]["metrics"]["ports"][section]
        assert port > 9500
        assert [p["containerPort"] for p in one["ports"]] == [port]
        probes = ("startupProbe", "livenessProbe", "readinessProbe")
        assert [one[probe]["httpGet"]["port"] for probe in probes] == [port] * 3


def test_the_status_page_is_on_loopback_unless_there_is_a_token(chart: Chart) -> None:
    status = yaml.safe_load(config_of(chart.render()))["node"]["status"]
    assert status.keys() == {"ports"}  # the address is the default
    objects = chart.render(MATRIX["status page"])
    status = yaml.safe_load(config_of(objects))["node"]["status"]
    assert (status["address"], status["token_file"]) == ("0.0.0.0", "/etc/nodeshare/status-token")
    for component, one in daemonsets(objects).items():
        config = next(volume for volume in pod(one)["volumes"] if volume["name"] == "config")
        sources = config.get("projected", {}).get("sources", [{}])
        secret = {"name": "page", "items": [{"key": "token", "path": "status-token"}]}
        assert (sources[-1].get("secret") == secret) is (component != "holder")


def test_images(chart: Chart) -> None:
    def images(values: Mapping[str, Any]) -> dict[str, str]:
        return {c: container(one)["image"] for c, one in daemonsets(chart.render(values)).items()}

    common = images({"image": {"repository": "r.example.org/x/nodeshare", "tag": "v2"}})
    assert common["gpu"] == common["view"] == "r.example.org/x/nodeshare:v2"
    assert common["mounts"] == common["holder"] == "r.example.org/x/nodeshare:v2-mounts"
    digests = images(MATRIX["digests"])
    assert digests["view"] == "nodeshare@sha256:" + "0" * 64
    assert digests["mounts"] == digests["holder"] == "nodeshare@sha256:" + "1" * 64
    pinned = {"image": {"digest": "sha256:" + "0" * 64}, "gpu": {"image": {"tag": "v1"}}}
    assert images(pinned)["gpu"] == "nodeshare:v1"
    own = images({"holder": {"image": {"tag": "old"}}, "mounts": {"image": {"tag": "new"}}})
    assert own["holder"] == "nodeshare:old"
    assert own["mounts"] == "nodeshare:new"


def test_the_version_is_that_of_the_package() -> None:
    chart = yaml.safe_load((REPOSITORY / "deploy/helm/nodeshare/Chart.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == chart["version"] == project["version"]


def test_lint(chart: Chart) -> None:
    assert "0 chart(s) failed" in chart.helm("lint", "--strict", str(chart.directory))
