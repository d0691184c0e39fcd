# SPDX-License-Identifier: Apache-2.0
"""The Registration service on kubelet.sock: checks a request, has the plugin called back.

Knows no endpoint: what a valid registration leads to comes in as a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc

from agents._pb.deviceplugin import v1beta1_pb2, v1beta1_pb2_grpc
from agents.standin.kubelet.endpoint import PluginError
from agents.standin.socket_server import SocketServer

VERSION = "v1beta1"
#: Calls at once; each waits for its call-back.
_WORKERS = 8
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PREFIX = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
#: A prefix must fit behind `requests.`, the form in which quotas name it.
_PREFIX_BYTES = 253 - len("requests.")


def extended_resource_name(name: str) -> bool:
    """Whether Kubernetes takes it for a device's resource: with a prefix that is not its own."""
    prefix, slash, rest = name.partition("/")
    return (
        slash == "/"
        and "kubernetes.io/" not in name
        and not prefix.startswith("requests.")
        and len(prefix) <= _PREFIX_BYTES
        and _PREFIX.fullmatch(prefix) is not None
        and _NAME.fullmatch(rest) is not None
    )


def refusal(version: str, resource: str) -> str | None:
    """Why a registration is refused, in the kubelet's words; None: it is not."""
    if version != VERSION:
        return (
            f'requested API version "{version}" is not supported by kubelet. '
            f'Supported version is ["{VERSION}"]'
        )
    if not extended_resource_name(resource):
        return f'the ResourceName "{resource}" is invalid'
    return None


class RegistrationServer(v1beta1_pb2_grpc.RegistrationServicer):
    """Serves kubelet.sock. `accept(resource, endpoint)` calls the plugin back, or raises
    PluginError; `refused(resource, text)` hears of every refusal."""

    def __init__(
        self,
        socket: Path,
        accept: Callable[[str, str], None],
        refused: Callable[[str, str], None],
    ) -> None:
        self._accept = accept
        self._refused = refused
        # A plugin's request is small; the kubelet's server has gRPC's default limit.
        add = partial(v1beta1_pb2_grpc.add_RegistrationServicer_to_server, self)
        server = SocketServer(socket, "registration", _WORKERS, add)
        self.start, self.stop = server.start, server.stop

    def Register(
        self, request: v1beta1_pb2.RegisterRequest, context: grpc.ServicerContext
    ) -> v1beta1_pb2.Empty:
        text = refusal(request.version, request.resource_name)
        if text is None:
            try:
                self._accept(request.resource_name, request.endpoint)
            except PluginError as error:
                text = error.message
        if text is not None:
            self._refused(request.resource_name, text)
            context.abort(grpc.StatusCode.UNKNOWN, text)
        return v1beta1_pb2.Empty()
