# SPDX-License-Identifier: Apache-2.0
"""Values: what may be written, what is refused with which words, and what it changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from agents.agent import installed
from agents.config import parse
from agents.errors import ConfigError
from tests.fakes.chart import REPOSITORY, Chart, Refused, config_of

pytestmark = pytest.mark.processes

_CHART = REPOSITORY / "deploy/helm/nodeshare"
_MODELS = {agent.section: agent.model for agent in installed()}


def _schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_CHART / "values.schema.json").read_text())
    return found


def test_schema_and_values_have_the_same_keys() -> None:
    """Nothing can be written that is not documented, and nothing that is documented is refused."""
    schema = _schema()
    Draft7Validator.check_schema(schema)
    values = yaml.safe_load((_CHART / "values.yaml").read_text())
    assert not list(Draft7Validator(schema).iter_errors(values))
    assert not list(_differences(values, schema, schema))


#: Maps of which each key may be left out.
_SPARSE = re.compile(r"config\..*|.*\.(image|resources|updateStrategy.*)")


def _differences(
    values: Mapping[str, Any], part: dict[str, Any], schema: dict[str, Any], path: str = ""
) -> Iterator[str]:
    while "$ref" in part:
        group, name = part["$ref"].removeprefix("#/").split("/")
        part = schema[group][name]
    if part.get("additionalProperties") is not False or _SPARSE.fullmatch(path):
        return
    for key in values.keys() ^ part["properties"].keys() - {"global"}:
        yield f"{path}.{key}"
    for key, value in values.items():
        if isinstance(value, dict):
            below = f"{path}.{key}".removeprefix(".")
            yield from _differences(value, part["properties"][key], schema, below)


def test_each_key_is_explained() -> None:
    """By a comment on its line, or by one above it, or above what it lies in."""
    said_at = dict.fromkeys(range(0, 12, 2), False)
    above = False
    for number, line in enumerate((_CHART / "values.yaml").read_text().splitlines(), 1):
        depth = len(line) - len(line.lstrip())
        if not line.strip() or line.lstrip().startswith("#"):
            above = bool(line.strip())
            continue
        said_at[depth] = above or "#" in line or (depth > 0 and said_at[depth - 2])
        assert said_at[depth], f"line {number} of values.yaml is not explained: {line}"
        above = False


def _examples() -> Iterator[Any]:
    """Every configuration that our pages show."""
    folders = ("deploy", *_MODELS)
    pages = [one for folder in folders for one in sorted((REPOSITORY / folder).rglob("*.md"))]
    for page in [*REPOSITORY.glob("*.md"), *pages]:
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)):
            try:
                document = yaml.safe_load(block)
                config = parse(block, _MODELS)
            except (yaml.YAMLError, ConfigError):
                continue  # a part of one, or something else
            if config.sections or "node" in document:
                yield pytest.param(document, id=f"{page.relative_to(REPOSITORY)}-{number}")


@pytest.mark.parametrize("document", list(_examples()))
def test_the_schema_takes_what_agents_take(document: Any) -> None:
    found = Draft7Validator(_schema()).iter_errors({"config": document})
    assert not [f"{list(one.absolute_path)}: {one.message}" for one in found]


def _shown_values() -> Iterator[Any]:
    """Every set of values that our pages show."""
    for page in sorted((REPOSITORY / "deploy").rglob("*.md")):
        blocks = re.findall(
            r"```yaml\n# values of the chart nodeshare\n(.*?)```", page.read_text(), re.S
        )
        for number, block in enumerate(blocks):
            yield pytest.param(yaml.safe_load(block), id=f"{page.name}-{number}")


@pytest.mark.parametrize("values", list(_shown_values()))
def test_the_chart_takes_the_values_that_pages_show(chart: Chart, values: Any) -> None:
    parse(config_of(chart.render(values)), _MODELS)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gpu": {"enabld": True}}, "gpu: Additional property enabld is not allowed"),
        ({"config": {"node": {"log": {"level": "loud"}}}}, "config.node.log.level must be one of"),
        ({"config": {"gpu": {}}}, "config: Additional property gpu is not allowed"),
        (
            {"config": {"fuse_mounter": {"mounts": [{"name": "a", "driver": "nfs", "path": "a"}]}}},
            "config.fuse_mounter.mounts.0: source is required",
        ),
        (
            {"config": {"fuse_mounter": {"mounts": [{"driver": "smb"}]}}},
            "config.fuse_mounter.mounts.0.driver must be one of the following",
        ),
        (
            {"config": {"fuse_mounter": {"health": {"hang_after": "soon"}}}},
            "config.fuse_mounter.health.hang_after: Does not match pattern",
        ),
        ({"image": {"repository": ""}}, "image.repository: String length"),
        (
            {"podLabels": {"app.kubernetes.io/name": "x"}},
            'Property name of "app.kubernetes.io/name"',
        ),
        ({"gpu": {"extraEnv": [{"name": "NODE_NAME"}]}}, "gpu.extraEnv.0.name"),
        ({"sideBySide": {"suffix": "Test_"}}, "sideBySide.suffix: Does not match pattern"),
    ],
)
def test_the_schema_names_what_is_wrong(
    chart: Chart, values: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=re.escape(words)):
        chart.render(values)


def test_an_empty_key_is_as_good_as_an_empty_map(chart: Chart) -> None:
    """`config:` with nothing but comments below is null for YAML, and takes the default away."""
    maps = ("nodeSelector", "tolerations", "podLabels", "podAnnotations", "commonLabels")
    empty: dict[str, Any] = {"config": {}, "tolerations": []}
    nothing = dict.fromkeys(("config", *maps))
    assert chart.render(nothing) == chart.render(empty)
    affine = {"node": None, "lxcfs_helper": {"affinity": {"enabled": True}}}
    assert chart.render({"config": affine})
    assert chart.render({"config": {"lxcfs_helper": None}})


_SHARED = {"nodes": "shared", "suffix": "test", "portOffset": 100}
_BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"sideBySide": {"nodes": "shared"}}, ['suffix is ""', "portOffset is 0", "set both"]),
    ({"sideBySide": {"suffix": "x"}}, ['nodes is "none"', "or leave both out"]),
    ({"sideBySide": {"nodes": "own"}}, ["view has no nodeSelector", "label the nodes"]),
    (
        {
            "sideBySide": _SHARED,
            "config": {
                "gpu_plugin": {"resources": [{"name": "nodeshare/a"}]},
                "lxcfs_helper": {"compat_root": "/var/lib/lxcfs"},
            },
        },
        [
            'config.gpu_plugin.resources[0].name is "nodeshare/a"',
            "write nodeshare-test/",
            "config.lxcfs_helper.inject.namespaces is left out",
            'config.lxcfs_helper.compat_root is "/var/lib/lxcfs"',
        ],
    ),
    (
        {"config": {"node": {"metrics": {"ports": {"gpu_plugin": 9402}}}}},
        ["config.node.metrics.ports.fuse_mounter and", "are both 9402", "give each its own"],
    ),
    (
        {"config": {"node": {"metrics": {"ports": {"gpu_plugin": 0}}}}},
        ["config.node.metrics.ports.gpu_plugin is 0", "write one"],
    ),
    (
        {"config": {"node": {"metrics": {"address": "127.0.0.1"}}}},
        ['config.node.metrics.address is "127.0.0.1"', "leave it out"],
    ),
    ({"config": {"node": {"holder": {"start": True}}}}, ["holder.start is true", "leave it out"]),
    (
        {"gpu": None, "monitoring": {"podMonitor": None}},
        ["gpu is empty (null)", "monitoring.podMonitor is empty (null)", "leave the key out"],
    ),
    (
        {"config": {"node": {"api_server": {"enabled": True}}}},
        ["config.node.api_server.enabled is true and apiServer.enabled is false"],
    ),
    ({"config": {"node": {"name": "n"}}}, ['config.node.name is "n"', "leave it out"]),
    ({"config": {"node": {"host": {"proc": "/p"}}}}, ['config.node.host.proc is "/p"']),
    (
        {"config": {"gpu_plugin": {"resources": []}}, "gpu": {"enabled": False}},
        ["config.gpu_plugin is written, but gpu.enabled is false"],
    ),
    (
        {one: {"enabled": False} for one in ("gpu", "mounts", "view")},
        ["are all false", "enable one"],
    ),
    (
        {"config": {"node": {"holder": {"end_limit": "3m"}}}},
        ["terminationGracePeriodSeconds is 180", "(3m)", "write more than 180"],
    ),
    (
        {"view": {"updateStrategy": {"rollingUpdate": {"maxSurge": "10%"}}}},
        ["view.updateStrategy.rollingUpdate.maxSurge is 10%", "write maxSurge: 0"],
    ),
    (
        {"gpu": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}},
        ["gpu.updateStrategy.rollingUpdate has maxSurge 1 and maxUnavailable 1", "write 0"],
    ),
    (
        {"mounts": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}},
        ["mounts.updateStrategy.rollingUpdate has neither", "write maxUnavailable: 10%"],
    ),
    (
        {
            "view": {
                "extraVolumes": [{"name": "x", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "x", "mountPath": "/run/nodeshare/x"}],
            }
        },
        ['view: "/run/nodeshare/x" would be mounted inside "/run/nodeshare"', "move one"],
    ),
    (
        {
            "gpu": {
                "extraVolumes": [{"name": "state", "emptyDir": {}}],
                "extraVolumeMounts": [
                    {"name": "state", "mountPath": "/host/dev"},
                    {"name": "state", "mountPath": "/etc/nodeshare/key"},
                ],
            }
        },
        [
            'gpu.extraVolumes has "state"',
            'gpu.extraVolumeMounts has "/host/dev"',
            'has "/etc/nodeshare/key", but /etc/nodeshare is the configuration',
        ],
    ),
    (
        {"config": {"lxcfs_helper": {"compat_root": "/lxcfs"}}},
        ['compat_root is "/lxcfs"', "further down"],
    ),
    (
        {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        ["are both true", "scraped twice"],
    ),
    (
        {"fullnameOverride": "9x", "monitoring": {"serviceMonitor": {"enabled": True}}},
        ['a Service cannot be called "9x"', "set fullnameOverride"],
    ),
    ({"priorityClass": {"create": True}}, ['"system-node-critical"', "another name"]),
    (
        {"serviceAccounts": {"create": False}, "apiServer": {"enabled": True}},
        ["serviceAccounts.names.gpu is empty", "name an account"],
    ),
    (
        {"gpu": {"migMonitor": True, "nvidiaEnvironment": False}},
        ["gpu.migMonitor is true, but gpu.nvidiaEnvironment is false", "set it to true"],
    ),
]


@pytest.mark.parametrize(("values", "words"), _BAD)
def test_what_cannot_work_is_refused_with_key_value_and_remedy(
    chart: Chart, values: Mapping[str, Any], words: list[str]
) -> None:
    with pytest.raises(Refused) as refused:
        chart.render(values)
    said = str(refused.value)
    assert not [one for one in words if one not in said], said


def test_all_that_cannot_work_is_said_at_once(chart: Chart) -> None:
    values: dict[str, Any] = {
        "config": {"node": {"name": "n", "holder": {"start": True}}},
        "priorityClass": {"create": True},
    }
    with pytest.raises(
        Refused, match=r"(?s)config\.node\.holder.*config\.node\.name.*priorityClass"
    ):
        chart.render(values)


@pytest.mark.parametrize("part", ["podMonitor", "serviceMonitor", "prometheusRule"])
def test_monitors_need_the_operator(chart: Chart, part: str) -> None:
    words = rf"monitoring\.{part}\.enabled is true, but this cluster knows no .*--api-versions"
    with pytest.raises(Refused, match=words):
        chart.render({"monitoring": {part: {"enabled": True}}}, knows=())
    with pytest.raises(Refused, match=r"openshift\.scc is true, but this cluster knows no"):
        chart.render({"openshift": {"scc": True}}, knows=())


def test_an_old_kubernetes_is_refused(chart: Chart) -> None:
    with pytest.raises(Refused, match=re.escape("kubeVersion: >=1.28.0-0")):
        chart.render(kubernetes="1.27.0")
