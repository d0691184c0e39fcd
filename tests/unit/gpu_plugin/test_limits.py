# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_plugin.accounting import ContainerKey, ContainerNames, GpuContainer, Grant
from gpu_plugin.config import ResourceRule
from gpu_plugin.known_limits import KnownLimits
from gpu_plugin.limits import NOTHING, limits_of
from gpu_plugin.verdicts import Limits
from tests.fakes.gpu_scans import scan, use

GIB = 1 << 30
NAME = "nodeshare/gpu-memory"
KEY = "nodeshare/gpu-memory-limit"


def rule(**fields: Any) -> ResourceRule:
    return ResourceRule.model_validate({"name": NAME, **fields})


def container(*grants: Grant, **annotations: str) -> GpuContainer:
    written = {
        name.replace("__", "/").replace("_", "-"): text for name, text in annotations.items()
    }
    names = ContainerNames("hub", "ada", "notebook", {"app": "jupyter"}, written)
    return GpuContainer(ContainerKey("uid", "c" * 64), "/kubepods/x", names, grants=grants)


def grant(units: int = 4, device: str = "GPU-1", resource: str = NAME) -> Grant:
    return Grant("a", resource, device, units, units * GIB)


def one(found: GpuContainer, rules: ResourceRule, usable: int | None = 32 * GIB) -> Limits:
    by_name = dict.fromkeys(rules.sizes, rules)
    known = {} if usable is None else dict.fromkeys(("GPU-1", "GPU-2"), usable)
    return limits_of(found, by_name, known)["GPU-1"]


@pytest.mark.parametrize(
    ("fields", "text", "limit", "problem"),
    [
        pytest.param({}, None, 4, None, id="the request"),
        pytest.param({"limit": {"policy": "burst"}}, None, 8, None, id="burst"),
        pytest.param({"limit": {"policy": "burst", "max_ratio": 1.5}}, None, 6, None, id="ratio"),
        pytest.param({"limit": {"policy": "burst", "max_ratio": 99}}, None, 32, None, id="device"),
        pytest.param(
            {"limit": {"policy": "burst", "max_ratio": 99}, "reserved": "2GiB"},
            None,
            30,
            None,
            id="what the administrator keeps",
        ),
        pytest.param({}, "6GiB", 6, None, id="annotation"),
        pytest.param({}, " 6Gi ", 6, None, id="as kubernetes writes it"),
        pytest.param({}, "6144MiB", 6, None, id="in MiB"),
        pytest.param({"limit": {"policy": "burst"}}, "5GiB", 5, None, id="less than the burst"),
        pytest.param({}, "4GiB", 4, None, id="just the request"),
        pytest.param({}, "20GiB", 8, "more than this node allows, 8GiB", id="capped"),
        pytest.param({}, "2GiB", 4, "less than the request, 4GiB", id="less than the request"),
        pytest.param({}, "lots", 4, "'lots' is not a size", id="nonsense"),
        pytest.param({}, "6", 4, "'6' is not a size", id="no unit"),
        pytest.param({}, "٦GiB", 4, "is not a size", id="digits of another script"),
        pytest.param({}, "", 4, "'' is not a size", id="empty"),
        pytest.param({}, "-6GiB", 4, "is not a size", id="negative"),
        pytest.param({}, "9" * 400, 4, "is not a size", id="endless"),
        pytest.param({"limit": {"annotation": None}}, "6GiB", 4, None, id="not heeded"),
        pytest.param({"limit": {"annotation": "x.y/z"}}, "6GiB", 4, None, id="another key"),
        pytest.param({"limit": {"max_ratio": 1}}, "6GiB", 4, "max_ratio 1", id="not allowed"),
    ],
)
def test_limit(fields: dict[str, Any], text: str | None, limit: int, problem: str | None) -> None:
    written = {} if text is None else {"nodeshare__gpu_memory_limit": text}
    found = one(container(grant(), **written), rule(**fields))
    assert found.limit is not None
    assert found.request == 4 * GIB <= found.limit
    if problem is not None:
        assert found.problem is not None
        assert problem in found.problem
        assert KEY in found.problem
        assert len(found.problem) < 400
    assert found.limit == limit * GIB
    assert (found.problem is None) == (problem is None)


def test_a_containers_own_annotation_comes_before_its_pods() -> None:
    key = "nodeshare__gpu_memory_limit"
    both = {key: "5GiB", f"{key}.notebook": "7GiB", f"{key}.sidecar": "8GiB"}
    found = one(container(grant(), **both), rule())
    assert found.limit == 7 * GIB
    assert found.source == "the annotation nodeshare/gpu-memory-limit.notebook"


