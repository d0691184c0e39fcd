# SPDX-License-Identifier: Apache-2.0
"""When each alert fires and when it does not, and what recording rules say: by promtool, on
invented series, a sample a minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.prometheus import EXAMPLE, RULES, promtool

pytestmark = pytest.mark.processes

#: `@gpu` in a series: the labels that a scrape gives to an agent of this node.
TARGETS = {
    f"@{short}": f'job="nodeshare", instance="n1:{port}", node="n1", agent="{agent}"'
    for short, port, agent in (
        ("gpu", 9401, "gpu_plugin"),
        ("mounts", 9402, "fuse_mounter"),
        ("view", 9403, "lxcfs_helper"),
    )
}
#: One that is nothing of ours.
OTHER = 'job="node", instance="n1:9100"'
#: When the longest of them is over, in minutes.
END = 150

Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """Values in promtool's words; `fires` and `quiet` are several situations each."""

    fires: tuple[Series, ...]
    quiet: tuple[Series, ...]
    #: How often it fires in each.
    times: int = 1
    #: Others that fire with it, because they say more of the same.
    besides: Mapping[str, int] = field(default_factory=dict)


def one(fires: Series, *quiet: Series, times: int = 1, **besides: int) -> Case:
    return Case((fires,), quiet, times, besides)


def gauge(name: str, minutes: int, *quiet: Series, bad: str = "1", good: str = "0") -> Case:
    """Fires when it is bad for so long; not when it was so for shorter, is good, or is away."""
    return Case(
        fires=({name: f"{bad}x{minutes + 2}"},),
        quiet=(
            {name: f"{bad}x{minutes - 2} {good}x4"},
            {name: f"{good}x2 stale _x{minutes + 2}"},
            # The agent is restarted in between: it counts anew.
            {name: f"{bad}x{minutes // 2} stale {bad}x{minutes // 2 - 1} {good}x2"},
            *quiet,
        ),
    )


def counter(name: str, minutes: int, *, steps: str, few: str) -> Case:
    """Fires when it rises in such steps for so long; not in `few`, nor when it starts from 0."""
    return Case(
        fires=({name: f"0x5 {steps}x{minutes}"},),
        quiet=(
            {name: f"0x5 {few}x{minutes}"},
            {name: "1000x5 0x9"},  # the agent is restarted
        ),
    )


MIB, GIB = 1 << 20, 1 << 30
INFO = 'nodeshare_gpu_device_info{@gpu, device="GPU-1", name="GPU 0"}'
OVER = 'nodeshare_gpu_container_over_limit{@gpu, namespace="ns", pod="p", device="GPU-1"}'
IDLE = '{@gpu, namespace="ns", pod="p", container="c", resource="r", device="GPU-1"}'
UP = 'nodeshare_mount_up{@mounts, mount="eos"}'
DRAINED = 'nodeshare_mount_drained{@mounts, mount="eos"}'
RECOVERIES = 'nodeshare_mount_recoveries_total{@mounts, mount="eos", '
MISSING_VIEW = 'nodeshare_view_containers{@view, state="missing", view='
AFFINITY = "nodeshare_view_affinity_"
TOKEN = '{@mounts, token="eos"}'
START = "process_start_time_seconds{@gpu}"
ACTS = 'nodeshare_gpu_enforcement_actions_total{@gpu, reason="over_limit", '
MISSING = f"nodeshare_mount_credential_without_token_users{TOKEN}"
LOGIN = f"nodeshare_mount_credential_login_needed_users{TOKEN}"
EXPIRY = f"nodeshare_mount_credential_earliest_expiry_timestamp_seconds{TOKEN}"

