# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket as sockets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from agents import unix_grpc
from agents._pb.cri import v1_pb2, v1_pb2_grpc
from agents.errors import ConfigError, Unavailable


class Runtime(v1_pb2_grpc.RuntimeServiceServicer):
    """Answers Version, and nothing else."""

    def Version(
        self, request: v1_pb2.VersionRequest, context: grpc.ServicerContext
    ) -> v1_pb2.VersionResponse:
        return v1_pb2.VersionResponse(runtime_name="here")


def server(socket: Path) -> grpc.Server:
    made = grpc.server(ThreadPoolExecutor(1))
    v1_pb2_grpc.add_RuntimeServiceServicer_to_server(Runtime(), made)  # type: ignore[abstract] # one call is enough
    unix_grpc.listen(made, socket)
    made.start()
    return made


def name(channel: grpc.Channel) -> str:
    stub = v1_pb2_grpc.RuntimeServiceStub(channel)
    return stub.Version(v1_pb2.VersionRequest(), timeout=5).runtime_name


@pytest.mark.parametrize(
    "file_name", ["a.sock", "with blank.sock", "per%20cent.sock", "q?x#y.sock"]
)
def test_any_path_can_be_a_socket(tmp_path: Path, file_name: str) -> None:
    running = server(tmp_path / file_name)
    try:
        assert (tmp_path / file_name).is_socket()
        with unix_grpc.channel(tmp_path / file_name) as channel:
            assert name(channel) == "here"
    finally:
        running.stop(None).wait(2)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    socket = tmp_path / "a.sock"
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(socket))
    running = server(socket)
    running.stop(None).wait(2)


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("somebody's")
    with pytest.raises(Unavailable, match="is not a socket; move that file away"):
        server(path)
    assert path.read_text() == "somebody's"


def test_a_channel_finds_a_socket_that_was_made_anew(tmp_path: Path) -> None:
    socket = tmp_path / "a.sock"
    with unix_grpc.channel(socket) as channel:
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                name(channel)
            running = server(socket)
            try:
                stub = v1_pb2_grpc.RuntimeServiceStub(channel)
                answer = stub.Version(v1_pb2.VersionRequest(), timeout=10, wait_for_ready=True)
                assert answer.runtime_name == "here"
            finally:
                running.stop(None).wait(2)


def test_a_long_path_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than 107 bytes; use a shorter directory"):
        unix_grpc.channel(tmp_path / ("x" * 107))


def test_a_missing_directory_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        Unavailable, match=r"cannot listen on the socket .* look whether the directory"
    ):
        server(tmp_path / "none/a.sock")


def test_a_failed_call_in_words(tmp_path: Path) -> None:
    socket = tmp_path / "a.sock"
    with unix_grpc.channel(socket) as channel, pytest.raises(grpc.RpcError) as caught:
        name(channel)
    error = unix_grpc.unavailable("runtime", socket, caught.value)
    assert error.message == f"runtime at '{socket}' answered UNAVAILABLE: No such file or directory"
    assert error.remedy == (
        "look whether it runs, whether the socket is mounted, and whether the configuration (node) "
        "names the right one"
    )