def test_an_annotation_for_a_container_that_the_pod_has_not_is_told() -> None:
    key = "nodeshare__gpu_memory_limit"
    found = container(grant(), **{f"{key}.sidecar": "6GiB", f"{key}.notebok": "6GiB"})
    assert found.names is not None
    assert one(found, rule()).problem is None, "which containers the pod has is not known"
    siblings = frozenset({"notebook", "sidecar"})
    known = replace(found, names=replace(found.names, siblings=siblings))
    for policy in ("request", "burst"):
        problem = one(known, rule(limit={"policy": policy})).problem or ""
        assert f"{KEY}.notebok speaks of no container" in problem
        assert "(notebook, sidecar)" in problem
    assert one(known, rule(limit={"annotation": "x.y/z"})).problem is None
    for key, told in ((KEY, True), (f"{KEY}.notebook", False)):
        names = replace(found.names, annotations={**found.names.annotations, key: "7GiB"})
        limits = one(replace(known, names=replace(names, siblings=siblings)), rule())
        assert (limits.limit, limits.problem is not None) == (7 * GIB, told)


def test_overcommit_lessens_the_guarantee_alone() -> None:
    found = one(container(grant()), rule(overcommit=1.25))
    assert (found.request, found.limit, found.guarantee) == (4 * GIB, 4 * GIB, 4 * GIB * 4 // 5)
    assert one(container(grant()), rule(overcommit=0.5)).guarantee == 4 * GIB


def test_a_request_that_spans_devices_shares_its_annotation_among_them() -> None:
    found = container(grant(3), grant(1, "GPU-2"), nodeshare__gpu_memory_limit="6GiB")
    limits = limits_of(found, {NAME: rule(split=True)}, {})
    assert [limits[device].limit for device in ("GPU-1", "GPU-2")] == [4.5 * GIB, 1.5 * GIB]


def test_blocks_of_several_sizes_are_one_share_of_the_device() -> None:
    blocks = rule(blocks={"1g": "1GiB", "8g": "8GiB"})
    grants = [
        Grant("a", f"{NAME}-1g", "GPU-1", 2, 2 * GIB),
        Grant("b", f"{NAME}-8g", "GPU-1", 1, 8 * GIB),
    ]
    found = one(container(*grants, nodeshare__gpu_memory_limit="12GiB"), blocks)
    assert (found.request, found.limit, found.problem) == (10 * GIB, 12 * GIB, None)


def test_a_whole_device_has_no_limit() -> None:
    whole = Grant("a", NAME, "GPU-1", 1, 32 * GIB)
    found = one(container(whole, nodeshare__gpu_memory_limit="1GiB"), rule(exclusive=True))
    assert (found.limit, found.problem) == (None, None)
    earlier = one(container(grant()), rule(exclusive=True))
    assert earlier.limit == 4 * GIB, "given in units, before the rule became exclusive"


def test_a_resource_that_nobody_offers_any_more_keeps_its_request() -> None:
    found = limits_of(container(grant(resource="old/name")), {}, {})
    assert found["GPU-1"].limit == found["GPU-1"].request == 4 * GIB


def test_what_was_not_given_has_a_limit_of_nothing() -> None:
    guest = GpuContainer(ContainerKey(None, "d" * 64), "/x", uses=(use(7, 1, "GPU-9"),))
    assert limits_of(guest, {}, {}) == {"GPU-9": NOTHING}


def test_annotations_that_cannot_be_read_may_say_all_that_is_allowed() -> None:
    unread = container(grant())
    found = limits_of(unread, {NAME: rule()}, {}, told=False)["GPU-1"]
    assert found.limit == 8 * GIB
    assert "cannot be read" in found.source
    no_annotation = rule(limit={"annotation": None})
    assert limits_of(unread, {NAME: no_annotation}, {}, told=False)["GPU-1"].limit == 4 * GIB


def test_a_runtime_that_stops_answering_changes_no_limit(tmp_path: Path) -> None:
    socket = tmp_path / "cri.sock"
    known = KnownLimits([rule()], lambda: {"GPU-1": 32 * GIB}, socket)
    told = container(grant(), nodeshare__gpu_memory_limit="6GiB")
    silent = GpuContainer(told.key, told.cgroup, None, grants=told.grants)

    def limit(found: GpuContainer) -> int | None:
        return known.of(scan(found))[found.key]["GPU-1"].limit

    assert limit(silent) == 4 * GIB, "there is no runtime to tell of annotations"
    socket.touch()
    assert limit(silent) == 8 * GIB, "there may be one"
    assert limit(told) == 6 * GIB
    assert limit(silent) == 6 * GIB
    known.of(scan())
    assert limit(silent) == 8 * GIB, "another container"
