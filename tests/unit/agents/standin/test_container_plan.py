# SPDX-License-Identifier: Apache-2.0
"""What a start amounts to: quality of service, environment, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.errors import AgentError
from agents.standin.container_plan import cgroup_path, check, environment, new_container_id
from agents.standin.pods import ContainerSpec, ContainerStart, DeviceNode, PodSpec, Volume

BOTH: dict[str, Any] = {"cpu_millis": 1000, "memory_bytes": 1 << 30}
MEMORY: dict[str, Any] = {"memory_bytes": 1 << 30}


def started(*limits: dict[str, Any]) -> ContainerStart:
    """The first container of a pod whose containers have these limits."""
    specs = [ContainerSpec(f"c{n}", ["true"], **each) for n, each in enumerate(limits)]
    return ContainerStart("a" * 64, PodSpec("notebook", specs), "uid-1", specs[0])


@pytest.mark.parametrize(
    ("limits", "service"),
    [
        ([BOTH], "kubepods/"),
        ([MEMORY], "kubepods/burstable/"),
        ([{"cpu_millis": 500}], "kubepods/burstable/"),
        ([{}], "kubepods/besteffort/"),
        ([BOTH, BOTH], "kubepods/"),
        ([BOTH, {}], "kubepods/burstable/"),
        ([{}, MEMORY], "kubepods/burstable/"),
        ([{}, {}], "kubepods/besteffort/"),
    ],
)
def test_the_cgroup_says_the_quality_of_service(limits: list[dict[str, Any]], service: str) -> None:
    for parent in ("nodeshare-demo", "/nodeshare-demo/"):
        path = cgroup_path(parent, started(*limits))
        assert path == f"/nodeshare-demo/{service}poduid-1/{'a' * 64}"


def test_an_extended_resource_alone_is_best_effort() -> None:
    start = started({})
    start = replace(start, spec=replace(start.spec, resources={"nodeshare/gpu-memory": 8}))
    assert "/besteffort/" in cgroup_path("nodeshare-demo", start)


def test_the_pod_wins_over_the_plugin_and_the_mark_over_both() -> None:
    start = started({})
    start = replace(
        start,
        env={"A": "plugin", "B": "plugin", "MARK": "plugin"},
        spec=replace(start.spec, env={"B": "pod", "PATH": "/pod", "MARK": "pod"}),
    )
    assert environment(start, {"MARK": "ours"}) == {
        "A": "plugin",
        "B": "pod",
        "PATH": "/pod",
        "MARK": "ours",
        "HOME": "/root",
        "HOSTNAME": "notebook",
    }


def test_ids_are_those_of_container_runtimes() -> None:
    ids = {new_container_id() for _ in range(10)}
    assert len(ids) == 10
    assert all(re.fullmatch("[0-9a-f]{64}", id_) for id_ in ids)
    check(replace(started({}), id=ids.pop()))


def _path(path: str) -> Callable[[ContainerStart], ContainerStart]:
    return lambda start: replace(start, volumes=[Volume(Path("/srv"), path)])


REFUSED: dict[str, tuple[Callable[[ContainerStart], ContainerStart], str]] = {
    "short id": (lambda start: replace(start, id="abc"), "'abc' is not 64 hexadecimal digits"),
    "path as id": (lambda start: replace(start, id="../" + "a" * 61), "hexadecimal"),
    "path as uid": (lambda start: replace(start, pod_uid="../x"), "'../x' cannot name a cgroup"),
    "empty uid": (lambda start: replace(start, pod_uid=""), "cannot name a cgroup"),
    "no command": (
        lambda start: replace(start, spec=replace(start.spec, command=[])),
        "'c0' has no command",
    ),
    "bad variable": (lambda start: replace(start, env={"A=B": "1"}), "'A=B' cannot be"),
    "empty variable": (lambda start: replace(start, env={"": "1"}), "'' cannot be"),
    "zero byte": (lambda start: replace(start, env={"A": "a\0b"}), "'A' cannot be"),
    "relative target": (_path("data"), "'data' of 'c0' is not an absolute path"),
    "target above": (_path("/data/../.."), "not an absolute path"),
    "target is the root": (_path("/"), "not an absolute path"),
    "relative device": (
        lambda start: replace(start, devices=[DeviceNode(Path("/dev/null"), "null")]),
        "'null' of 'c0'",
    ),
}


@pytest.mark.parametrize(("change", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused(
    change: Callable[[ContainerStart], ContainerStart], text: str
) -> None:
    with pytest.raises(AgentError) as raised:
        check(change(started({})))
    assert text in str(raised.value)
