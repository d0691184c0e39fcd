# SPDX-License-Identifier: Apache-2.0
"""What must not be given out: what is gone, what pods hold in another form, what is sick."""

from __future__ import annotations

import dataclasses

import pytest

from agents.podresources import PodDevices
from gpu_plugin.allocation import Hardware
from gpu_plugin.availability import (
    Holdings,
    Remembered,
    foreign,
    keep,
    reach,
    still_held,
    without_sick,
)
from gpu_plugin.devices import LostGpu, Machine
from gpu_plugin.inventory import devices_of
from gpu_plugin.resources import Plan, plan
from tests.fakes.gpus import A100_SLICES, GIB, MIB, gpu, machine, mig_gpu, rule

NAME = "nodeshare/gpu-memory"
RULES = [rule()]
WHOLE = gpu(0, model="NVIDIA A100-SXM4-80GB", total=80 * GIB, mig_enabled=False)
CUT = mig_gpu(0, A100_SLICES)
SLICES = {each.gpu_instance: each.uuid for each in CUT.slices}


def look(
    now: Machine, before: Plan | None = None, held: Holdings | None = None, rules: object = None
) -> Plan:
    """A plan for the machine, after the other one."""
    wanted = RULES if rules is None else rules
    return keep(plan(wanted, now), before or Plan((), ()), now, {} if held is None else held)  # type: ignore[arg-type] # rules, as said


def states(found: Plan, name: str = NAME) -> dict[str, str | None]:
    """Why not, by device."""
    (resource,) = (each for each in found.resources if each.name == name)
    return {served.device.uuid: served.unhealthy for served in resource.devices}


# -- devices that go


def test_a_lost_gpu_stays_listed_as_unhealthy_and_isolates_only_itself() -> None:
    before = look(machine(gpu(0), gpu(1)))
    after = look(machine(gpu(1), lost=(LostGpu(0, gpu(0).uuid, "off the bus"),)), before)
    assert states(after) == {gpu(0).uuid: "lost: off the bus", gpu(1).uuid: None}
    assert [served.units for served in after.resources[0].devices] == [32, 32]
    assert look(machine(gpu(0), gpu(1)), after) == before


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        pytest.param({NAME: {gpu(0).uuid: 1}}, "gone, and still held by pods", id="held"),
        pytest.param({"nodeshare/other": {gpu(0).uuid: 1}}, None, id="held under another name"),
        pytest.param({}, None, id="free"),
    ],
)
def test_a_device_that_is_gone_stays_while_pods_hold_it(
    held: Holdings, expected: str | None
) -> None:
    before = look(machine(gpu(0), gpu(1)))
    found = states(look(machine(gpu(1)), before, held))
    assert found.get(gpu(0).uuid) == expected
    assert found[gpu(1).uuid] is None


def test_a_device_that_is_gone_stays_while_nobody_can_tell() -> None:
    before, now = look(machine(gpu(0), gpu(1))), machine(gpu(1))
    unknown = keep(plan(RULES, now), before, now, None)
    assert states(unknown)[gpu(0).uuid] == "gone, and whether pods hold it is unknown"


# -- what takes their place


def test_a_slice_made_anew_waits_for_the_pods_of_the_old_one() -> None:
    anew = dataclasses.replace(CUT.slices[3], uuid="MIG-anew")
    after = machine(dataclasses.replace(CUT, slices=(*CUT.slices[:3], anew)))
    before = look(machine(CUT))
    held = {NAME: {SLICES[10]: 4, SLICES[2]: 9}}
    for _ in range(3):  # however often it is looked at
        before = look(after, before, held)
        found = states(before)
        assert found[SLICES[10]] == "gone, and still held by pods"
        assert "stands in the place" in (found["MIG-anew"] or "")
        assert [found[SLICES[instance]] for instance in (2, 3, 9)] == [None] * 3
    found = states(look(after, before, {NAME: {SLICES[2]: 9}}))
    assert found["MIG-anew"] is None
    assert SLICES[10] not in found


@pytest.mark.parametrize(("first", "second"), [(WHOLE, CUT), (CUT, WHOLE)], ids=["cut", "uncut"])
def test_mig_switched_under_running_pods_sells_nothing_twice(first: object, second: object) -> None:
    one, other = machine(first), machine(second)  # type: ignore[arg-type] # GPUs
    old = [device.uuid for device in devices_of(one)]
    new = [device.uuid for device in devices_of(other)]
    before = look(one)
    during = look(other, before, {NAME: {old[-1]: 1}})
    assert all(states(during)[uuid] is not None for uuid in (old[-1], *new))
    assert states(look(other, during)) == dict.fromkeys(new)


def test_new_slices_elsewhere_on_the_gpu_need_room_beside_the_held_one() -> None:
    """Where an instance lies is not told: 3g is gone but held, and three 1g are new."""
    small = {11 + n: ("1g.10gb", 9728 * MIB) for n in range(3)}
    rest = {instance: A100_SLICES[instance] for instance in (3, 9, 10)}
    before = look(machine(CUT))
    after = machine(mig_gpu(0, rest | small))
    found = states(look(after, before, {NAME: {SLICES[2]: 1}}))
    assert [found[SLICES[instance]] for instance in rest] == [None] * 3, "they were there before"
    new = [found[each.uuid] for each in after.gpus[0].slices if each.gpu_instance in small]
    assert all(reason is not None and "stands in the place" in reason for reason in new)
    # One of them that fits beside everything cannot be where the held one was.
    alone = machine(mig_gpu(0, {9: A100_SLICES[9], 11: small[11]}))
    found = states(look(alone, look(machine(CUT)), {NAME: {SLICES[10]: 1}}))
    assert [found[each.uuid] for each in alone.gpus[0].slices] == [None, None]


