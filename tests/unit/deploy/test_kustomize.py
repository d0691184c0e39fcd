# SPDX-License-Identifier: Apache-2.0
"""What `kubectl apply -k` would send is what helm would: object by object; and Flux' example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from agents import cli
from deploy.helm import generate
from tests.fakes import kubernetes_schemas
from tests.fakes.chart import REPOSITORY, Chart, Object

pytestmark = pytest.mark.processes

_NOT_OF_HELM = ("app.kubernetes.io/managed-by", "helm.sh/chart")
#: Folder of deploy/kustomize, release, namespace, and the Kubernetes that it is for.
_FOLDERS = {
    "base": ("nodeshare", "nodeshare", "1.36"),
    "overlays/kubernetes-1.29": ("nodeshare", "nodeshare", "1.29"),
    "overlays/openshift": ("nodeshare", "nodeshare", "1.36"),
    "overlays/production": ("nodeshare", "nodeshare", "1.36"),
    "overlays/test": ("test-nodeshare", "nodeshare-test", "1.36"),
}


def test_every_folder_is_compared() -> None:
    overlays = (REPOSITORY / "deploy/kustomize/overlays").iterdir()
    assert {f"overlays/{one.name}" for one in overlays} | {"base"} == set(_FOLDERS)


@pytest.mark.parametrize("folder", _FOLDERS)
def test_kustomize_renders_what_helm_renders(chart: Chart, folder: str) -> None:
    release, namespace, version = _FOLDERS[folder]
    values = chart.deploy / "kustomize" / folder / "values.yaml"
    by_helm = chart.render(
        values if values.exists() else None,
        release=release,
        namespace=namespace,
        kubernetes=f"{version}.0",
    )
    first, second = _by_name(by_helm), _by_name(chart.kustomize(folder))
    assert first.keys() == second.keys()
    for name, one in first.items():
        assert one == second[name]


def _by_name(objects: list[Object]) -> dict[tuple[str, ...], Object]:
    """Without what only helm says of itself, and in one order where order means nothing."""
    found: dict[tuple[str, ...], Object] = {}
    for one in objects:
        if one["kind"] == "Namespace":
            continue  # helm makes it with --create-namespace
        meta = one["metadata"]
        meta["labels"] = {k: v for k, v in meta["labels"].items() if k not in _NOT_OF_HELM}
        meta.pop("annotations", None)
        if "nodeshare.yaml" in one.get("data", {}):
            one["data"] = yaml.safe_load(one["data"]["nodeshare.yaml"])
        if one["kind"] == "DaemonSet":
            one["spec"]["template"] = _ordered(one["spec"]["template"])
        found[one["kind"], str(meta.get("namespace")), meta["name"]] = one
    return found


def _ordered(template: Object) -> Object:
    """Volumes by what they are: which name one has is nobody's affair."""
    # helm's digest of the values; here they are files.
    template["metadata"]["annotations"].pop("checksum/config", None)
    spec = template["spec"]
    names = {}
    for volume in spec["volumes"]:
        name = volume.pop("name")
        names[name] = volume["name"] = json.dumps(volume, sort_keys=True)
    spec["volumes"].sort(key=lambda volume: str(volume["name"]))
    for container in spec["containers"]:
        for mount in container["volumeMounts"]:
            mount["name"] = names[mount["name"]]
        container["volumeMounts"].sort(key=lambda mount: str(mount["mountPath"]))
    return template


@pytest.mark.parametrize("folder", _FOLDERS)
def test_agents_take_the_configuration_of_kustomize(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = REPOSITORY / "deploy/kustomize" / folder / "nodeshare.yaml"
    if file.exists():
        assert cli.main(["check", str(file)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("version", kubernetes_schemas.VERSIONS)
def test_each_kubernetes_takes_what_kustomize_renders(chart: Chart, version: str) -> None:
    old = version in ("1.28", "1.29")
    for folder in ("overlays/kubernetes-1.29",) if old else ("base", "overlays/test"):
        for one in chart.kustomize(folder):
            assert not kubernetes_schemas.problems(one, version), (folder, one["metadata"]["name"])


def test_generated_files_are_up_to_date(monkeypatch: pytest.MonkeyPatch, chart: Chart) -> None:
    monkeypatch.setattr(generate, "_HELM", chart.home / "helm")
    stale = [*generate.stale(generate.wanted()), *generate.stale({**generate.kustomize()})]
    assert not stale, "run make chart"


@pytest.mark.parametrize("version", [v for v in kubernetes_schemas.VERSIONS if v >= "1.30"])
def test_each_kubernetes_takes_what_the_page_shows(version: str) -> None:
    text = (REPOSITORY / "deploy/README.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    objects = [one for block in blocks for one in yaml.safe_load_all(block)]
    assert [one["kind"] for one in objects] == [
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]
    assert not [found for one in objects for found in kubernetes_schemas.problems(one, version)]


# Flux

#: Of what Flux' own resources demand, the part that the example uses.
_FLUX: dict[str, dict[str, Any]] = {
    "GitRepository": {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "required": {"interval", "url"},
        "known": {"interval", "url", "ref", "ignore"},
    },
    "HelmRelease": {
        "apiVersion": "helm.toolkit.fluxcd.io/v2",
        "required": {"interval", "chart"},
        "known": {
            *("interval", "timeout", "chart", "values"),
            *("install", "upgrade", "driftDetection"),
        },
    },
}


def _flux() -> dict[str, Object]:
    text = (REPOSITORY / "deploy/flux/nodeshare.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_flux_example_has_the_shape_of_its_resources() -> None:
    objects = _flux()
    assert objects.keys() == {"Namespace", *_FLUX}
    for kind, rules in _FLUX.items():
        one = objects[kind]
        assert one["apiVersion"] == rules["apiVersion"]
        assert rules["required"] <= one["spec"].keys() <= rules["known"]
    source = objects["HelmRelease"]["spec"]["chart"]["spec"]["sourceRef"]
    assert source == {"kind": "GitRepository", "name": objects["GitRepository"]["metadata"]["name"]}
    assert (REPOSITORY / objects["HelmRelease"]["spec"]["chart"]["spec"]["chart"]).is_dir()


def test_flux_example_renders(chart: Chart, tmp_path: Path) -> None:
    values = _flux()["HelmRelease"]["spec"]["values"]
    schema = json.loads((chart.directory / "values.schema.json").read_text())
    assert not list(Draft7Validator(schema).iter_errors(values))
    file = tmp_path / "nodeshare.yaml"
    objects = chart.render(values)
    file.write_text(
        next(o["data"]["nodeshare.yaml"] for o in objects if "nodeshare.yaml" in o.get("data", {}))
    )
    assert cli.main(["check", str(file)]) == 0