CASES: dict[str, Case] = {
    "NodeshareAgentDown": Case(
        fires=({"up{@mounts}": "1x3 0x7"},),
        quiet=(
            {"up{@mounts}": "1x3 0x3 1x9"},  # a restart, or an update
            {"up{@mounts}": "1x3 stale _x20"},  # it does not run on this node any more
            {f"up{{{OTHER}}}": "0x20"},
        ),
    ),
    "NodeshareGpuPluginDown": one(
        {"up{@gpu}": "1x3 0x17"},
        {"up{@mounts}": "1x3 0x3 1x3 0x3 1x9"},
        {"up{@gpu}": "1x3 0x4 1x9"},
        NodeshareAgentDown=1,
    ),
    "NodeshareAgentNotReady": gauge("nodeshare_agent_ready{@gpu}", 10, bad="0", good="1"),
    "NodeshareAgentRestarts": one(
        {START: "100x9 200x9 300x9 400x9 500x9 600x3"},
        {START: "100x9 200x9 300x20"},
        {START: "100x9 stale _x30 200x9"},
        {f"process_start_time_seconds{{{OTHER}}}": "1+1x60"},
    ),
    "NodeshareConfigurationRefused": gauge(
        "nodeshare_agent_config_current{@gpu}", 5, bad="0", good="1"
    ),
    "NodeshareMetricsIncomplete": Case(
        fires=tuple(
            {f'nodeshare_{part}_collector_success{{@{agent}, collector="x"}}': "0x12"}
            for part, agent in (("gpu", "gpu"), ("mount", "mounts"), ("view", "view"))
        ),
        quiet=({'nodeshare_gpu_collector_success{@gpu, collector="x"}': "0x4 1x20"},),
    ),
    "NodeshareAgentMemory": gauge(
        "process_resident_memory_bytes{@gpu}",
        30,
        {f"process_resident_memory_bytes{{{OTHER}}}": f"{900 * MIB}x60"},
        bad=str(300 * MIB),
        good=str(70 * MIB),
    ),
    "NodeshareAgentFiles": one(
        {"process_open_fds{@gpu}": "900x20", "process_max_fds{@gpu}": "1000x20"},
        {"process_open_fds{@gpu}": "90x20", "process_max_fds{@gpu}": "1000x20"},
        {"process_open_fds{@gpu}": "900x20"},
    ),
    "NodeshareScrapeSlow": gauge("scrape_duration_seconds{@view}", 15, bad="3", good="0.01"),
    "NodeshareApiErrors": counter(
        "nodeshare_agent_api_errors_total{@gpu}", 60, steps="0+1", few="0+0.1"
    ),
    "NodeshareGpuLost": gauge("nodeshare_gpu_lost{@gpu}", 5),
    "NodeshareGpuUnhealthy": Case(
        fires=(
            {'nodeshare_gpu_device_healthy{@gpu, device="GPU-1"}': "0x12", INFO: "1x12"},
            {'nodeshare_gpu_device_healthy{@gpu, device="GPU-1"}': "0x12"},
        ),
        quiet=(
            {'nodeshare_gpu_device_healthy{@gpu, device="GPU-1"}': "0x5 1x12", INFO: "1x17"},
            {INFO: "1x20"},
        ),
    ),
    "NodeshareGpuHealthUnmonitored": gauge(
        'nodeshare_gpu_health_monitored{@gpu, device="GPU-1"}', 30, bad="0", good="1"
    ),
    "NodeshareGpuResourceNotRegistered": gauge(
        'nodeshare_gpu_resource_registered{@gpu, resource="r"}', 5, bad="0", good="1"
    ),
    "NodeshareGpuResourceContested": counter(
        'nodeshare_gpu_registrations_lost_total{@gpu, resource="r"}', 30, steps="0+1", few="0+0.05"
    ),
    "NodeshareGpuHoldersUnknown": one(
        {'nodeshare_gpu_units{@gpu, resource="r", device="GPU-1"}': "31x12"},
        {
            'nodeshare_gpu_units{@gpu, resource="r", device="GPU-1"}': "31x20",
            'nodeshare_gpu_units_allocated{@gpu, resource="r", device="GPU-1"}': "_x5 0x14",
        },
        {'nodeshare_gpu_units_allocated{@gpu, resource="r", device="GPU-1"}': "0x14"},
    ),
    "NodeshareGpuUsageUnknown": one(
        {'nodeshare_gpu_memory_size_bytes{@gpu, device="GPU-1"}': "31x12"},
        {
            'nodeshare_gpu_memory_size_bytes{@gpu, device="GPU-1"}': "31x20",
            'nodeshare_gpu_memory_used_bytes{@gpu, device="GPU-1"}': "_x5 0x14",
        },
    ),
    "NodeshareGpuDriverErrors": counter(
        'nodeshare_gpu_nvml_errors_total{@gpu, call="memory"}', 40, steps="0+1", few="0+0.2"
    ),
    "NodeshareGpuKubeletMismatch": gauge(
        'nodeshare_gpu_kubelet_mismatch{@gpu, resource="r", kind="unmounted"}', 30
    ),
    "NodeshareGpuPodsRejected": counter(
        'nodeshare_gpu_admission_rejections_total{@gpu, resource="r", reason="no_block"}',
        30,
        steps="0+1",
        few="0+0.1",
    ),
    "NodeshareGpuLimitNotHeld": one(
        {OVER: "1x7", "nodeshare_gpu_enforcing{@gpu}": "1x7"},
        {OVER: "1x30", "nodeshare_gpu_enforcing{@gpu}": "0x30"},  # mode observe
        {OVER: "1x2 0x9 1x2 0x9", "nodeshare_gpu_enforcing{@gpu}": "1x30"},
        {OVER: "1x30"},
    ),
    "NodeshareGpuEnforcementRefused": one(
        {ACTS + 'action="kill", outcome="refused"}': "0x5 1x9"},
        {ACTS + 'action="kill", outcome="refused"}': "0x30"},
        {ACTS + 'action="kill", outcome="done"}': "0x5 3x20"},
    ),
    "NodeshareGpuEnforcementFrequent": one(
        {ACTS + 'action="terminate", outcome="done"}': "0x5 0+1x40"},
        {ACTS + 'action="terminate", outcome="done"}': "0x5 0+0.2x60"},
        {ACTS + 'action="warn", outcome="done"}': "0x5 0+1x60"},
        {ACTS + 'action="kill", outcome="observed"}': "0x5 0+1x60"},
    ),
    "NodeshareGpuUninvited": gauge("nodeshare_gpu_uninvited_containers{@gpu}", 10),
    "NodeshareGpuMemoryUnaccounted": one(
        {
            'nodeshare_gpu_memory_unattributed_bytes{@gpu, device="GPU-1"}': f"{3 * GIB}x32",
            INFO: "1x32",
        },
        {
            'nodeshare_gpu_memory_unattributed_bytes{@gpu, device="GPU-1"}': f"{GIB}x60",
            INFO: "1x60",
        },
    ),
    "NodeshareGpuMemoryIdle": one(
        {
            f"nodeshare_gpu_container_idle_memory_bytes{IDLE}": f"{GIB}x8",
            f"nodeshare_gpu_container_idle_seconds{IDLE}": "90000x8",
        },
        {
            f"nodeshare_gpu_container_idle_memory_bytes{IDLE}": f"{GIB}x8",
            f"nodeshare_gpu_container_idle_seconds{IDLE}": "4000x8",
        },
        {
            f"nodeshare_gpu_container_idle_memory_bytes{IDLE}": "0x8",
            f"nodeshare_gpu_container_idle_seconds{IDLE}": "90000x8",
        },
    ),
    "NodeshareGpuLimitProblems": gauge("nodeshare_gpu_limit_problems{@gpu}", 30),
    "NodeshareGpuContainersUnshown": gauge("nodeshare_gpu_unshown_containers{@gpu}", 15),
    "NodeshareGpuProblems": gauge("nodeshare_gpu_problems{@gpu}", 30),
    "NodeshareMountDown": Case(
        fires=(
            {UP: "1x3 0x5", DRAINED: "0x8"},
            {UP: "0x5"},
        ),
        quiet=(
            {UP: "1x3 0x2 1x9", DRAINED: "0x14"},
            {UP: "1x3 0x20", DRAINED: "0x3 1x20"},  # an operator asked for it
            {UP: "1x3 stale _x20", DRAINED: "0x3 stale _x20"},
            {UP: "1x3 0x2 stale _x1 0x2 1x5"},  # the agent is restarted while it is away
        ),
    ),
    "NodeshareMountServerAway": gauge(
        'nodeshare_mount_breaker_open{@mounts, server="eos.example.org"}', 5
    ),
    "NodeshareMountDegraded": gauge(
        'nodeshare_mount_state{@mounts, mount="eos", state="degraded"}',
        15,
        {'nodeshare_mount_state{@mounts, mount="eos", state="published"}': "1x60"},
    ),
    "NodeshareMountRecoversOften": one(
        {
            RECOVERIES + 'cause="hung"}': "0x5 0+0.2x20",
            RECOVERIES + 'cause="stale"}': "0x5 0+0.2x20",
        },
        {RECOVERIES + 'cause="hung"}': "0x5 3x20"},
        {RECOVERIES + 'cause="hung"}': "9x5 0x20"},
    ),
    "NodeshareMountHangs": counter(
        'nodeshare_mount_aborts_total{@mounts, mount="eos"}', 20, steps="0+0.2", few="0+0.03"
    ),
    "NodeshareMountSlow": gauge(
        'nodeshare_mount_probe_seconds{@mounts, mount="eos"}', 10, bad="4", good="0.01"
    ),
    "NodeshareMountFull": one(
        {
            'nodeshare_mount_available_bytes{@mounts, mount="eos"}': "4x32",
            'nodeshare_mount_size_bytes{@mounts, mount="eos"}': "100x32",
            'nodeshare_mount_info{@mounts, mount="eos", driver="eosxd"}': "1x32",
        },
        {
            'nodeshare_mount_available_bytes{@mounts, mount="eos"}': "20x32",
            'nodeshare_mount_size_bytes{@mounts, mount="eos"}': "100x32",
        },
        {  # it does not say how large it is
            'nodeshare_mount_available_bytes{@mounts, mount="eos"}': "0x32",
            'nodeshare_mount_size_bytes{@mounts, mount="eos"}': "0x32",
        },
        {  # what it tells of is a cache
            'nodeshare_mount_available_bytes{@mounts, mount="sw"}': "1x32",
            'nodeshare_mount_size_bytes{@mounts, mount="sw"}': "100x32",
            'nodeshare_mount_info{@mounts, mount="sw", driver="cvmfs"}': "1x32",
        },
    ),
    "NodeshareMountInodesLow": one(
        {
            'nodeshare_mount_inodes_free{@mounts, mount="eos"}': "4x32",
            'nodeshare_mount_inodes{@mounts, mount="eos"}': "100x32",
        },
        {
            'nodeshare_mount_inodes_free{@mounts, mount="eos"}': "0x32",
            'nodeshare_mount_inodes{@mounts, mount="eos"}': "0x32",
        },
    ),
    "NodeshareMountPodsLost": gauge('nodeshare_mount_pods_lost{@mounts, mount="eos"}', 10),
    "NodeshareMountSharedFolder": gauge(
        'nodeshare_mount_shared_folder_ok{@mounts, mount="eos", path="a"}',
        15,
        {  # its mount is away, on purpose
            'nodeshare_mount_shared_folder_ok{@mounts, mount="eos", path="a"}': "0x30",
            UP: "0x30",
            DRAINED: "1x30",
        },
        bad="0",
        good="1",
    ),
    "NodeshareMountStartsWait": gauge("nodeshare_mount_starts_waiting{@mounts}", 15),
    "NodeshareCredentialSourceDown": gauge(
        f"nodeshare_mount_credential_source_up{TOKEN}", 10, bad="0", good="1"
    ),
    "NodeshareCredentialMissing": one(
        {MISSING: "2x17", LOGIN: "1x17"},
        {MISSING: "2x30", LOGIN: "2x30"},  # they have to log in, and are told so
        {MISSING: "2x5 0x30", LOGIN: "0x35"},
    ),
    "NodeshareCredentialEnded": one(
        {EXPIRY: "600x20", LOGIN: "0x20"},
        {EXPIRY: "9000x20", LOGIN: "0x20"},
        {EXPIRY: "600x20", LOGIN: "1x20"},
        {EXPIRY: "900+60x60", LOGIN: "0x60"},  # renewed all the time
    ),
    "NodeshareKeytabProblem": gauge("nodeshare_mount_credential_keytab_problems{@mounts}", 10),
    "NodeshareScratchOverdue": one(
        {'nodeshare_mount_scratch_next_run_timestamp_seconds{@mounts, scratch="s"}': "-30000x15"},
        {'nodeshare_mount_scratch_next_run_timestamp_seconds{@mounts, scratch="s"}': "-9000x15"},
        {'nodeshare_mount_scratch_next_run_timestamp_seconds{@mounts, scratch="s"}': "80000x15"},
    ),
    "NodeshareScratchFails": one(
        {
            'nodeshare_mount_scratch_runs_total{@mounts, scratch="s", result="failed"}': (
                "0x5 1x5 2x5 3x5"
            )
        },
        {
            'nodeshare_mount_scratch_runs_total{@mounts, scratch="s", result="failed"}': (
                "0x5 1x5 2x9"
            )
        },
        {'nodeshare_mount_scratch_runs_total{@mounts, scratch="s", result="done"}': "0x5 0+1x99"},
    ),
    "NodeshareViewFails": gauge('nodeshare_view_failed_containers{@view, step="attach"}', 10),
    "NodeshareViewMissing": one(
        {MISSING_VIEW + '"stat"}': "1x12", MISSING_VIEW + '"meminfo"}': "1x12"},
        {MISSING_VIEW + '"stat"}': "1x5 0x12"},
        {'nodeshare_view_containers{@view, view="stat", state="excluded"}': "1x12"},
    ),
    "NodeshareViewStale": gauge("nodeshare_view_oldest_seconds{@view}", 10, bad="30", good="3"),
    "NodeshareViewInjectionFails": counter(
        "nodeshare_view_injection_failures_total{@view}", 60, steps="0+2", few="0+0.1"
    ),
    "NodeshareViewRepairs": counter(
        "nodeshare_view_repairs_total{@view}", 60, steps="0+1", few="0+0.1"
    ),
    "NodeshareViewRootDown": gauge(
        'nodeshare_view_root_state{@view, state="refused"}',
        10,
        {'nodeshare_view_root_state{@view, state="served"}': "1x30"},
        {'nodeshare_view_root_state{@view, state="starting"}': "1x30"},
    ),
    "NodeshareAffinityNotReady": Case(
        fires=(
            {AFFINITY + "ready{@view}": "0x12", AFFINITY + "connected{@view}": "1x12"},
            {AFFINITY + "ready{@view}": "1x12", AFFINITY + "connected{@view}": "0x12"},
        ),
        quiet=(
            {AFFINITY + "ready{@view}": "0x5 1x9", AFFINITY + "connected{@view}": "0x5 1x9"},
            {AFFINITY + "hung_calls_total{@view}": "0x20"},  # it is off: the two are absent
        ),
    ),
    "NodeshareAffinityHangs": one(
        {AFFINITY + "hung_calls_total{@view}": "0x5 1x5"},
        {AFFINITY + "hung_calls_total{@view}": "3x15"},
        {AFFINITY + "hung_calls_total{@view}": "3x5 stale 0x9"},
    ),
    "NodeshareViewsLate": counter(
        AFFINITY + 'held_programs_total{@view, outcome="late"}', 40, steps="0+1", few="0+0.2"
    ),
    "NodeshareViewRootRestarts": counter(
        "nodeshare_view_root_restarts_total{@view}", 30, steps="0+0.5", few="0+0.03"
    ),
}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_every_alert_has_its_case() -> None:
    assert set(CASES) == {rule["alert"] for rule in rules() if "alert" in rule}
    assert all(case.fires and case.quiet for case in CASES.values())


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    """Each situation is a cluster of its own, so one run shows them all."""
    situations: dict[str, tuple[Series, Mapping[str, int]]] = {}
    for name, case in CASES.items():
        for number, series in enumerate(case.fires):
            expected = {name: case.times, **case.besides}
            situations[f"{name} fires {number}"] = (series, expected)
        for number, series in enumerate(case.quiet):
            situations[f"{name} is quiet {number}"] = (series, {})
    run(tmp_path, situations)