# -- devices that are there, but held under other terms


def test_a_device_that_moved_to_another_rule_waits_for_its_pods() -> None:
    moved = [rule("nodeshare/new"), rule(select={"models": ["*H100*"]})]
    both = machine(gpu(0), gpu(1))
    held = {NAME: {gpu(0).uuid: 3}}
    after = look(both, look(both), held, moved)
    assert states(after, "nodeshare/new") == {
        gpu(0).uuid: "pods still hold it as nodeshare/gpu-memory",
        gpu(1).uuid: None,
    }
    assert states(after) == {gpu(0).uuid: "served as nodeshare/new now, and still held by pods"}
    # After a restart nothing is known but what pods hold.
    assert states(look(both, None, held, moved), "nodeshare/new")[gpu(0).uuid] is not None
    done = look(both, after, {}, moved)
    assert states(done, "nodeshare/new") == dict.fromkeys([gpu(0).uuid, gpu(1).uuid])
    assert states(done) == {}


def test_another_plugin_s_pods_keep_a_device_from_us() -> None:
    pods = (
        PodDevices("ada", "hub", {"main": {"nvidia.com/gpu": (gpu(0).uuid,)}}),
        PodDevices("emmy", "hub", {"main": {NAME: (f"{gpu(1).uuid}::5",), "other/x": ("odd::x",)}}),
    )
    held = foreign(pods, {NAME})
    assert held == {"nvidia.com/gpu": {gpu(0).uuid: 1}, "other/x": {"odd::x": 1}}
    found = states(look(machine(gpu(0), gpu(1)), None, held))
    assert found == {gpu(0).uuid: "pods still hold it as nvidia.com/gpu", gpu(1).uuid: None}


def test_units_beyond_those_that_a_device_has_now_keep_it_back() -> None:
    fewer = [rule(reserved="20GiB")]
    held = reach({NAME: {gpu(0).uuid: {0, 1, 20}, gpu(1).uuid: {11}}})
    found = states(look(machine(gpu(0), gpu(1)), None, held, fewer))
    assert found[gpu(0).uuid] == "pods hold units up to number 20, and it has only 12 now"
    assert found[gpu(1).uuid] is None


def test_size_classes_hold_the_devices_of_each_other_rightly() -> None:
    classes = [rule(blocks={"8g": "8GiB", "16g": "16GiB"})]
    found = look(machine(gpu(0)), None, {f"{NAME}-8g": {gpu(0).uuid: 2}}, classes)
    assert [states(found, name) for name in (f"{NAME}-8g", f"{NAME}-16g")] == [
        {gpu(0).uuid: None}
    ] * 2


# -- sick devices


def test_a_verdict_marks_all_units_and_hides_no_other_reason() -> None:
    lost = machine(gpu(1), lost=(LostGpu(0, gpu(0).uuid, "off the bus"),))
    found = look(lost, look(machine(gpu(0), gpu(1))))
    marked = without_sick(found, lambda device: f"sick {device.gpu_index}")
    assert states(marked) == {gpu(0).uuid: "lost: off the bus", gpu(1).uuid: "sick 1"}
    assert without_sick(found, lambda _: None) == found


# -- what former runs of the agent gave out


def after_restart(now: Machine, held: Holdings, remembered: Remembered) -> dict[str, str | None]:
    return states(keep(plan(RULES, now), Plan((), ()), now, held, remembered))


def test_after_a_restart_a_slice_in_the_place_of_a_held_one_still_waits() -> None:
    anew = dataclasses.replace(CUT.slices[3], uuid="MIG-anew")
    after = machine(dataclasses.replace(CUT, slices=(*CUT.slices[:3], anew)))
    remembered = {(NAME, SLICES[10]): Hardware(CUT.uuid, 10, 9728 * MIB, GIB)}
    found = after_restart(after, {NAME: {SLICES[10]: 1, SLICES[2]: 1, SLICES[9]: 3}}, remembered)
    assert found[SLICES[2]] is None is found[SLICES[9]], "held, so it was there before"
    assert "stands in the place" in (found["MIG-anew"] or "")
    assert found.pop(SLICES[10]) == "gone, and still held by pods", "it is listed again"
    assert after_restart(after, {}, remembered) == dict.fromkeys(found)


def test_after_a_restart_what_fits_beside_a_held_slice_goes_on() -> None:
    three = machine(dataclasses.replace(CUT, slices=CUT.slices[:3]))
    remembered = {(NAME, SLICES[10]): Hardware(CUT.uuid, 10, 9728 * MIB, GIB)}
    found = after_restart(three, {NAME: {SLICES[10]: 1}}, remembered)
    assert found.pop(SLICES[10]) is not None
    assert set(found.values()) == {None}


def test_units_of_another_size_wait_for_the_pods_that_have_the_old_ones() -> None:
    remembered = {(NAME, gpu(0).uuid): Hardware(gpu(0).uuid, None, 32 * GIB, 2 * GIB)}
    both = machine(gpu(0), gpu(1))
    found = after_restart(both, {NAME: {gpu(0).uuid: 2}}, remembered)
    assert found[gpu(0).uuid] == (
        "pods hold units of 2147483648 bytes of it, and one has 1073741824 now"
    )
    assert found[gpu(1).uuid] is None
    assert still_held(remembered, {NAME: {gpu(1).uuid: 1}}) == {}
    assert still_held(remembered, {NAME: {gpu(0).uuid: 1}}) == remembered
