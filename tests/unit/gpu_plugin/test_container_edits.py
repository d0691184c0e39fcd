# SPDX-License-Identifier: Apache-2.0
"""What a container gets with its units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from agents.errors import ConfigError
from gpu_plugin import units
from gpu_plugin.allocation import Share, SharedDevice, share_of
from gpu_plugin.container_config import ContainerConfig, resource_prefix
from gpu_plugin.container_edits import ContainerEdits, DeviceNode, Mount, edits
from gpu_plugin.hints import pool_fraction
from gpu_plugin.placement import check
from gpu_plugin.resources import Resource, plan
from tests.fakes.gpus import A100_SLICES, GIB, MIB, gpu, machine, mig_gpu, rule

DIRECTORY = Path("/state/gpu/containers/x.1")
A, B = gpu(0).uuid, gpu(1).uuid


def offered(simulated: bool = False, **fields: Any) -> Resource:
    found = machine(gpu(0), gpu(1), mig_gpu(2, A100_SLICES), simulated=simulated)
    return plan([rule(**fields)], found).resources[0]


def share(*ids: str, simulated: bool = False, **fields: Any) -> Share:
    resource = offered(simulated, **fields)
    return share_of(resource, check(resource, ids))


def given(
    share: Share, nodes: tuple[str, ...] = (), *, limits_memory: bool = True, **config: Any
) -> ContainerEdits:
    checked = ContainerConfig.model_validate(config)
    return edits(share, nodes, DIRECTORY, checked, limits_memory=limits_memory)


QUARTER = [f"{A}::{number}" for number in range(8)]


def test_everything_that_a_share_of_a_gpu_brings_by_default() -> None:
    found = given(share(*QUARTER), ("nvidia0", "nvidiactl"))
    assert found.env == {
        "NVIDIA_VISIBLE_DEVICES": A,
        "NODESHARE_GPU_UNITS": "8",
        "NODESHARE_GPU_MEMORY_BYTES": str(8 * GIB),
        "NODESHARE_RESOURCE_GPU_MEMORY_DEVICES": A,
        "NODESHARE_RESOURCE_GPU_MEMORY_UNITS": "8",
        "NODESHARE_RESOURCE_GPU_MEMORY_MEMORY_BYTES": str(8 * GIB),
        "NVIDIA_GPU_MEMORY_REQUEST": "8192",
        "NVIDIA_GPU_MEMORY_LIMIT": "8192",
        "NODESHARE_GPU_MEMORY_FRACTION": "0.2343",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2343",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    assert found.devices == (DeviceNode("/dev/nvidia0"), DeviceNode("/dev/nvidiactl"))
    assert found.mounts == (
        Mount(DIRECTORY, "/run/nodeshare/allocations/nodeshare_gpu-memory"),
        Mount(DIRECTORY, "/run/nodeshare/gpu"),
    )
    assert found.cdi_devices == ()


def test_twenty_thousand_units_take_no_more_room_than_one() -> None:
    resource = offered(chunk="1MiB", select={"mig": "none"})
    ids = list(units.unit_ids(A, 20_000))
    env = given(share_of(resource, check(resource, ids))).env
    assert env["NODESHARE_GPU_UNITS"] == "20000"
    assert sum(len(key) + len(value) for key, value in env.items()) < 1000


def test_a_whole_slice_has_its_limit_from_the_hardware() -> None:
    fields: dict[str, Any] = {"exclusive": True, "select": {"mig": ["1g.10gb"]}}
    uuid = offered(**fields).devices[0].device.uuid
    whole = share(f"{uuid}::0", **fields)
    env = given(whole).env
    assert env["NVIDIA_VISIBLE_DEVICES"] == uuid
    assert env["NODESHARE_GPU_MEMORY_BYTES"] == str(9728 * MIB)
    assert not {key for key in env if key.startswith(("NVIDIA_GPU", "XLA", "TF"))}
    assert given(whole, hints=True).env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9473"


def test_a_part_of_a_slice_has_hints_but_no_limit_that_the_driver_cannot_set() -> None:
    fields: dict[str, Any] = {"select": {"mig": ["3g.40gb"]}}
    uuid = offered(**fields).devices[0].device.uuid
    env = given(share(f"{uuid}::0", **fields)).env
    assert "NVIDIA_GPU_MEMORY_LIMIT" not in env
    assert env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.0191"


@pytest.mark.parametrize(
    ("wanted", "can", "told"),
    [("auto", True, True), ("auto", False, False), (True, False, True), (False, True, False)],
)
def test_the_toolkit_is_told_a_limit_where_it_can_be_set(
    wanted: object, can: bool, told: bool
) -> None:
    """Elsewhere its hook fails, and so does the container."""
    env = given(share(*QUARTER), limits_memory=can, toolkit_limit=wanted).env
    assert ("NVIDIA_GPU_MEMORY_LIMIT" in env) is told
    assert ("NVIDIA_GPU_MEMORY_REQUEST" in env) is told


def test_several_devices_when_a_request_may_span() -> None:
    equal = share(f"{B}::0", f"{A}::0", split=True)
    env = given(equal, device_list="mounts").env
    assert env["NODESHARE_RESOURCE_GPU_MEMORY_DEVICES"] == f"{A},{B}"
    # Of each GPU, as the toolkit means it.
    assert env["NVIDIA_GPU_MEMORY_LIMIT"] == "1024"
    unequal = share(f"{B}::0", f"{B}::1", f"{A}::0", split=True)
    assert "NVIDIA_GPU_MEMORY_LIMIT" not in given(unequal).env
    assert given(unequal).env["NVIDIA_VISIBLE_DEVICES"] == f"{A},{B}"


@pytest.mark.parametrize(
    ("told", "visible"),
    [
        ("env", A),
        ("mounts", "/var/run/nvidia-container-devices"),
        ("cdi", "void"),
        ("none", "void"),
    ],
)
def test_the_runtime_is_told_in_one_way_and_an_image_never_decides(told: str, visible: str) -> None:
    found = given(share(f"{A}::0"), device_list=told)
    assert found.env["NVIDIA_VISIBLE_DEVICES"] == visible
    assert found.cdi_devices == ((f"nvidia.com/gpu={A}",) if told == "cdi" else ())
    listed = Mount(Path("/dev/null"), f"/var/run/nvidia-container-devices/{A}")
    assert (listed in found.mounts) == (told == "mounts")


def test_a_simulated_device_has_no_cdi_name() -> None:
    found = given(share(f"{A}::0", simulated=True), device_list="cdi", cdi_kind="example.org/gpu")
    assert found.cdi_devices == ()


def test_everything_optional_can_be_off() -> None:
    found = given(
        share(f"{A}::0"), ("nvidia0",), device_nodes=False, toolkit_limit=False, hints=False
    )
    assert found.devices == ()
    assert {key.partition("_")[0] for key in found.env} == {"NVIDIA", "NODESHARE"}
    assert "NVIDIA_GPU_MEMORY_LIMIT" not in found.env
    assert "NODESHARE_GPU_MEMORY_FRACTION" not in found.env


def test_pytorch_and_metagpu_on_demand() -> None:
    env = given(share(*QUARTER), frameworks=["pytorch"], aliases=["metagpu"]).env
    assert env["PYTORCH_CUDA_ALLOC_CONF"] == "per_process_memory_fraction:0.2343"
    assert env["METAGPU_MAX_MEM"] == "8192"
    assert not {key for key in env if key.startswith(("XLA", "TF", "MG_", "CNVRG"))}


def test_extra_mounts() -> None:
    tool = {"host_path": "/opt/tool", "container_path": "/opt/tool/"}
    cache = {"host_path": "/srv/cache", "container_path": "/cache", "read_only": False}
    assert given(share(f"{A}::0"), mounts=[tool, cache]).mounts[2:] == (
        Mount(Path("/opt/tool"), "/opt/tool"),
        Mount(Path("/srv/cache"), "/cache", read_only=False),
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hints": "on"}, "not auto, true or false"),
        ({"hints": 1}, "not auto, true or false"),
        ({"device_list": "envvar"}, "'env', 'mounts', 'cdi' or 'none'"),
        ({"device_list": "cdi", "cdi_kind": "nvidia.com"}, "not vendor/class"),
        ({"cdi_kind": "nvidia.com/gpu"}, "with device_list: cdi only"),
        ({"frameworks": ["keras"]}, "'jax', 'tensorflow' or 'pytorch'"),
        ({"mounts": [{"host_path": "/a", "container_path": "b"}]}, "not an absolute path"),
        ({"mounts": [{"host_path": "/a", "container_path": "/"}]}, "not an absolute path"),
        ({"mounts": [{"host_path": "a", "container_path": "/b"}]}, "not an absolute path"),
        (
            {"mounts": [{"host_path": "/a", "container_path": "/run/nodeshare/gpu"}]},
            "not to be mounted over",
        ),
        (
            {"mounts": [{"host_path": f"/{n}", "container_path": "/b"} for n in (1, 2)]},
            "two of them go to '/b'",
        ),
    ],
)
def test_what_is_wrong_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        ContainerConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("resource", "prefix"),
    [
        ("nodeshare/gpu-memory", "NODESHARE_RESOURCE_GPU_MEMORY"),
        ("example.org/mig-1g.10gb", "NODESHARE_RESOURCE_MIG_1G_10GB"),
    ],
)
def test_names_of_its_own_for_each_resource(resource: str, prefix: str) -> None:
    assert resource_prefix(resource) == prefix


def device(memory: int, usable: int | None) -> SharedDevice:
    return SharedDevice("GPU-1", "V100", None, (0,), memory, usable)


@for_all(st.integers(MIB, 200 * GIB), st.integers(GIB, 200 * GIB))
def test_the_pool_and_a_context_fit_into_the_share(memory: int, usable: int) -> None:
    part = pool_fraction([device(memory, usable)])
    assert part is not None
    assert 0 <= part < 1
    assert part * usable + min(512 * MIB, memory // 4) <= memory


def test_of_several_devices_the_least_fraction_and_none_when_unknown() -> None:
    large, small = device(8 * GIB, 80 * GIB), device(8 * GIB, 16 * GIB)
    assert pool_fraction([large, small]) == pool_fraction([large])
    assert pool_fraction([large, device(GIB, None)]) is None
    assert pool_fraction([]) is None