def test_an_update_of_all_agents_fires_nothing(tmp_path: Path) -> None:
    """Each is away for three minutes, and comes back with counters from 0."""
    gap = "stale _x2"
    series = {
        **{f"up{{@{agent}}}": "1x60 0x2 1x60" for agent in ("gpu", "mounts", "view")},
        START: f"100x60 {gap} 5000x60",
        "nodeshare_agent_ready{@gpu}": f"1x60 {gap} 0x1 1x59",
        'nodeshare_gpu_units{@gpu, resource="r", device="GPU-1"}': f"31x60 {gap} 31x60",
        'nodeshare_gpu_units_allocated{@gpu, resource="r", device="GPU-1"}': (
            f"8x60 {gap} _x1 8x59"
        ),
        'nodeshare_gpu_registrations_total{@gpu, resource="r"}': f"1x60 {gap} 0x1 1x59",
        'nodeshare_gpu_registrations_lost_total{@gpu, resource="r"}': f"2x60 {gap} 0x60",
        ACTS + 'action="kill", outcome="done"}': f"90x60 {gap} 0x60",
        UP: f"1x60 {gap} 1x60",
        'nodeshare_mount_recoveries_total{@mounts, mount="eos", cause="hung"}': f"9x60 {gap} 0x60",
        "nodeshare_view_repairs_total{@view}": f"99x60 {gap} 0x60",
        'nodeshare_view_containers{@view, view="stat", state="missing"}': f"0x60 {gap} 3x1 0x59",
    }
    run(tmp_path, {"an update": (series, {})})


