# SPDX-License-Identifier: Apache-2.0
"""The calls by which a kubelet makes containers, to a real runtime. Knows no kubelet and no agent.

The messages live in a descriptor pool of their own: the agents' read-only ones have the same names.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import grpc
import grpc_tools  # type: ignore[import-untyped] # has no annotations
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

from agents import unix_grpc
from agents.errors import AgentError

_HERE = Path(__file__).parent
_CALL_LIMIT_S = 30.0
_ANSWERS = {
    "Version": "VersionResponse",
    "RunPodSandbox": "RunPodSandboxResponse",
    "CreateContainer": "ContainerId",
    "ContainerStatus": "ContainerStatusResponse",
    "ExecSync": "ExecSyncResponse",
}


def _messages() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        described = Path(directory) / "set"
        arguments = ["protoc", f"-I{_HERE}", f"--descriptor_set_out={described}", "runtime.proto"]
        assert protoc.main([*arguments, f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore] # partly annotated
    found = pool.FindFileByName("runtime.proto").message_types_by_name
    return {name: message_factory.GetMessageClass(one) for name, one in found.items()}


# Any: classes that exist only at run time.
MESSAGES = _messages()


class Cri:
    """One connection. Every call raises AgentError with the runtime's own words."""

    def __init__(self, socket: Path) -> None:
        self._channel = unix_grpc.channel(socket)

    def call(self, name: str, request: Any) -> Any:
        """`request`: one of `MESSAGES`."""
        answer = MESSAGES[_ANSWERS.get(name, "Empty")]
        ask = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return ask(request, timeout=_CALL_LIMIT_S)
        except grpc.RpcError as error:
            raise AgentError(f"{name}: {error}") from error

    def close(self) -> None:
        self._channel.close()
