# SPDX-License-Identifier: Apache-2.0
"""The kubelet's connection to one plugin: its calls, with the kubelet's limits and error texts.

Knows no device table. Errors are worded as Go's gRPC does, because pods show them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2, v1beta1_pb2_grpc
from agents.errors import AgentError
from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.devices import HEALTHY, PluginDevice
from agents.standin.kubelet.events import OpenCalls

OnList = Callable[["Endpoint", Sequence[PluginDevice]], None]


class PluginError(AgentError):
    """A call to a plugin failed; the message is the kubelet's."""


class Endpoint:
    """One registered socket of one resource. The calls may come from any thread."""

    def __init__(self, resource: str, socket: Path, behaviour: Behaviour, calls: OpenCalls) -> None:
        self.resource = resource
        self.socket = socket
        self.options = v1beta1_pb2.DevicePluginOptions()
        self._behaviour = behaviour
        self._calls = calls
        self._stopped = threading.Event()
        self._channel = unix_grpc.channel(socket, receive_bytes=behaviour.receive_bytes)
        self._plugin = v1beta1_pb2_grpc.DevicePluginStub(self._channel)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def connect(self) -> None:
        """Dial, and ask for the options that count. Raises PluginError."""
        try:
            self.options = self._plugin.GetDevicePluginOptions(
                v1beta1_pb2.Empty(), wait_for_ready=True, timeout=self._behaviour.dial_timeout_s
            )
        except grpc.RpcError as error:
            if unix_grpc.status(error)[0] is grpc.StatusCode.DEADLINE_EXCEEDED:
                text = "failed to dial device plugin: context deadline exceeded"
                raise PluginError(text) from error
            text = f"failed to get device plugin options: {go_text(error)}"
            raise PluginError(text) from error

    def watch(self, on_list: OnList) -> grpc.RpcError | None:
        """Hand over every list until the stream ends; the error with which it did (None: the plugin
        closed it)."""
        try:
            for answer in self._plugin.ListAndWatch(v1beta1_pb2.Empty()):
                on_list(self, [_device(device) for device in answer.devices])
        except grpc.RpcError as error:
            return error
        except ValueError:
            # The channel was closed before the call began.
            return None
        return None

    def prefer(self, offered: Sequence[str], included: Sequence[str], size: int) -> Sequence[str]:
        """No time limit. Raises PluginError."""
        request = v1beta1_pb2.PreferredAllocationRequest(
            container_requests=[
                v1beta1_pb2.ContainerPreferredAllocationRequest(
                    available_deviceIDs=offered,
                    must_include_deviceIDs=included,
                    allocation_size=size,
                )
            ]
        )
        with self._calls.track("GetPreferredAllocation", self.resource):
            try:
                answer = self._plugin.GetPreferredAllocation(request)
            except (grpc.RpcError, ValueError) as error:
                text = f"device plugin GetPreferredAllocation rpc failed with err: {go_text(error)}"
                raise PluginError(text) from error
        return answer.container_responses[0].deviceIDs if answer.container_responses else ()

    def allocate(self, ids: Sequence[str]) -> v1beta1_pb2.ContainerAllocateResponse:
        """No time limit. Raises PluginError."""
        self._refuse_when_stopped()
        request = v1beta1_pb2.AllocateRequest(
            container_requests=[v1beta1_pb2.ContainerAllocateRequest(devices_ids=ids)]
        )
        with self._calls.track("Allocate", self.resource):
            try:
                answer = self._plugin.Allocate(request)
            except (grpc.RpcError, ValueError) as error:
                raise PluginError(go_text(error)) from error
        if not answer.container_responses:
            text = f"no containers return in allocation response {answer}"
            raise PluginError(text)
        return answer.container_responses[0]

    def pre_start(self, ids: Sequence[str]) -> None:
        """Raises PluginError, at the latest after the limit of 30 s."""
        self._refuse_when_stopped()
        request = v1beta1_pb2.PreStartContainerRequest(devices_ids=ids)
        with self._calls.track("PreStartContainer", self.resource):
            try:
                self._plugin.PreStartContainer(request, timeout=self._behaviour.pre_start_timeout_s)
            except (grpc.RpcError, ValueError) as error:
                text = f"device plugin PreStartContainer rpc failed with err: {go_text(error)}"
                raise PluginError(text) from error

    def stop(self) -> None:
        """End the stream and every call that is out."""
        self._stopped.set()
        self._channel.close()

    def _refuse_when_stopped(self) -> None:
        if self.stopped:
            raise PluginError(f"endpoint {self.resource} has been stopped")


def go_text(error: grpc.RpcError | ValueError) -> str:
    """As Go's gRPC prints it: `rpc error: code = Internal desc = …`."""
    if isinstance(error, ValueError):
        return "rpc error: code = Canceled desc = grpc: the client connection is closing"
    code, details = unix_grpc.status(error)
    # Go writes this one code with a single l.
    name = "Canceled" if code is grpc.StatusCode.CANCELLED else code.name.title().replace("_", "")
    return f"rpc error: code = {name} desc = {details}"


def _device(device: v1beta1_pb2.Device) -> PluginDevice:
    numa = tuple(node.ID for node in device.topology.nodes) if device.HasField("topology") else ()
    return PluginDevice(device.ID, device.health == HEALTHY, numa)