def test_agents_that_are_taken_off_a_node_fire_nothing(tmp_path: Path) -> None:
    """Also in the middle of trouble."""
    series = {
        "up{@gpu}": "1x30 stale _x90",
        "nodeshare_agent_ready{@gpu}": "1x28 0x2 stale _x90",
        UP: "1x28 0x1 stale _x90",
        'nodeshare_gpu_resource_registered{@gpu, resource="r"}': "1x28 0x2 stale _x90",
    }
    run(tmp_path, {"off": (series, {})})


def test_what_the_spawn_page_asks(tmp_path: Path) -> None:
    """Two nodes, the second with a sick device; in an update two agents tell of the first one."""
    first, other = TARGETS["@gpu"], TARGETS["@gpu"].replace("n1", "n2")
    again = first.replace("n1:9401", "n1:9501")
    series: dict[str, str] = {}
    for target, device, units, held, healthy in (
        (first, "GPU-1", 31, 20, 1),
        (again, "GPU-1", 31, 20, 1),
        (first, "GPU-2", 31, 4, 1),
        (other, "GPU-3", 31, 0, 1),
        (other, "GPU-4", 31, 0, 0),
    ):
        labels = f'{{{target}, resource="r", device="{device}"}}'
        series |= {
            f"nodeshare_gpu_units{labels}": f"{units}x9",
            f"nodeshare_gpu_units_allocated{labels}": f"{held}x9",
            f"nodeshare_gpu_units_withheld{labels}": "1x9",
            f"nodeshare_gpu_unit_bytes{labels}": f"{GIB}x9",
            f'nodeshare_gpu_device_healthy{{{target}, device="{device}"}}': f"{healthy}x9",
        }
    for target, block in ((first, 26), (again, 26), (other, 30)):
        labels = f'{{{target}, resource="r"}}'
        series |= {
            f"nodeshare_gpu_resource_registered{labels}": "1x9",
            f"nodeshare_gpu_largest_free_block_units{labels}": f"{block}x9",
        }
    container = '{@gpu, namespace="ns", pod="p", container="c", resource="r", device="GPU-1"}'
    series |= {
        f"nodeshare_gpu_container_memory_request_bytes{container}": f"{8 * GIB}x9",
        f"nodeshare_gpu_container_idle_memory_bytes{container}": f"{GIB}x9",
        'nodeshare_gpu_admission_rejections_total{@gpu, resource="r", reason="no_block"}': "0+1x9",
    }
    for pod, scheduled in (("a", 0), ("b", 0), ("c", 1)):
        series |= {
            f'kube_pod_container_resource_requests{{namespace="ns", pod="{pod}", container="c", '
            'resource="nodeshare_gpu_memory", unit="integer"}': "8x9",
            f'kube_pod_status_scheduled{{namespace="ns", pod="{pod}", condition="false"}}': (
                f"{1 - scheduled}x9"
            ),
        }
    expected = {
        "nodeshare_gpu_units:sum": 4 * 31,
        "nodeshare_gpu_units_allocated:sum": 24,
        "nodeshare_gpu_units_free:sum": 10 + 26 + 30,
        "nodeshare_gpu_largest_free_block_units:max": 30,
        "nodeshare_gpu_unit_bytes:min": GIB,
        "nodeshare_gpu_nodes:count": 2,
        "nodeshare_gpu_containers:count": 1,
        "nodeshare_gpu_idle_memory_bytes:sum": GIB,
        "nodeshare_gpu_admission_rejections:increase1h": 9,
        "nodeshare_gpu_pods_waiting:count": 2,
    }
    assert {f"resource:{name}" for name in expected} == {
        rule["record"] for rule in rules() if "record" in rule
    }
    asked = [
        {
            "expr": f"sum without (resource) (round(resource:{name}))",
            "eval_time": "9m",
            "exp_samples": [{"labels": "{}", "value": value}],
        }
        for name, value in expected.items()
    ]
    promtool_test(tmp_path, inputs(series), asked)


