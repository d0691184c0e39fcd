# SPDX-License-Identifier: Apache-2.0
"""The wire formats: the committed code is what the .proto files say, and that is the kubelet's."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor import FileDescriptor

from agents._pb.cri import v1_pb2 as cri
from agents._pb.deviceplugin import v1beta1_pb2 as deviceplugin
from agents._pb.podresources import v1_pb2 as podresources

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.processes
def test_the_committed_code_is_up_to_date(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check"]) == 0
    package = tmp_path / "agents/_pb"
    shutil.copytree(ROOT / "agents/_pb", package)
    with (package / "cri/v1_pb2.pyi").open("a") as file:
        file.write("# edited by hand\n")
    (package / "cri/v2_pb2.py").touch()
    (package / "podresources/v1_pb2.py").unlink()
    assert generate.main(["--check", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "agents/_pb/cri/v1_pb2.pyi: differs",
        "agents/_pb/cri/v2_pb2.py: left over",
        "agents/_pb/podresources/v1_pb2.py: missing",
        "generated code is out of date; run: python proto/generate.py",
    ]
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert generate.main(["--check", "--root", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("file", "package", "services"),
    [
        (deviceplugin.DESCRIPTOR, "v1beta1", {"Registration", "DevicePlugin"}),
        (podresources.DESCRIPTOR, "v1", {"PodResourcesLister"}),
        (cri.DESCRIPTOR, "runtime.v1", {"RuntimeService"}),
    ],
)
def test_names_on_the_wire(file: FileDescriptor, package: str, services: set[str]) -> None:
    assert file.package == package
    assert set(file.services_by_name) == services


def test_the_runtime_is_only_read() -> None:
    (service,) = cri.DESCRIPTOR.services_by_name.values()
    assert {method.name for method in service.methods} == {
        "Version",
        "ListPodSandbox",
        "ListContainers",
        "ContainerStatus",
        "GetContainerEvents",
    }


@pytest.mark.parametrize(("health", "size"), [("Healthy", 60), ("Unhealthy", 62)])
def test_the_bytes_of_a_device(health: str, size: int) -> None:
    """As measured: 13 (or 15) bytes and the id."""
    device = deviceplugin.Device(ID="x" * 47, health=health)
    assert deviceplugin.ListAndWatchResponse(devices=[device]).ByteSize() == size


def test_field_numbers_by_their_bytes() -> None:
    """Messages that were written with the kubelet's numbers by hand are read."""
    allocate = deviceplugin.ContainerAllocateResponse.FromString(
        b"\x0a\x06\x0a\x01A\x12\x01b"  # 1: envs {A: b}
        b"\x12\x08\x0a\x02/c\x12\x02/h"  # 2: mounts, container and host path
        b"\x1a\x05\x1a\x03rwm"  # 3: devices, permissions
        b"\x2a\x03\x0a\x01n"  # 5: CDI name
    )
    assert dict(allocate.envs) == {"A": "b"}
    assert allocate.mounts[0].container_path == "/c"
    assert allocate.mounts[0].host_path == "/h"
    assert allocate.devices[0].permissions == "rwm"
    assert allocate.cdi_devices[0].name == "n"
    status = cri.ContainerStatus.FromString(b"\x0a\x01i\x18\x02\x38\x89\x01\x5a\x01m")
    assert (status.id, status.state, status.exit_code, status.message) == (
        "i",
        cri.CONTAINER_EXITED,
        137,
        "m",
    )
    claim = podresources.DynamicResource.FromString(b"\x12\x01c\x1a\x01n")
    assert (claim.claim_name, claim.claim_namespace) == ("c", "n")


@pytest.mark.parametrize(
    ("library", "file", "pattern"),
    [
        ("grpcio", "v1_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
        ("protobuf", "v1_pb2.py", r"Protobuf Python Version: ([\d.]+)"),
    ],
)
def test_the_required_libraries_are_not_older_than_the_generator(
    library: str, file: str, pattern: str
) -> None:
    """Generated code refuses to load with an older one."""
    generated = re.search(pattern, (ROOT / "agents/_pb/cri" / file).read_text())
    assert generated is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{library}>={generated[1]}" in project["dependencies"]
