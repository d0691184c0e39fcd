# SPDX-License-Identifier: Apache-2.0
"""The exposition of one mount, and what people see of it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from agents.tables import lines
from fuse_mounter.commands import tables
from fuse_mounter.metrics import collector
from fuse_mounter.probe import Space
from fuse_mounter.record import MountStatus
from fuse_mounter.standing import Restarts, Standing
from fuse_mounter.states import State

STATUS = MountStatus(
    name="scratch",
    driver="passthrough",
    path="scratch",
    source="/srv/scratch",
    state=State.DEGRADED,
    cause="it answers with an error",
    since=1000.0,
    client_pid=42,
    recoveries={"hung": 2},
    last_gap_s=0.25,
    layers=1,
    waiting=3,
    probe_s=0.01,
    published_by="beneath",
    server="eos.example.org",
    last_ok=900.5,
    space=Space(1000, 600, 50, 40),
    aborts=2,
    aborted_requests=7,
    preflight_failures=1,
    transitions={"degraded": 3},
)


def exposed(*statuses: MountStatus) -> list[str]:
    registry = CollectorRegistry()
    standing = Standing(statuses, restarts=Restarts(1, 2, 4), breakers={"eos.example.org": 5})
    registry.register(collector(lambda: standing))
    return generate_latest(registry).decode().splitlines()


def test_every_state_and_cause_has_its_line() -> None:
    text = exposed(STATUS)
    for line in (
        'nodeshare_mount_state{mount="scratch",state="degraded"} 1.0',
        'nodeshare_mount_state{mount="scratch",state="published"} 0.0',
        'nodeshare_mount_info{driver="passthrough",mount="scratch",path="scratch"} 1.0',
        'nodeshare_mount_drained{mount="scratch"} 0.0',
        'nodeshare_mount_up{mount="scratch"} 1.0',
        'nodeshare_mount_layers{mount="scratch"} 1.0',
        'nodeshare_mount_recoveries_total{cause="hung",mount="scratch"} 2.0',
        'nodeshare_mount_recoveries_total{cause="client_ended",mount="scratch"} 0.0',
        'nodeshare_mount_gap_seconds{mount="scratch"} 0.25',
        'nodeshare_mount_probe_seconds{mount="scratch"} 0.01',
        'nodeshare_mount_fuse_waiting{mount="scratch"} 3.0',
        'nodeshare_mount_published{mount="scratch",way="beneath"} 1.0',
        'nodeshare_mount_published{mount="scratch",way="over"} 0.0',
        'nodeshare_mount_transitions_total{mount="scratch",state="degraded"} 3.0',
        'nodeshare_mount_last_ok_timestamp_seconds{mount="scratch"} 900.5',
        'nodeshare_mount_size_bytes{mount="scratch"} 1000.0',
        'nodeshare_mount_available_bytes{mount="scratch"} 600.0',
        'nodeshare_mount_inodes{mount="scratch"} 50.0',
        'nodeshare_mount_inodes_free{mount="scratch"} 40.0',
        'nodeshare_mount_aborts_total{mount="scratch"} 2.0',
        'nodeshare_mount_aborted_requests_total{mount="scratch"} 7.0',
        'nodeshare_mount_preflight_failures_total{driver="passthrough",mount="scratch"} 1.0',
        'nodeshare_mount_breaker_open{server="eos.example.org"} 1.0',
        "nodeshare_mount_starts_under_way 1.0",
        "nodeshare_mount_starts_waiting 2.0",
        'nodeshare_mount_collector_success{collector="state"} 1.0',
    ):
        assert line in text


def test_what_is_not_known_has_no_line() -> None:
    text = "\n".join(exposed())
    assert 'mount="' not in text


def test_a_person_sees_state_cause_and_client() -> None:
    document = {"root": "/m", "mounts": [STATUS.to_json()]}
    text = "\n".join(lines(tables(document)))
    for part in ("scratch", "degraded: it answers with an error", "42", "0.25 s", "below /m"):
        assert part in text


def test_without_mounts_it_says_so() -> None:
    assert "no mount is configured" in "\n".join(lines(tables({})))