def test_what_is_not_known_is_absent_and_not_zero(tmp_path: Path) -> None:
    labels = '{@gpu, resource="r", device="GPU-1"}'
    series = {
        f"nodeshare_gpu_units{labels}": "31x9",
        f"nodeshare_gpu_units_withheld{labels}": "0x9",
        'nodeshare_gpu_device_healthy{@gpu, device="GPU-1"}': "1x9",
        'nodeshare_gpu_resource_registered{@gpu, resource="r"}': "1x9",
    }
    asked = [
        {"expr": f"resource:nodeshare_gpu_{name}", "eval_time": "9m", "exp_samples": []}
        for name in ("units_allocated:sum", "units_free:sum", "largest_free_block_units:max")
    ]
    promtool_test(tmp_path, inputs(series), asked)


def test_promtool_accepts_the_rules() -> None:
    code, output = promtool("check", "rules", str(RULES))
    assert code == 0, output


def test_promtool_accepts_the_example(tmp_path: Path) -> None:
    """But the part about Kubernetes: Debian's Prometheus is built without it."""
    document = yaml.safe_load(EXAMPLE.read_text())
    jobs = document["scrape_configs"]
    for job in jobs:
        if job.pop("kubernetes_sd_configs", None) is not None:
            job["static_configs"] = []
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    code, output = promtool("check", "config", str(tmp_path / "prometheus.yaml"))
    assert code == 0, output
    assert all(job["honor_labels"] for job in jobs)


