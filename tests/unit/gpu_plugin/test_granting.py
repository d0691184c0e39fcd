# SPDX-License-Identifier: Apache-2.0
"""Who was given what: by the directory, by names, and where the two do not agree."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agents.container_cgroups import ContainerCgroup
from agents.containers import Container, Pod
from agents.podresources import PodDevices
from agents.processes import ProcessKey
from gpu_plugin.accounting import ContainerNames, KnownContainer
from gpu_plugin.allocation import Hardware
from gpu_plugin.container_index import Holding
from gpu_plugin.container_names import Told, told
from gpu_plugin.granting import Granted, granted, grants_of
from gpu_plugin.identity import Allocation, digest

GIB = 1 << 30
RESOURCE = "nodeshare/gpu-memory"
ADA, BEN = "ab" * 32, "cd" * 32


def allocation(
    *numbers: int, nonce: str = "0", hardware: bool = True, files: str = ""
) -> Allocation:
    given = {"GPU-1": numbers}
    return Allocation(
        f"{digest(RESOURCE, given)}.{nonce * 8}",
        RESOURCE,
        given,
        int(nonce, 16),
        {"share.json": files} if files else {},
        (1, 1),
        {"GPU-1": Hardware("GPU-1", None, 32 * GIB, 2 * GIB)} if hardware else {},
    )


def holding(id_: str, *found: Allocation, started: int = 1, looked: bool = True) -> Holding:
    names = frozenset(one.name for one in found)
    return Holding(ContainerCgroup(None, id_, f"/{id_}"), ProcessKey(1, started), names, looked)


def container(id_: str, pod: str) -> Container:
    return Container(id_, "main", Pod(pod, "hub", f"uid-{pod}", {"a": "b"}, {"c": "d"}), 1)


def pod(name: str, *numbers: int) -> PodDevices:
    ids = tuple(f"GPU-1::{number}" for number in numbers)
    return PodDevices(name, "hub", {"main": {RESOURCE: ids}, "proxy": {}})


def grant(*holdings: Holding, recorded: list[Allocation], names: Told | None = None) -> Granted:
    by_name = {one.name: one for one in recorded}
    return granted(holdings, by_name, names or Told(), {"GPU-1": 32 * GIB}.get)


def of(found: Granted, id_: str) -> KnownContainer:
    return next(one for one in found.containers if one.cgroup.container_id == id_)


def requests(found: Granted, id_: str) -> list[int] | None:
    grants = of(found, id_).grants
    return None if grants is None else [one.request for one in grants]


def test_a_directory_gives_what_was_recorded() -> None:
    one, other = allocation(0, 1, 2), allocation(7)
    found = grant(holding(ADA, one, other), holding(BEN), recorded=[one, other])
    assert sorted(requests(found, ADA) or []) == [2 * GIB, 6 * GIB]
    assert requests(found, BEN) == []
    assert found.doubts == ()


def test_what_nobody_recorded_or_could_look_at_is_unknown() -> None:
    lost = allocation(0)
    found = grant(holding(ADA, lost), holding(BEN, looked=False), recorded=[])
    assert requests(found, ADA) is None
    assert requests(found, BEN) is None
    (doubt,) = found.doubts
    assert doubt == f"what allocation {lost.name} gave to container {ADA[:12]} is not recorded"


def test_who_lets_nobody_look_is_named_with_the_remedy() -> None:
    (doubt,) = grant(replace(holding(ADA, looked=False), refused=True), recorded=[]).doubts
    assert ADA[:12] in doubt
    assert "CAP_SYS_PTRACE" in doubt


@pytest.mark.parametrize(
    ("files", "request_"),
    [
        (json.dumps({"devices": [{"uuid": "GPU-1", "memory_bytes": 5 * GIB}]}), 5 * GIB),
        ("", 32 * GIB),
        ("no json", 32 * GIB),
        ("[1]", 32 * GIB),
        (json.dumps({"devices": [{"uuid": "GPU-1"}]}), 32 * GIB),
    ],
)
def test_a_record_that_was_written_anew(files: str, request_: int) -> None:
    """What a unit was is known from what the container was told, else it is the whole device."""
    (found,) = grants_of(allocation(0, hardware=False, files=files), {"GPU-1": 32 * GIB}.get)
    assert found.request == request_


def test_one_directory_in_two_containers_is_the_first_ones() -> None:
    one = allocation(0)
    found = grant(holding(ADA, one, started=9), holding(BEN, one, started=5), recorded=[one])
    assert (requests(found, ADA), requests(found, BEN)) == ([], [2 * GIB])
    (doubt,) = found.doubts
    assert doubt.endswith(f"it counts for {BEN[:12]}, and not for {ADA[:12]}")


def test_unless_the_kubelet_says_whose_it_is() -> None:
    one = allocation(0)
    names = told([container(ADA, "ada"), container(BEN, "ben")], [pod("ada", 0), pod("ben", 1)])
    found = grant(
        holding(ADA, one, started=9), holding(BEN, one, started=5), recorded=[one], names=names
    )
    assert (requests(found, ADA), requests(found, BEN)) == ([2 * GIB], [])
    assert len(found.doubts) == 1


def test_by_name_where_no_process_shows_a_directory() -> None:
    former, newest = allocation(0, nonce="1"), allocation(0, nonce="2")
    names = told([container(ADA, "ada")], [pod("ada", 0)])
    found = grant(holding(ADA), recorded=[former, newest], names=names)
    (given,) = of(found, ADA).grants or ()
    assert given.allocation == newest.name
    # Unless another one shows it: then that is the truth.
    found = grant(holding(ADA), holding(BEN, newest), recorded=[former, newest], names=names)
    assert (requests(found, ADA), requests(found, BEN)) == ([], [2 * GIB])


def test_names_from_both_from_one_and_from_nobody() -> None:
    one = allocation(0)
    runtime, kubelet = [container(ADA, "ada")], [pod("ada", 0)]

    def names(told: Told) -> ContainerNames | None:
        return of(grant(holding(ADA, one), recorded=[one], names=told), ADA).names

    full = ContainerNames(
        "hub", "ada", "main", {"a": "b"}, {"c": "d"}, frozenset({"main", "proxy"})
    )
    assert names(told(runtime, kubelet)) == full
    assert names(told(runtime, None)) == replace(full, siblings=frozenset())
    assert names(told(None, kubelet)) == ContainerNames("hub", "ada", "main")
    assert names(told(None, None)) is None
    assert names(told([container(BEN, "ben")], [pod("ben", 5)])) is None


def test_two_pods_with_the_same_units_name_nobody() -> None:
    """A pod that ended is listed for a while beside the one that has its units now."""
    one = allocation(0)
    names = told(None, [pod("former", 0), pod("ada", 0)])
    assert of(grant(holding(ADA, one), recorded=[one], names=names), ADA).names is None
