# SPDX-License-Identifier: Apache-2.0
"""What is said when a plan replaces another, and that nothing is said when none does."""

from __future__ import annotations

import pytest

from agents.logs import get_logger
from gpu_plugin.availability import keep
from gpu_plugin.changes import say, say_others, say_unheard
from gpu_plugin.devices import LostGpu
from gpu_plugin.resources import Plan, plan
from tests.fakes.gpus import gpu, machine, rule

RULES = [rule(), rule("nodeshare/h100", select={"models": ["*H100*"]})]
BOTH = plan(RULES, machine(gpu(0), gpu(1)))
LOST_MACHINE = machine(gpu(1), lost=(LostGpu(0, gpu(0).uuid, "fallen off the bus"),))
LOST = keep(plan(RULES, LOST_MACHINE), BOTH, LOST_MACHINE, {})


@pytest.mark.loud
@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(
            Plan((), ()),
            BOTH,
            ["resource problem", "device served", "device served"],
            id="the first look",
        ),
        pytest.param(BOTH, BOTH, [], id="nothing new"),
        pytest.param(BOTH, LOST, ["device unhealthy"], id="lost"),
        pytest.param(LOST, LOST, [], id="still lost"),
        pytest.param(LOST, BOTH, ["device healthy again"], id="back"),
        pytest.param(LOST, plan(RULES, machine(gpu(1))), ["device gone"], id="gone"),
    ],
)
def test_only_what_is_new_is_said(
    before: Plan, now: Plan, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    say(get_logger(), before, now)
    assert [record.getMessage() for record in caplog.records] == expected
    if expected and expected[0] != "resource problem":
        assert caplog.records[0].__dict__["device_id"] == gpu(0).uuid


@pytest.mark.loud
def test_problems_of_no_plan_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    of_plan = [problem.text for problem in BOTH.problems]
    assert of_plan
    lost = "GPU 2 is lost: insufficient permissions; run as privileged"
    say_others(get_logger(), [], [*of_plan, lost], BOTH)
    say_others(get_logger(), [*of_plan, lost], [*of_plan, lost], BOTH)
    assert [record.__dict__["error"] for record in caplog.records] == [lost]


@pytest.mark.loud
def test_a_gpu_that_nobody_listens_to_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    deaf = {"GPU-a": "events are not supported"}
    for before, now in (({}, deaf), (deaf, deaf), (deaf, {})):
        say_unheard(get_logger(), before, now)
    said = [(record.getMessage(), record.__dict__["device_id"]) for record in caplog.records]
    assert said == [("events not heard", "GPU-a"), ("events heard", "GPU-a")]
    assert caplog.records[0].__dict__["error"] == "events are not supported"
