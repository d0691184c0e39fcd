# SPDX-License-Identifier: Apache-2.0
"""What an offer makes of a pod."""

from __future__ import annotations

from typing import Any

import pytest
from nodeshare_hub.choice import offers
from nodeshare_hub.parsing import parse
from nodeshare_hub.pod import THREAD_VARIABLES, Pod, pod
from nodeshare_hub.settings import Settings

from lxcfs_helper.affinity import environment
from lxcfs_helper.affinity.profile_files import localhost_profile
from lxcfs_helper.affinity.profile_keeper import LABEL


def made(settings: Settings, key: str, *groups: str, **words: Any) -> Pod:
    offer = next(one for one in offers(settings.instances, ["gpu"]) if one.key == key)
    return pod(settings, offer, groups=groups, **{"uid": 4711, **words})


def test_a_share_has_units_limit_selector_and_profile(settings: Settings) -> None:
    found = made(settings, "gpu/8")
    assert found.added["extra_resource_limits"] == {"nodeshare/gpu-memory": "8"}
    assert found.added["extra_resource_guarantees"] == {"nodeshare/gpu-memory": "8"}
    assert found.added["extra_annotations"] == {"nodeshare/gpu-memory-limit": "12GiB"}
    assert found.added["node_selector"] == {"gpu": "v100", "nodeshare/cpu-count": "true"}
    assert found.added["container_security_context"] == {
        "seccompProfile": {"type": "Localhost", "localhostProfile": "nodeshare/default.json"}
    }
    assert found.added["extra_labels"] == {"nodeshare/instance": "gpu"}


def test_the_limit_is_capped(settings: Settings) -> None:
    assert made(settings, "gpu/16").added["extra_annotations"] == {
        "nodeshare/gpu-memory-limit": "20GiB"
    }


def test_a_slice_has_no_limit_and_no_profile_that_was_not_asked_for(settings: Settings) -> None:
    found = made(settings, "slice")
    assert found.added["extra_resource_limits"] == {"nodeshare/mig-1g.10gb": "1"}
    assert found.added["extra_annotations"] == {}
    assert found.added["container_security_context"] == {}


def test_mounts_come_by_group_with_propagation(settings: Settings) -> None:
    found = made(settings, "small", "lab")
    names = [one["name"] for one in found.lists["volumes"]]
    assert names == ["nodeshare-data", "nodeshare-lab", "nodeshare-tokens"]
    assert {one["mountPropagation"] for one in found.lists["volume_mounts"]} == {"HostToContainer"}
    assert [one.get("readOnly") for one in found.lists["volume_mounts"]] == [None, None, True]
    assert "nodeshare-lab" not in str(made(settings, "small").lists)


def test_tokens_are_the_users_own(settings: Settings) -> None:
    found = made(settings, "small")
    assert found.values["uid"] == 4711
    assert found.added["environment"]["OAUTH2_TOKEN"] == "FILE:/run/tokens/eos.token"
    assert found.added["environment"]["BEARER_TOKEN_FILE"] == "/run/tokens/bearer.token"
    (volume,) = [one for one in found.lists["volumes"] if one["name"] == "nodeshare-tokens"]
    assert volume["hostPath"]["path"] == "/run/nodeshare/credentials/4711"
    without = made(settings, "small", uid=None)
    assert "uid" not in without.values
    assert "OAUTH2_TOKEN" not in without.added["environment"]


def test_the_profile_is_the_one_that_the_view_agent_installs(document: dict[str, Any]) -> None:
    document["cpu_count"] = {}
    found = parse(document).cpu_count
    assert found is not None
    assert found.profile == localhost_profile("runtime-default")
    assert found.node_label == LABEL


def test_threads_are_those_of_the_command() -> None:
    assert set(THREAD_VARIABLES) == set(environment.VARIABLES)


@pytest.mark.parametrize(
    ("key", "configured", "threads"),
    [
        ("small", 8.0, 2),
        ("gpu/4", None, 4),
        ("slice", 0.2, 1),
        ("slice", 3.5, 4),
        ("slice", 0, None),
    ],
)
def test_threads_follow_the_cpu_limit(
    settings: Settings, key: str, configured: float | None, threads: int | None
) -> None:
    found = made(settings, key, cpu_limit=configured).added["environment"]
    wanted = {} if threads is None else environment.environment(threads)
    assert {name: found.get(name) for name in wanted} == wanted
    assert threads or "OMP_NUM_THREADS" not in found


def test_hints_are_preferences_in_order(settings: Settings) -> None:
    found = made(settings, "gpu/4", nodes=("a", "b")).lists["node_affinity_preferred"]
    assert [one["preference"]["matchFields"][0]["values"] for one in found] == [["a"], ["b"]]
    assert found[0]["weight"] > found[1]["weight"] > 0
    assert all(
        0 < one["weight"] <= 100
        for one in made(settings, "gpu/4", nodes=[f"n{number}" for number in range(200)]).lists[
            "node_affinity_preferred"
        ]
    )
