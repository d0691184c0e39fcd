# SPDX-License-Identifier: Apache-2.0
"""Pods that the kubelet did not take, and pods that only wait."""

from __future__ import annotations

from typing import Any

import pytest
from nodeshare_hub import rejected

from gpu_plugin import rejection
from gpu_plugin.placement import Refused

ASKED = "asked 20 of a/b, largest free block 15 on GPU-1 (30 free on 2 devices)"


def failed(reason: str, message: str | None) -> dict[str, Any]:
    return {"status": {"phase": "Failed", "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (rejection.when_preferring("a/b", Refused("fragmented", ASKED)), f"({ASKED})"),
        (rejection.when_allocating("a/b", Refused("fragmented", ASKED)), f"({ASKED})"),
        (
            rejection.when_short("a/b", 16, 9),
            "(requested number of devices unavailable for a/b. Requested: 16, Available: 9)",
        ),
    ],
)
def test_words_are_told_without_their_wrapping(message: str, words: str) -> None:
    """Which are those of the plugin, as the kubelet gives them to a pod."""
    told = rejected.told(failed(rejection.REASON, message))
    assert told is not None
    assert words in told
    assert told.endswith("Choose less, or try again later")


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("UnexpectedAdmissionError", "no such device", "did not take your server: no such device"),
        ("OutOfcpu", "Node didn't have enough resource: cpu", "enough resource: cpu"),
        ("OutOfnodeshare/gpu-memory", None, "OutOfnodeshare/gpu-memory"),
    ],
)
def test_other_rejections_are_told_as_they_are(
    reason: str, message: str | None, words: str
) -> None:
    assert words in (rejected.told(failed(reason, message)) or "")


@pytest.mark.parametrize(
    "pod",
    [
        {},
        {"status": {"phase": "Pending"}},
        {"status": {"phase": "Running"}},
        failed("Evicted", "low on memory"),
        failed("", "the program ended"),
    ],
)
def test_what_runs_waits_or_ended_by_itself_was_not_rejected(pod: dict[str, Any]) -> None:
    assert rejected.told(pod) is None


@pytest.mark.parametrize(
    ("status", "taken"),
    [
        ({"phase": "Pending"}, False),
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, False),
        ({"phase": "Pending", "containerStatuses": [{"ready": False}]}, True),
        ({"phase": "Pending", "initContainerStatuses": [{"ready": False}]}, True),
        ({"phase": "Running"}, True),
    ],
)
def test_when_nobody_has_to_look_any_more(status: dict[str, Any], taken: bool) -> None:
    assert rejected.taken({"status": status}) is taken
