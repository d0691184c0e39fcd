# SPDX-License-Identifier: Apache-2.0
"""All containers in rows, as metrics and as tables."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from agents.exposition import gauge_text, joined, label_text
from agents.tables import lines
from gpu_plugin import container_metrics, container_overview, container_tables
from gpu_plugin.accounting import Accounting, ContainerNames
from gpu_plugin.container_activity import Activity
from gpu_plugin.container_overview import Overview, act_row, overview
from gpu_plugin.recent_scans import RecentScans
from gpu_plugin.verdicts import Action, Backend, Standing
from tests.fakes.gpu_scans import (
    DEVICES,
    FIRST,
    GIB,
    SECOND,
    SLICE,
    act,
    container,
    grant,
    scan,
    use,
    verdict,
)

ADA = container("ada", grant("a"), use(11, 6 * GIB), use(12, 3 * GIB))
THIEF = container("thief", use(13, GIB, SECOND), named=False)


def seen(accounting: Accounting | None = None) -> Overview:
    found = accounting or scan(
        ADA, THIEF, host=(use(5, GIB, SLICE), use(6, None)), unknown=(use(7, GIB),)
    )
    verdicts = {**verdict(ADA, standing=Standing.WARNED, problem="wrong"), **verdict(THIEF, SECOND)}
    activity = {(ADA.key, FIRST): Activity(found.at - 400, 0.25)}
    row = act_row(act(ADA, Action.WARN), {ADA.key: ADA}, "GPU 0")
    return overview(found, verdicts, activity, DEVICES, (row,))


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("nodeshare_gpu_"), *sample.labels.values()): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def test_each_container_on_each_device() -> None:
    found = samples(container_metrics.text(seen()))
    ada = ("jupyterhub", "ada", "notebook", "nodeshare/gpu-memory", FIRST)
    assert {
        name: found[f"container_{name}", *ada]
        for name in (
            *("memory_used_bytes", "memory_request_bytes", "memory_limit_bytes", "processes"),
            *("over_limit", "utilisation_ratio", "idle_seconds", "idle_memory_bytes"),
        )
    } == {
        "memory_used_bytes": 9 * GIB,
        "memory_request_bytes": 8 * GIB,
        "memory_limit_bytes": 8 * GIB,
        "processes": 2,
        "over_limit": 1,
        "utilisation_ratio": 0.25,
        "idle_seconds": 400,
        "idle_memory_bytes": 9 * GIB,
    }
    thief = ("", "", "thief0000000", "", SECOND)
    assert found["container_memory_used_bytes", *thief] == GIB
    assert found["container_memory_request_bytes", *thief] == 0
    assert ("container_idle_seconds", *thief) not in found, "it cannot be told"
    assert found["uninvited_containers",] == 1
    assert found["host_memory_bytes", SLICE] == GIB
    assert ("host_memory_bytes", FIRST) not in found, "of one process it is not known"
    assert (found["host_processes", FIRST], found["unknown_processes", FIRST]) == (1, 1)


def test_what_is_gone_has_no_series_and_every_family_is_there() -> None:
    full, empty = container_metrics.text(seen()), container_metrics.text(Overview())
    assert [one.name for one in plain(full)] == [one.name for one in plain(empty)]
    assert samples(empty) == {("uninvited_containers",): 0}


def test_no_sample_is_there_twice() -> None:
    again = replace(ADA, key=replace(ADA.key, container_id="f" * 64))
    text = container_metrics.text(seen(scan(ADA, again)))
    found = [line.rpartition(" ")[0] for line in text.splitlines() if line[0] != "#"]
    assert len(found) == len(set(found))
    ada = ("jupyterhub", "ada", "notebook", "nodeshare/gpu-memory", FIRST)
    assert samples(text)["container_memory_used_bytes", *ada] == 18 * GIB


def test_hostile_names_stay_inside_their_quotes() -> None:
    evil = 'a"} 1\nx{y="\\'
    named = replace(ADA, names=ContainerNames("ns", evil, evil))
    text = container_metrics.text(overview(scan(named), {}, {}, DEVICES))
    found = {key for key in samples(text) if key[0] == "container_processes"}
    assert found == {
        ("container_processes", "ns", safe := evil.replace("\n", "?"), safe, RESOURCE, FIRST)
    }
    assert label_text({"a": "b\n"}) == '{a="b\\n"}'


RESOURCE = "nodeshare/gpu-memory"


def test_both_formats_take_it() -> None:
    more = gauge_text("x", "Text.", [("", 1), (label_text({"a": "b"}), 0.5)])
    for accept, parse in (
        ("", plain),
        ("application/openmetrics-text; version=1.0.0", open_metrics),
    ):
        encode, _ = choose_encoder(accept)
        (family,) = parse(joined(encode(CollectorRegistry()), more).decode())
        assert [(s.labels, s.value) for s in family.samples] == [({}, 1.0), ({"a": "b"}, 0.5)]


def test_the_hosts_tables() -> None:
    text = "\n".join(lines(container_tables.tables(seen().document())))
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert (
        "jupyterhub/ada/notebook GPU 0 nodeshare/gpu-memory 9.0 GiB 8.0 GiB 8.0 GiB 2 7 min warned "
        "terminate" in rows
    )
    assert "thief0000000 GPU 1 UNINVITED 1.0 GiB 0 MiB 8.0 GiB 1 - below terminate" in rows
    assert "jupyterhub/ada/notebook: wrong" in rows
    assert f"{SLICE} 0 MiB 1 1.0 GiB 0" in rows
    acted = (
        "2026-11-21T14:05:07Z jupyterhub/ada/notebook GPU 0 warn over_limit 11.0 GiB 8.0 GiB done -"
    )
    assert acted in rows
    assert container_tables.tables({}) == []
    assert container_overview.Overview().document() == {
        "containers": [],
        "device_use": [],
        "acts": [],
    }


def test_a_device_that_misses_a_round_is_shown_as_it_was() -> None:
    recent = RecentScans()
    whole, verdicts = scan(ADA, THIEF, at=100.0), {**verdict(ADA), **verdict(THIEF, SECOND)}
    assert recent.joined(whole, verdicts) == (whole, verdicts)
    without = replace(
        scan(replace(ADA, uses=()), at=101.0),
        devices={SLICE: whole.devices[SLICE]},
    )
    found, told = recent.joined(without, {})
    assert {one.key: one.uses for one in found.containers} == {
        ADA.key: ADA.uses,
        THIEF.key: THIEF.uses,
    }
    assert found.devices == whole.devices
    assert told == verdicts
    late = replace(without, at=106.0)
    assert recent.joined(late, {}) == (late, {})


def test_who_cannot_hold_a_container_to_its_limit_is_told_with_it() -> None:
    place = (ADA.key, FIRST)
    (found,) = verdict(ADA, problem="a wrong annotation").values()
    noted = replace(found, note="the driver cannot")
    (row,) = overview(scan(ADA), {place: noted}, {}, DEVICES).containers
    assert row.problem == "a wrong annotation; the driver cannot"
    nobody = replace(noted, backend=Backend.NONE)
    (row,) = overview(scan(ADA), {place: nobody}, {}, DEVICES).containers
    assert row.problem == "a wrong annotation", "it is one of the node"
