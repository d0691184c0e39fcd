# SPDX-License-Identifier: Apache-2.0
"""Tests of the kernel level, once more in the guest: on pure cgroup v2, and on a kernel that cannot
attach a mount beneath another."""

from __future__ import annotations

import pytest

from tests.guest.guest import Guest, Outcome

_VIEWS = "tests/kernel/lxcfs_helper"
_ROOT = f"{_VIEWS}/test_compat_root.py"
_SELECTED = (
    "tests/kernel/test_holder.py::test_holder_and_clients_leave_the_cgroups_of_the_agent",
    "tests/kernel/gpu_plugin/test_accounting_cgroups.py",
    "tests/kernel/gpu_plugin/test_driver_limits.py",
    f"{_VIEWS}/test_cgroup2.py",
    f"{_VIEWS}/test_inject.py",
)
#: Whole agents, which take long to start where the processor is emulated: with --soak.
_LONG = (
    f"{_ROOT}::test_everybody_is_told_his_own",
    f"{_ROOT}::test_the_first_process_of_the_pid_namespace_stands_for_a_container_without_a_name",
    f"{_ROOT}::test_triggers_of_pressure",
    f"{_VIEWS}/test_live_views.py::test_pressure_is_the_containers_own_and_triggers_fire",
    f"{_VIEWS}/test_runc.py::test_containers_that_share_a_pid_namespace_see_each_its_own",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "selection" in metafunc.fixturenames:
        long = _LONG if metafunc.config.getoption("--soak") else ()
        metafunc.parametrize("selection", [*_SELECTED, *long])


@pytest.fixture(scope="module")
def outcomes(guest: Guest, request: pytest.FixtureRequest) -> tuple[Outcome, ...]:
    """Of those that are to be reported now, from one run: starting it takes longer than they do."""
    asked = [
        str(item.callspec.params["selection"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    guest.modprobe("fuse")
    return guest.pytest(*asked, timeout_s=600)


def test_in_the_guest(selection: str, outcomes: tuple[Outcome, ...]) -> None:
    file, _, name = selection.partition("::")
    within = file.removesuffix(".py").replace("/", ".") + "::" + name
    ours = [one for one in outcomes if one.name.startswith(within)]
    assert ours, "it did not run"
    bad = [one for one in ours if one.outcome != "passed"]
    assert not bad, "\n".join(f"{one.name} {one.outcome}\n{one.text}" for one in bad)
