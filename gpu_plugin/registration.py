# SPDX-License-Identifier: Apache-2.0
"""One call of the kubelet's Register, which can be broken off. Knows nothing of when to call it."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents._pb.deviceplugin.v1beta1_pb2_grpc import RegistrationStub
from agents.errors import Unavailable

API_VERSION = "v1beta1"
#: The kubelet dials back for at most 10 s inside Register.
_LIMIT_S = 15.0


class Registration:
    """Tells the kubelet that `resource` is served at `endpoint`, a file name beside its socket."""

    def __init__(self, kubelet: Path, endpoint: str, resource: str) -> None:
        self._kubelet = kubelet
        self._request = pb.RegisterRequest(
            version=API_VERSION,
            endpoint=endpoint,
            resource_name=resource,
            options=pb.DevicePluginOptions(get_preferred_allocation_available=True),
        )
        self._channel = unix_grpc.channel(kubelet)
        # A channel that is closed while a call is being prepared takes the process down with it.
        self._lock = threading.Lock()
        self._closed = False

    def run(self) -> None:
        """Blocks (bounded); raises Unavailable."""
        with self._lock:
            if self._closed:
                raise Unavailable("the registration was broken off")
            call = RegistrationStub(self._channel).Register.future(self._request, timeout=_LIMIT_S)
        try:
            call.result()
        except grpc.RpcError as error:
            what = "the kubelet's registration"
            raise unix_grpc.unavailable(what, self._kubelet, error) from error
        except grpc.FutureCancelledError as error:
            raise Unavailable("the registration was broken off") from error

    def cancel(self) -> None:
        """From another thread, or after `run`: also lets go of the connection."""
        with self._lock:
            self._closed = True
            self._channel.close()
