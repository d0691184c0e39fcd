# SPDX-License-Identifier: Apache-2.0
"""Which devices get no new work, why, and when they may again."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpu_plugin.devices import LostGpu, Machine, XidEvent
from gpu_plugin.health import Health, xid_text
from gpu_plugin.health_config import HealthConfig
from gpu_plugin.inventory import Device, devices_of
from gpu_plugin.xids import KNOWN, XidClass
from tests.fakes.gpus import A100_SLICES, gpu, machine, mig_gpu

V100, OTHER, A100 = gpu(0), gpu(1), mig_gpu(2, A100_SLICES)
ALL = machine(V100, OTHER, A100)
DEVICES = devices_of(ALL)
SLICES = [device for device in DEVICES if device.gpu_uuid == A100.uuid]


def in_session(number: int, *gpus: object, lost: tuple[LostGpu, ...] = ()) -> Machine:
    found = machine(*(gpus or ALL.gpus), lost=lost)  # type: ignore[arg-type] # GPUs, all of them
    return Machine(found.driver_version, found.gpus, found.lost, session=number)


def sick(health: Health) -> list[Device]:
    return [device for device in DEVICES if health.verdict(device) is not None]


def probe(health: Health, times: int = 1, problems: Mapping[Device, str] | None = None) -> None:
    """Every GPU is asked, so often; `problems` are those of devices that do not answer."""
    for _ in range(times):
        for uuid in dict.fromkeys(device.gpu_uuid for device in DEVICES):
            mine = [device for device in DEVICES if device.gpu_uuid == uuid]
            health.probed({device: (problems or {}).get(device) for device in mine})


def test_the_fault_of_a_program_flips_nothing() -> None:
    health = Health(HealthConfig())
    for code in (13, 31, 43, 45, 68, 109):
        assert health.heard(XidEvent(V100.uuid, code, session=1)) is XidClass.APPLICATION
    assert sick(health) == []
    assert not health.wants_reopening


@pytest.mark.parametrize("code", [79, 94, 4711])
def test_an_error_of_a_gpu_flips_all_its_devices_and_no_other(code: int) -> None:
    health = Health(HealthConfig())
    health.heard(XidEvent(A100.uuid, code, session=1))
    assert sick(health) == SLICES
    assert health.verdict(SLICES[0]) == xid_text(code)


def test_an_error_of_a_slice_flips_that_slice() -> None:
    health = Health(HealthConfig())
    health.heard(XidEvent(A100.uuid, 94, gpu_instance=9, compute_instance=0, session=1))
    assert [device.gpu_instance for device in sick(health)] == [9]
    health.heard(XidEvent(A100.uuid, 94, gpu_instance=3, session=1))
    assert [device.gpu_instance for device in sick(health)] == [3, 9]


def test_a_recoverable_error_is_over_after_clean_probes_in_a_row() -> None:
    health = Health(HealthConfig(recover_after=3))
    health.heard(XidEvent(V100.uuid, 94, session=1))
    probe(health, 2)
    assert health.verdict(DEVICES[0]) == "XID 94 (contained memory error); recovering"
    probe(health, problems={DEVICES[0]: "no answer"})
    assert health.verdict(DEVICES[0]) == "XID 94 (contained memory error)"
    probe(health, 2)
    health.heard(XidEvent(V100.uuid, 94, session=1))  # again: from the start
    probe(health, 2)
    assert sick(health) == [DEVICES[0]]
    probe(health, 1)
    assert sick(health) == []


def test_a_fatal_error_needs_a_new_session_that_finds_the_gpu() -> None:
    health = Health(HealthConfig(recover_after=2))
    health.heard(XidEvent(V100.uuid, 79, session=5))
    assert health.wants_reopening
    health.looked(in_session(5))
    probe(health, 10)
    assert sick(health) == [DEVICES[0]], "the session in which it fell sick cannot tell"
    health.looked(in_session(6, OTHER, A100, lost=(LostGpu(0, V100.uuid, "GPU is lost"),)))
    probe(health, 10)
    assert sick(health) == [DEVICES[0]], "it was not found"
    health.looked(in_session(7))
    assert not health.wants_reopening
    probe(health, 1)
    assert sick(health) == [DEVICES[0]]
    probe(health, 1)
    assert sick(health) == []


def test_an_error_after_a_reopening_is_not_over_with_the_first_look_at_it() -> None:
    """It was heard in the new session before anybody looked at the machine in it."""
    health = Health(HealthConfig(recover_after=1))
    health.looked(in_session(5))
    health.heard(XidEvent(V100.uuid, 79, session=6))
    health.looked(in_session(6))
    probe(health, 2)
    assert sick(health) == [DEVICES[0]]
    assert health.wants_reopening
    health.looked(in_session(7))
    probe(health, 1)
    assert sick(health) == []


def test_a_lost_gpu_stays_so_until_it_is_found() -> None:
    health = Health(HealthConfig(recover_after=1))
    lost = in_session(
        1, OTHER, A100, lost=(LostGpu(0, V100.uuid, "GPU is lost"), LostGpu(5, None, ""))
    )
    for _ in range(3):
        health.looked(lost)
        probe(health)
        assert health.verdict(DEVICES[0]) == "lost: GPU is lost"
        assert health.wants_reopening
    health.looked(in_session(1))
    assert not health.wants_reopening
    probe(health)
    assert sick(health) == []


def test_what_the_driver_demands_is_believed_until_it_is_content() -> None:
    health = Health(HealthConfig(recover_after=1))
    asking = in_session(1, gpu(0, demand="a reset of the GPU"), OTHER, A100)
    for _ in range(3):
        health.looked(asking)
        probe(health, 5)
        assert health.verdict(DEVICES[0]) == "the driver asks for a reset of the GPU"
    assert not health.wants_reopening, "it tells in this session too"
    health.looked(in_session(1))
    probe(health)
    assert sick(health) == []


def test_demands_need_not_be_heeded() -> None:
    health = Health(HealthConfig(heed_demands=False))
    health.looked(in_session(1, gpu(0, demand="a reset of the GPU"), OTHER, A100))
    assert sick(health) == []


def test_a_device_that_does_not_answer_is_sick_alone() -> None:
    health = Health(HealthConfig(recover_after=1))
    probe(health, problems={SLICES[1]: "no answer"})
    assert sick(health) == [SLICES[1]]
    assert health.verdict(SLICES[1]) == "does not answer: no answer"
    probe(health)
    assert sick(health) == []


def test_a_slice_that_is_made_anew_is_not_sick() -> None:
    health = Health(HealthConfig())
    health.heard(XidEvent(A100.uuid, 95, gpu_instance=9, compute_instance=0, session=1))
    health.looked(in_session(1, V100, OTHER, mig_gpu(2, {2: A100_SLICES[2]})))
    health.looked(in_session(1))
    assert sick(health) == []
    assert not health.wants_reopening


def test_the_configuration_may_class_otherwise() -> None:
    config = HealthConfig.model_validate(
        {"xids": {31: "fatal", 79: "application"}, "other_xids": "application"}
    )
    assert [config.class_of(code) for code in (31, 79, 4711, 94)] == [
        XidClass.FATAL,
        XidClass.APPLICATION,
        XidClass.APPLICATION,
        XidClass.RECOVERABLE,
    ]
    assert [config.label(code) for code in (31, 79, 4711)] == ["31", "79", "other"]


@pytest.mark.parametrize(
    "written",
    [
        {"xids": {0: "fatal"}},
        {"xids": {"bus": "fatal"}},
        {"xids": {79: "deadly"}},
        {"other_xids": "deadly"},
        {"recover_after": 0},
        {"ignore": [79]},
    ],
)
def test_bad_settings_are_refused(written: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HealthConfig.model_validate(written)


def test_every_code_is_in_one_class() -> None:
    assert KNOWN[79].kind is XidClass.FATAL
    assert KNOWN[31].kind is XidClass.APPLICATION
    assert all(0 < code < 1000 and found.text for code, found in KNOWN.items())


_HAPPENS = st.one_of(
    st.tuples(
        st.just("xid"),
        st.sampled_from([V100.uuid, A100.uuid]),
        st.sampled_from([31, 79, 94, 999]),
        st.sampled_from([None, 9, 3]),
    ),
    st.tuples(st.just("look"), st.sets(st.sampled_from([0, 1, 2])), st.booleans()),
    st.tuples(st.just("probe"), st.sets(st.sampled_from(range(len(DEVICES))))),
)


@given(st.lists(_HAPPENS, max_size=30), st.integers(1, 4))
def test_whatever_happened_a_machine_that_is_well_becomes_healthy(
    happens: list[tuple[object, ...]], recover_after: int
) -> None:
    health, session = Health(HealthConfig(recover_after=recover_after)), 1
    for event in happens:
        match event:
            case ("xid", str(uuid), int(code), instance):
                whole = uuid == V100.uuid or instance is None
                place = None if whole else int(str(instance))
                health.heard(XidEvent(uuid, code, place, session=session))
            case ("look", set(lost), bool(reopened)):
                session += reopened
                there = [each for each in ALL.gpus if each.index not in lost]
                gone = tuple(LostGpu(i, ALL.gpus[i].uuid, "lost") for i in sorted(lost))
                health.looked(Machine("580", tuple(there), gone, session=session))
            case ("probe", set(failing)):
                for uuid in (V100.uuid, OTHER.uuid, A100.uuid):
                    health.probed(
                        {
                            device: "no" if place in failing else None
                            for place, device in enumerate(DEVICES)
                            if device.gpu_uuid == uuid
                        }
                    )
        assert OTHER.uuid not in {d.uuid for d in sick(health)} or any(
            event[0] in ("look", "probe") for event in happens
        ), "an error of another GPU is not its own"
    health.looked(in_session(session + 1))
    probe(health, recover_after)
    assert sick(health) == []
    assert not health.wants_reopening