def test_alerts_say_what_where_and_what_to_do() -> None:
    for rule in rules():
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule
        texts = rule["annotations"]
        assert set(texts) == {"summary", "description", "runbook"}, rule
        assert all(len(text) > 20 for text in texts.values()), rule
        assert len(texts["summary"]) < 120, rule
        assert re.search(r"\$labels\.(node|server|instance|mount)", texts["summary"]), rule


def inputs(series: Series, **more: str) -> list[dict[str, str]]:
    """`more` are further labels of all of them. Nothing outlives its last sample."""
    labels = "".join(f'{name}="{value}", ' for name, value in more.items())
    return [
        {"series": labelled(one).replace("{", "{" + labels, 1), "values": f"{values} stale"}
        for one, values in series.items()
    ]


def labelled(series: str) -> str:
    for short, labels in TARGETS.items():
        series = re.sub(rf"{short}\b", labels, series)
    return series


def run(tmp_path: Path, situations: Mapping[str, tuple[Series, Mapping[str, int]]]) -> None:
    """All that has ever fired, until everything is over."""
    given, expected = [], []
    for name, (series, alerts) in situations.items():
        given += inputs(series, cluster=name)
        expected += [
            {"labels": f'{{cluster="{name}", alertname="{alert}"}}', "value": count}
            for alert, count in alerts.items()
        ]
    ever = 'max_over_time(ALERTS{alertstate="firing"}[1d])'
    expression = f"count by (cluster, alertname) ({ever})"
    asked = [{"expr": expression, "eval_time": f"{END}m", "exp_samples": expected}]
    promtool_test(tmp_path, given, asked)


def promtool_test(tmp_path: Path, given: list[dict[str, str]], asked: list[dict[str, Any]]) -> None:
    test = {"interval": "1m", "input_series": given, "promql_expr_test": asked}
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    code, output = promtool("test", "rules", str(path))
    assert code == 0, output
