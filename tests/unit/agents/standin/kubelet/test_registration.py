# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import threading

import grpc
import pytest

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.standin.kubelet import EventKind
from agents.standin.kubelet.registration import extended_resource_name
from tests.fakes.kubelet_bench import RESOURCE, Bench, pod
from tests.fakes.plugin import Failure, GarbageSocket, devices, register


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("nodeshare/gpu-memory", True),
        ("nvidia.com/mig-1g.10gb", True),
        ("a/B_c.d", True),
        ("gpu", False),
        ("", False),
        ("/gpu", False),
        ("nodeshare/", False),
        ("node_share/gpu", False),
        ("Nodeshare/gpu", False),
        ("nodeshare/gpu/memory", False),
        ("nodeshare/-gpu", False),
        ("nodeshare/" + "g" * 63, True),
        ("nodeshare/" + "g" * 64, False),
        ("kubernetes.io/gpu", False),
        ("device.kubernetes.io/gpu", False),
        ("requests.nodeshare/gpu", False),
        ("n" * 244 + "/gpu", True),
        ("n" * 245 + "/gpu", False),
    ],
)
def test_resource_names(name: str, valid: bool) -> None:
    assert extended_resource_name(name) is valid


def refused(bench: Bench, **changes: str) -> grpc.RpcError:
    request = {"version": "v1beta1", "endpoint": "fake.sock", "resource_name": RESOURCE}
    with pytest.raises(grpc.RpcError) as caught:
        register(bench.plugin_directory, pb.RegisterRequest(**{**request, **changes}))  # type: ignore[arg-type] # all are text
    return caught.value


def test_another_version_is_refused(bench: Bench) -> None:
    bench.start()
    assert unix_grpc.status(refused(bench, version="v1")) == (
        grpc.StatusCode.UNKNOWN,
        'requested API version "v1" is not supported by kubelet. Supported version is ["v1beta1"]',
    )


def test_an_invalid_name_is_refused(bench: Bench) -> None:
    kubelet = bench.start()
    error = refused(bench, resource_name="gpu")
    assert unix_grpc.status(error)[1] == 'the ResourceName "gpu" is invalid'
    assert [event.resource for event in kubelet.events.of(EventKind.REGISTRATION_REFUSED)] == [
        "gpu"
    ]


def test_the_plugin_is_called_back_inside_register(bench: Bench) -> None:
    """And the options that count are those of the call-back, not of the message."""
    bench.start()
    plugin = bench.plugin(
        register=False, listed=devices(2), options={"get_preferred_allocation_available": True}
    )
    called: list[bool] = []
    plugin.answer_options = lambda: called.append(True)
    register(
        bench.plugin_directory,
        pb.RegisterRequest(
            version="v1beta1",
            endpoint=plugin.name,
            resource_name=RESOURCE,
            options=pb.DevicePluginOptions(pre_start_required=True),
        ),
    )
    assert called == [True]
    bench.until(lambda: RESOURCE in bench.kubelet.resources() and bench.counts() == (2, 2))
    bench.kubelet.admit(pod())
    assert len(plugin.preferred) == 1
    assert plugin.pre_started == []


def test_a_plugin_that_does_not_listen_is_given_up(bench: Bench) -> None:
    kubelet = bench.start(dial_timeout_s=0.2)
    error = refused(bench)
    text = "failed to dial device plugin: context deadline exceeded"
    assert unix_grpc.status(error) == (grpc.StatusCode.UNKNOWN, text)
    assert RESOURCE not in kubelet.resources()


def test_a_plugin_that_hangs_in_the_call_back_is_given_up(bench: Bench) -> None:
    bench.start(dial_timeout_s=0.2)
    plugin = bench.plugin(register=False)
    plugin.answer_options = lambda: plugin.released.wait(10)
    with pytest.raises(grpc.RpcError, match="failed to dial device plugin"):
        plugin.register()


@pytest.mark.loud
def test_options_that_fail_are_told(bench: Bench) -> None:
    bench.start()
    plugin = bench.plugin(register=False)

    def fail() -> None:
        raise Failure("not today")

    plugin.answer_options = fail
    with pytest.raises(grpc.RpcError, match="failed to get device plugin options: rpc error: code"):
        plugin.register()


def test_garbage_behind_an_endpoint_is_given_up(bench: Bench) -> None:
    bench.start(dial_timeout_s=0.3)
    garbage = GarbageSocket(bench.plugin_directory / "garbage.sock")
    try:
        error = refused(bench, endpoint="garbage.sock")
    finally:
        garbage.close()
    assert "failed to dial device plugin" in unix_grpc.status(error)[1]
    bench.plugin(listed=devices(1))
    assert bench.counts() == (1, 1)


def test_garbage_on_the_kubelets_socket_harms_nobody(bench: Bench) -> None:
    bench.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(bench.plugin_directory / "kubelet.sock"))
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        while client.recv(4096):
            pass
    bench.plugin(listed=devices(1))
    assert bench.counts() == (1, 1)


def test_the_kubelet_calls_with_the_authority_localhost(bench: Bench) -> None:
    """As HTTP/2 bytes: plain, or in Huffman code (RFC 7541)."""
    bench.start(dial_timeout_s=0.5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bench.plugin_directory / "raw.sock"))
        listener.listen()
        listener.settimeout(5)
        caller = threading.Thread(target=refused, args=[bench], kwargs={"endpoint": "raw.sock"})
        caller.start()
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            connection.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")  # an empty SETTINGS frame
            received = b""
            while b"GetDevicePluginOptions" not in received and len(received) < 65536:
                part = connection.recv(4096)
                if not part:
                    break
                received += part
        caller.join(5)
    assert b"localhost" in received or bytes.fromhex("a0e41d139d09") in received
    assert b"raw.sock" not in received
