# SPDX-License-Identifier: Apache-2.0
"""Settings of the hub's module: what is read, and how mistakes are told."""

from __future__ import annotations

import ast
import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from nodeshare_hub import SettingsError, volumes
from nodeshare_hub.parsing import parse
from nodeshare_hub.settings import Settings

ROOT = Path(__file__).parents[4]


def mistakes(document: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(document)
    return str(caught.value).splitlines()


def changed(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """One key set, at a path such as `instances.0.name`."""
    *parents, last = path.split(".")
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[int(last) if isinstance(place, list) else last] = value
    return document


def test_everything_that_can_be_said_is_read(settings: Settings) -> None:
    small, gpu, part = settings.instances
    assert (small.gpu, small.cpu_limit, small.mem_limit, small.groups) == (None, 1.5, "4G", ())
    assert gpu.gpu is not None
    assert (gpu.gpu.sizes, gpu.gpu.chunk, gpu.gpu.limit_most) == ((4, 8, 16), 1 << 30, 20 << 30)
    assert part.gpu is not None
    assert (part.gpu.sizes, part.gpu.chunk) == ((1,), None)
    assert settings.mounts[1].host_path == "/var/lib/nodeshare/mounts/lab"
    assert settings.tokens is not None
    assert settings.tokens.uid_field == ("oauth_user", "uid")
    assert settings.availability.prometheus is None
    assert settings.threads


@pytest.mark.parametrize(
    ("path", "value", "place", "remedy"),
    [
        ("instances.0.name", "Small!", "instances.0.name", "a-z, 0-9"),
        ("instances.0.cpu_limit", "two", "instances.small.cpu_limit", "write a number"),
        ("instances.0.cpu_limit", True, "instances.small.cpu_limit", "write a number"),
        ("instances.0.cpu_limit", -1, "instances.small.cpu_limit", "from 0.001 to 8192"),
        ("instances.0.mem_limit", "4Gi", "instances.small.mem_limit", "8G"),
        (
            "instances.0.cpu_guarantee",
            64,
            "instances.small.cpu_guarantee",
            "no more than the limit",
        ),
        ("instances.0.mem_guarantee", "1T", "instances.small.mem_guarantee", "no more than the"),
        ("instances.0.description", ["a"], "instances.small.description", "as text"),
        ("availability.prometheus.token_file", 7, "availability.prometheus.token_file", "absolute"),
        (
            "availability.prometheus.ca_file",
            "ca.pem",
            "availability.prometheus.ca_file",
            "absolute",
        ),
        ("mounts.0.host_path", "/run", "mounts.data.host_path", "the tokens of all users"),
        ("instances.0.memory", "4G", "instances.small.memory", "there is no such key"),
        ("instances.0.groups", "physics", "instances.small.groups", "a list of strings"),
        ("instances.0.groups", [17], "instances.small.groups", "quotes"),
        ("instances.0.default", "yes", "instances.small.default", "true or false"),
        ("instances.0.tolerations", "all", "instances.small.tolerations", "list of mappings"),
        ("instances.0.default", True, "instances", "only one"),
        ("instances.1.gpu.sizes", [4, 4], "instances.gpu.gpu.sizes", "[4, 8, 16]"),
        ("instances.1.gpu.sizes", [True], "instances.gpu.gpu.sizes", "[4, 8, 16]"),
        ("instances.1.gpu.sizes", [], "instances.gpu.gpu.sizes", "[4, 8, 16]"),
        ("instances.1.gpu.chunk", "1G", "instances.gpu.gpu.chunk", "1GiB"),
        ("instances.1.gpu.chunk", None, "instances.gpu.gpu.limit", "chunk"),
        ("instances.1.gpu.limit.ratio", 0.5, "instances.gpu.gpu.limit.ratio", "from 1"),
        ("instances.1.gpu.limit.ratio", None, "instances.gpu.gpu.limit.most", "ratio"),
        ("instances.1.gpu.resource", "gpu", "instances.gpu.gpu.resource", "nodeshare/gpu-memory"),
        ("instances.1.name", "small", "instances", "there twice"),
        ("instances.2.gpu.unit", "", "instances.slice.gpu.unit", "what one unit is"),
        ("instances", [], "instances", "at least one"),
        ("instances", {"a": 1}, "instances", "write a list"),
        ("mounts.0.read_only", True, "mounts.0.read_only", "publish a read_only name"),
        ("mounts.0.sub_path", "home", "mounts.0.sub_path", "HostToContainer"),
        ("mounts.0.propagation", "None", "mounts.0.propagation", "HostToContainer"),
        ("mounts.0.host_path", "data", "mounts.0.host_path", "absolute"),
        ("mounts.1.name", "data", "mounts", "there twice"),
        ("mounts.1.mount_path", "/run/tokens", "mounts", "there twice"),
        ("tokens.eos", "../eos.token", "tokens.eos", "name of a file"),
        ("tokens", {"uid_field": "uid"}, "tokens.eos", "eos, bearer"),
        (
            "availability.prometheus.url",
            "prometheus:9090",
            "availability.prometheus.url",
            "http://",
        ),
        ("availability.timeout_s", 0, "availability.timeout_s", "from 0.1"),
        ("availability.prometheus", {"url": "http://p", "matchers": {"a-b": "x"}}, "", "label"),
        ("cpu_count", None, "instances.gpu.cpu_count", "section cpu_count"),
        ("cpu_count.profile", "/etc/x", "cpu_count.profile", "below the kubelet"),
        ("limit_annotation", "no slash", "limit_annotation", "write a key"),
        ("threads", "no", "threads", "true or false"),
        ("nonsense", 1, "nonsense", "there is no such key"),
    ],
)
def test_a_mistake_names_place_value_and_remedy(
    document: dict[str, Any], path: str, value: object, place: str, remedy: str
) -> None:
    found = mistakes(changed(document, path, value))
    assert any(
        line.startswith(f"{place}: " if place else "") and remedy in line for line in found
    ), found


def test_all_mistakes_are_told_at_once(document: dict[str, Any]) -> None:
    changed(document, "instances.0.cpu_limit", "two")
    changed(document, "mounts.0.read_only", True)
    assert len(mistakes(changed(document, "tokens.eos", ""))) == 3


KEYS = st.sampled_from(
    [
        "instances",
        "name",
        "title",
        "groups",
        "gpu",
        "sizes",
        "chunk",
        "limit",
        "ratio",
        "resource",
        "unit",
        "mounts",
        "host_path",
        "tokens",
        "mount_path",
        "uid_field",
        "eos",
        "availability",
        "prometheus",
        "url",
        "matchers",
        "nodes",
        "cpu_count",
        "root",
        "threads",
        "tolerations",
        "node_selector",
        "environment",
        "cpu_limit",
        "mem_limit",
        "default",
        "image",
        "x",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


@bounded(max_examples=50, deadline=None)
@given(ANYTHING)
def test_whatever_is_there_is_read_or_told(found: Any) -> None:
    with contextlib.suppress(SettingsError):
        parse(found)


@bounded(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(KEYS, ANYTHING), max_size=3), st.dictionaries(KEYS, ANYTHING))
def test_whatever_is_in_an_instance_is_read_or_told(one: list[Any], other: dict[str, Any]) -> None:
    with contextlib.suppress(SettingsError):
        parse({**other, "instances": one})


@pytest.mark.parametrize("nothing", [None, [], "text", 7])
def test_what_is_no_mapping_is_told(nothing: object) -> None:
    assert mistakes(nothing)


def test_the_example_for_the_chart_is_right() -> None:
    values = yaml.safe_load((ROOT / "deploy/jupyterhub/values.yaml").read_text())
    found = parse(values["custom"]["nodeshare"])
    assert [one.name for one in found.instances] == ["small", "gpu", "slice"]
    (volume,), (mount,) = values["hub"]["extraVolumes"], values["hub"]["extraVolumeMounts"]
    assert volume["name"] == mount["name"]
    package = ROOT / "deploy/jupyterhub" / Path(mount["mountPath"]).name
    assert (package / "__init__.py").exists()


def volume(path: str, kind: str = "", **mount: object) -> list[str]:
    """What is wrong with one volume."""
    return volumes.problems(
        [{"name": "v", "hostPath": {"path": path, "type": kind}}, {"name": "pvc"}, {"name": "e"}],
        [{"name": "v", "mountPath": "/data", **mount}, {"name": "pvc", "mountPath": "/home"}],
        root="/var/lib/nodeshare/mounts",
        tokens="/run/nodeshare/credentials",
    )


@pytest.mark.parametrize(
    ("path", "kind", "mount", "words"),
    [
        ("/var/lib/nodeshare/mounts", "", {}, "mountPropagation None"),
        (
            "/var/lib/nodeshare/mounts/",
            "Directory",
            {"mountPropagation": "None"},
            "HostToContainer",
        ),
        (
            "/var/lib/nodeshare/mounts/eos",
            "",
            {"mountPropagation": "Bidirectional"},
            "Bidirectional",
        ),
        ("/var/lib/nodeshare", "", {}, "mountPropagation"),
        (
            "/var/lib",
            "",
            {"mountPropagation": "HostToContainer", "readOnly": True},
            "read_only name",
        ),
        (
            "/var/lib/nodeshare/mounts/x",
            "",
            {"mountPropagation": "HostToContainer", "subPath": "home"},
            "subPath",
        ),
        (
            "/var/lib/nodeshare/mounts/x/file",
            "File",
            {"mountPropagation": "HostToContainer"},
            "single file",
        ),
        ("/run/nodeshare/credentials/7/eos.token", "", {}, "single file"),
        ("/run/nodeshare/credentials/7", "", {"subPath": "eos.token"}, "single file"),
        ("/run/nodeshare/credentials", "", {}, "all users"),
        ("/run/nodeshare", "", {"subPath": "credentials"}, "all users"),
    ],
)
def test_volumes_that_would_be_dead_or_a_lie_are_refused(
    path: str, kind: str, mount: dict[str, Any], words: str
) -> None:
    (found,) = [line for line in volume(path, kind, **mount) if words in line]
    assert "'v'" in found


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/var/lib/nodeshare/mounts", {"mountPropagation": "HostToContainer"}),
        ("/var/lib/nodeshare/mounts-of-others", {"readOnly": True}),
        ("/srv/data", {"readOnly": True}),
        ("/run/nodeshare/credentials/7", {"readOnly": True}),
        ("/run/nodeshare/credentials", {"subPathExpr": "$(USER_ID)"}),
    ],
)
def test_other_volumes_are_nobodys_affair(path: str, mount: dict[str, Any]) -> None:
    assert volume(path, **mount) == []


def test_a_hub_needs_nothing_that_it_has_not() -> None:
    """Least of all our agents."""
    hubs = {"nodeshare_hub", "jupyterhub", "kubespawner", "tornado"}
    for path in (ROOT / "deploy/jupyterhub/nodeshare_hub").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.partition(".")[0] for name in names}
            assert found <= sys.stdlib_module_names | hubs, path.name
