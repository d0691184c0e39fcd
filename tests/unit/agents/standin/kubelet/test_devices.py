# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from agents.standin.kubelet.devices import DeviceTable, PluginDevice

NAME = "nodeshare/test"


def devices(*healthy: bool) -> list[PluginDevice]:
    return [PluginDevice(f"d{n}", health) for n, health in enumerate(healthy)]


def connected(*healthy: bool) -> DeviceTable:
    table = DeviceTable()
    table.connect(NAME)
    table.replace(NAME, devices(*healthy))
    return table


def test_unhealthy_devices_are_capacity_but_not_allocatable() -> None:
    table = connected(True, False, True)
    assert table.count(NAME) == (3, 2)
    assert table.healthy(NAME) == {"d0", "d2"}


def test_a_list_replaces_the_former_one() -> None:
    table = connected(True, True, True, True)
    table.replace(NAME, devices(True))
    assert table.count(NAME) == (1, 1)


def test_an_id_listed_healthy_and_unhealthy_counts_in_both() -> None:
    table = connected()
    table.replace(NAME, [PluginDevice("d0", True), PluginDevice("d0", False)])
    assert table.count(NAME) == (2, 1)


def test_a_lost_plugin_keeps_its_capacity_for_the_grace_and_is_then_shown_as_zero() -> None:
    table = connected(True, True)
    table.lose(NAME, now=100.0)
    assert table.count(NAME) == (2, 0)
    assert table.expire(now=400.0, grace_s=300.0) == []
    assert table.expire(now=400.1, grace_s=300.0) == [NAME]
    assert table.count(NAME) == (0, 0)
    assert table.names() == (NAME,)
    assert not table.registered(NAME)
    assert table.expire(now=900.0, grace_s=300.0) == []


def test_a_plugin_that_comes_back_in_time_is_not_forgotten() -> None:
    table = connected(True)
    table.lose(NAME, now=100.0)
    table.connect(NAME)
    assert table.expire(now=1000.0, grace_s=300.0) == []
    assert table.count(NAME) == (1, 0)


def test_after_a_restart_a_known_resource_is_there_with_nothing() -> None:
    table = DeviceTable()
    table.restore([NAME], now=0.0)
    assert table.count(NAME) == (0, 0)
    assert table.registered(NAME)
    assert not table.connected(NAME)
