# SPDX-License-Identifier: Apache-2.0
"""What a change of values changes: which pods are replaced, what stays for ever, names, places, and
what a second release has of its own.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from agents.agent import installed
from agents.cli import parser
from agents.config import parse
from tests.fakes.chart import Chart, Object, config_of, daemonsets, pod
from tests.fakes.chart_values import EVERYTHING, MATRIX

pytestmark = pytest.mark.processes

_MODELS = {agent.section: agent.model for agent in installed()}


def _templates(objects: list[Object]) -> dict[str, Object]:
    return {name: one["spec"]["template"] for name, one in daemonsets(objects).items()}


_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("node", {"log": {"level": "debug"}}),
    ("node", {"kubelet_dir": "/srv/kubelet"}),
    ("gpu_plugin", {"enforcement": {"mode": "observe"}}),
    ("fuse_mounter", {"health": {"hang_after": "20s"}}),
    ("fuse_mounter", {"mounts": [{"name": "h", "driver": "nfs", "path": "h", "source": "n:/h"}]}),
    ("fuse_mounter", {"root": "/var/lib/elsewhere"}),
    ("lxcfs_helper", {"heartbeat": "2s"}),
    ("lxcfs_helper", {"files": ["meminfo"]}),
]


@pytest.mark.parametrize(("section", "change"), _CHANGES)
def test_pods_are_replaced_exactly_where_an_agent_would_refuse_the_change(
    chart: Chart, section: str, change: dict[str, Any]
) -> None:
    before, after = chart.render(), chart.render({"config": {section: change}})
    old, new = (parse(config_of(one), _MODELS) for one in (before, after))
    without_log = {"log": old.node.log}
    for agent in installed():
        node_changed = new.node.model_copy(update=without_log) != old.node
        own = (old.sections[agent.section], new.sections[agent.section])
        needed = node_changed or (own[0] != own[1] and agent.refuse_change(*own) is not None)
        first, second = (_templates(one)[agent.noun] for one in (before, after))
        assert (first != second) is needed, agent.noun


def test_when_pods_are_replaced_can_be_chosen(chart: Chart) -> None:
    change = {"lxcfs_helper": {"heartbeat": "2s"}}
    root = {"fuse_mounter": {"health": {"hang_after": "20s"}}}

    def moved(how: str, config: dict[str, Any]) -> set[str]:
        before = _templates(chart.render({"restartOnChange": how}))
        after = _templates(chart.render({"restartOnChange": how, "config": config}))
        return {name for name, one in before.items() if one != after[name]}

    assert moved("needed", change) == moved("never", root) == set()
    assert moved("always", change) == {"gpu", "mounts", "view"}


def test_another_version_of_the_chart_alone_replaces_no_pod(chart: Chart) -> None:
    """And what is immutable in a DaemonSet stays: upgrade and rollback are always possible."""
    text = (chart.directory / "Chart.yaml").read_text()
    newer = chart.altered("newer", {"Chart.yaml": text.replace("\nversion: 0", "\nversion: 9")})
    next_one = chart.altered("next", {"Chart.yaml": text.replace('"0.1.0"', '"9.9.9"')})
    before, after = (daemonsets(one.render()) for one in (chart, newer))
    upgraded = daemonsets(next_one.render(EVERYTHING))
    assert before.keys() == after.keys() == upgraded.keys()
    for name, one in before.items():
        assert one["spec"]["template"] == after[name]["spec"]["template"]
        selector = one["spec"]["selector"]
        assert selector == upgraded[name]["spec"]["selector"]
        assert selector["matchLabels"] == {
            "app.kubernetes.io/name": "nodeshare",
            "app.kubernetes.io/instance": "nodeshare",
            "app.kubernetes.io/component": name,
        }
        assert upgraded[name]["metadata"]["labels"]["app.kubernetes.io/version"] == "9.9.9"


@pytest.mark.parametrize("release", ["x", "a" * 53, f"{'production-' * 4}site-nine"])
def test_names_are_short_enough(chart: Chart, release: str) -> None:
    for one in chart.render(EVERYTHING, release=release):
        meta = one["metadata"]
        # A pod's name, and so its host name, is that of its DaemonSet and six characters more.
        longest = 57 if one["kind"] in ("DaemonSet", "Service") else 253
        assert len(meta["name"]) <= longest, meta["name"]
        assert all(len(value) <= 63 for value in meta["labels"].values())


def test_long_names_stay_apart(chart: Chart) -> None:
    first, second = (
        {one["metadata"]["name"] for one in chart.render(release="r" * 50 + end)}
        for end in ("-a", "-b")
    )
    assert not first & second


def _claims(objects: list[Object]) -> dict[str, set[Any]]:
    """What exists once on a node, or in a cluster."""
    config = yaml.safe_load(config_of(objects))
    node = config["node"]
    found: dict[str, set[Any]] = {"paths": set(), "ports": set()}
    for one in daemonsets(objects).values():
        for volume in pod(one)["volumes"]:
            path = volume.get("hostPath", {}).get("path", "")
            if path.startswith(("/run/nodeshare", "/var/lib/nodeshare", "/var/cache")):
                found["paths"].add(path)
    found["paths"] |= {config["fuse_mounter"]["root"], node["state_dir"], node["run_dir"]}
    for kind in ("metrics", "status"):
        found["ports"] |= set(node[kind]["ports"].values())
    found["taints"] = set(node["api_server"]["startup_taints"].values())
    found["resources"] = {rule["name"] for rule in config["gpu_plugin"]["resources"]}
    found["objects"] = {(one["kind"], one["metadata"]["name"]) for one in objects}
    return found


def test_two_releases_side_by_side_share_nothing(chart: Chart) -> None:
    values = {**MATRIX["side by side"], "apiServer": {"enabled": True}}
    first = _claims(chart.render({"apiServer": {"enabled": True}}))
    second = _claims(chart.render(values, release="test"))
    assert all(first.values())
    assert not {what: both for what in first if (both := first[what] & second[what])}


def test_tolerations_let_agents_take_their_taints_away(chart: Chart) -> None:
    """Whatever list somebody writes: an agent that does not tolerate its own taint never comes."""
    values = {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]}
    for one in daemonsets(chart.render(values)).values():
        keys = {toleration.get("key") for toleration in pod(one)["tolerations"]}
        assert keys >= {"gpu", "nodeshare/gpu-not-ready", "nodeshare/view-not-ready"}
    for one in daemonsets(chart.render()).values():
        assert pod(one)["tolerations"] == [{"operator": "Exists"}]


def test_placement(chart: Chart) -> None:
    values = {
        "nodeSelector": {"a": "b"},
        "gpu": {"nodeSelector": {"c": "d"}},
        "mounts": {"nodeSelector": {"m": "n"}},
    }
    linux = {"kubernetes.io/os": "linux"}
    found = {
        name: pod(one)["nodeSelector"] for name, one in daemonsets(chart.render(values)).items()
    }
    assert found == {
        "gpu": {"c": "d", **linux},
        "view": {"a": "b", **linux},
        "mounts": {"m": "n", **linux},
        "holder": {"m": "n", **linux},  # clients run where mounts are looked after
    }


@pytest.mark.parametrize(
    ("socket", "path", "kind"),
    [
        ("/run/k3s/containerd/containerd.sock", "/run/k3s/containerd", "Directory"),
        ("/run/cri-dockerd.sock", "/run/cri-dockerd.sock", "Socket"),
        ("/var/run/crio.sock", "/var/run/crio.sock", "Socket"),
    ],
)
def test_where_the_runtime_is_asked(chart: Chart, socket: str, path: str, kind: str) -> None:
    """A socket right in /run must not bring all of that along."""
    for name, one in daemonsets(chart.render({"config": {"node": {"cri_socket": socket}}})).items():
        volumes = {v["name"]: v["hostPath"] for v in pod(one)["volumes"] if "hostPath" in v}
        runtime = volumes.get("runtime")
        assert runtime == (None if name == "holder" else {"path": path, "type": kind})


def test_secrets_become_files_beside_the_configuration(chart: Chart) -> None:
    found = daemonsets(chart.render(EVERYTHING))
    for component in ("mounts", "holder"):
        config = next(v for v in pod(found[component])["volumes"] if v["name"] == "config")
        assert config["projected"]["defaultMode"] == 0o400
        assert config["projected"]["sources"] == [
            {"configMap": {"name": "nodeshare-config"}},
            {"secret": {"name": "keys", "items": [{"key": "eos", "path": "eos.keytab"}]}},
        ]
    of_view = next(v for v in pod(found["view"])["volumes"] if v["name"] == "config")
    assert [*of_view["projected"]["sources"][1]] == ["configMap"]  # no secret
    of_gpu = next(v for v in pod(found["gpu"])["volumes"] if v["name"] == "config")
    assert of_gpu["configMap"] == {"name": "nodeshare-config"}


@pytest.fixture(scope="module")
def with_notes(chart: Chart) -> Chart:
    """helm template prints no notes: here they are rendered as if they were an object."""
    text = (chart.directory / "templates/NOTES.txt").read_text()
    shown = 'notes: {{ tpl (.Files.Get "notes") . | toJson }}'
    return chart.altered("noted", {"notes": text, "templates/shown.yaml": shown})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("defaults", ["nodeshare mounts ls", "nodeshare/gpu-memory", "cleanup.enabled=true"]),
        ("side by side", ["--run-dir /run/nodeshare-test", "nodeshare-test/gpu-memory"]),
        ("api server", ["--register-with-taints=nodeshare/gpu-not-ready=:NoSchedule,"]),
        ("gpu alone", ["nodeshare status"]),
        (
            "everything, cleaning up",
            ["rollout status daemonset/nodeshare-cleanup", "helm uninstall"],
        ),
    ],
)
def test_notes_tell_the_next_step(with_notes: Chart, name: str, words: list[str]) -> None:
    notes = str(with_notes.render(MATRIX[name], show="templates/shown.yaml")[0]["notes"])
    assert not [word for word in words if word not in notes], notes
    assert "<no value>" not in notes
    assert "%!" not in notes
    for command in re.findall(r"-- nodeshare (.*)", notes):
        parser(installed()).parse_args(command.split())


def test_a_source_that_is_missing_costs_its_mount_alone(chart: Chart) -> None:
    """A volume that is not there keeps the whole pod from starting."""
    sources = {"a": "/srv/one", "b": "/srv/two", "c": "/data", "d": "/var/lib/lab"}
    mounts = [
        {"name": name, "driver": "passthrough", "path": name, "source": source}
        for name, source in sources.items()
    ]
    objects = daemonsets(chart.render({"config": {"fuse_mounter": {"mounts": mounts}}}))
    for component in ("mounts", "holder"):
        found = {
            volume["hostPath"]["path"]: volume["hostPath"]["type"]
            for volume in pod(objects[component])["volumes"]
            if volume["name"].startswith("host-")
        }
        usual = "DirectoryOrCreate"
        assert found == {"/srv": usual, "/data": "Directory", "/var/lib": usual}
