# SPDX-License-Identifier: Apache-2.0
"""A plugin's life on real sockets: served before it registers, back after each kubelet restart."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

from agents import unix_grpc
from agents._pb.deviceplugin import v1beta1_pb2 as pb
from agents.published import Published
from agents.watch import watching
from gpu_plugin import server as server_module
from gpu_plugin.endpoint import identify_socket, socket_path
from gpu_plugin.identity import Allocations
from gpu_plugin.metrics import Counters
from gpu_plugin.resources import Resource, plan
from gpu_plugin.server import PluginServer
from gpu_plugin.service import DevicePlugin, Streams
from tests.fakes.gpus import gpu, machine, rule
from tests.fakes.registrar import LIMIT_S, Registrar, Watch

NAME = "nodeshare/gpu-memory"

pytestmark = pytest.mark.loud  # a lost kubelet is logged as a warning


@pytest.fixture
def kubelet(short_path: Path) -> Iterator[Registrar]:
    registrar = Registrar(short_path / "device-plugins")
    registrar.start()
    yield registrar
    registrar.stop()


class Plugin:
    """A server that runs, and what it offers."""

    def __init__(self, plugins: Path, state: Path) -> None:
        self.registry = CollectorRegistry()
        counters, streams = Counters(self.registry), Streams()
        self.offered: Published[Resource] = Published(plan([rule()], machine(gpu(0))).resources[0])
        allocations = Allocations(state)
        allocations.prepare()
        answers = DevicePlugin(self.offered, allocations, counters, streams)
        self.server = PluginServer(NAME, plugins, answers)

    @property
    def registrations(self) -> float:
        return self._count("registrations")

    @property
    def lost(self) -> float:
        return self._count("registrations_lost")

    def _count(self, name: str) -> float:
        labels = {"resource": NAME}
        return self.registry.get_sample_value(f"nodeshare_gpu_{name}_total", labels) or 0.0


@asynccontextmanager
async def running(plugins: Path, state: Path) -> AsyncIterator[Plugin]:
    """With the same wake-ups as in the agent."""
    plugin = Plugin(plugins, state)

    async def watch() -> None:
        async with watching([plugins], poll_s=0.2) as wakeups:
            while True:
                plugin.server.poke()
                await wakeups.wait()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugin.server.run)
            nursery.start_soon(watch)
            yield plugin
            nursery.cancel_scope.cancel()


async def next_watch(kubelet: Registrar) -> Watch:
    return await trio.to_thread.run_sync(kubelet.next)


async def listed(watch: Watch) -> dict[str, str]:
    return await trio.to_thread.run_sync(watch.next_list)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while not condition():
            await trio.sleep(0.01)


async def test_registers_what_it_serves(kubelet: Registrar, short_path: Path) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        watch = await next_watch(kubelet)
        assert len(await listed(watch)) == 32
        (request,) = kubelet.requests
        assert (request.version, request.resource_name) == ("v1beta1", NAME)
        assert request.endpoint == "nodeshare-nodeshare_gpu-memory.sock"
        assert request.options.get_preferred_allocation_available
        await until(lambda: plugin.server.problem is None)
        assert plugin.registrations == 1


async def test_a_stale_socket_file_is_in_nobodys_way(kubelet: Registrar, short_path: Path) -> None:
    path = socket_path(kubelet.plugins, NAME)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with running(kubelet.plugins, short_path / "gpu"):
        assert len(await listed(await next_watch(kubelet))) == 32


async def test_back_after_a_kubelet_restart(kubelet: Registrar, short_path: Path) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await next_watch(kubelet)
        for count in (2, 3, 4):
            await trio.to_thread.run_sync(kubelet.stop)
            kubelet.start()
            assert len(await listed(await next_watch(kubelet))) == 32
            await until(lambda count=count: plugin.registrations >= count)  # type: ignore[misc] # bound
        assert (plugin.lost, plugin.server.contested) == (0, None)


async def test_a_restart_that_leaves_the_sockets_is_seen_by_the_new_kubelet_sock(
    kubelet: Registrar, short_path: Path
) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await next_watch(kubelet)
        before = identify_socket(plugin.server.socket)
        await trio.to_thread.run_sync(kubelet.stop)
        kubelet.start(clear=False)
        assert len(await listed(await next_watch(kubelet))) == 32
        assert identify_socket(plugin.server.socket) == before


async def test_our_socket_deleted_under_a_running_kubelet(
    kubelet: Registrar, short_path: Path
) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        first = await next_watch(kubelet)
        await until(lambda: plugin.server.problem is None)
        plugin.server.socket.unlink()
        assert len(await listed(await next_watch(kubelet))) == 32
        assert await trio.to_thread.run_sync(first.ended.wait, LIMIT_S)


async def test_no_kubelet_is_said_and_waited_for(short_path: Path) -> None:
    kubelet = Registrar(short_path / "device-plugins")
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await until(lambda: "no kubelet" in (plugin.server.problem or ""))
        assert not plugin.server.socket.exists()
        kubelet.start()
        await next_watch(kubelet)
        await until(lambda: plugin.server.problem is None)
    kubelet.stop()


async def test_a_kubelet_that_hangs_inside_register_is_not_waited_for(
    kubelet: Registrar, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_ANSWER_LIMIT_S", 0.2)
    hanging = kubelet.hang = threading.Event()
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await until(lambda: plugin.server.socket.exists())
        await trio.sleep(0.2)
        assert plugin.server.problem == "not registered yet"
        # Another kubelet takes the place of the one that hangs, which still has our connection.
        successor = Registrar(kubelet.plugins)
        (kubelet.plugins / "kubelet.sock").unlink()
        successor.start()
        started = trio.current_time()
        assert len(await listed(await next_watch(successor))) == 32
        assert trio.current_time() - started < 5, "Register alone may take fifteen"
        await until(lambda: plugin.server.problem is None)
        hanging.set()
    await trio.to_thread.run_sync(successor.stop)


async def test_it_can_be_stopped_while_a_kubelet_hangs(
    kubelet: Registrar, short_path: Path
) -> None:
    hanging = kubelet.hang = threading.Event()
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await until(lambda: plugin.server.socket.exists())
        await trio.sleep(0.2)
        started = trio.current_time()
    assert trio.current_time() - started < 5
    assert not plugin.server.socket.exists()
    hanging.set()


async def test_noise_on_the_socket_is_in_nobodys_way(
    kubelet: Registrar, short_path: Path, soak: bool
) -> None:
    """Connections that never greet, that send rubbish, and that hang up in the middle."""
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        watch = await next_watch(kubelet)
        await listed(watch)
        path = str(plugin.server.socket)
        with ExitStack() as stack:
            for number in range(3000 if soak else 150):
                noise = stack.enter_context(socket.socket(socket.AF_UNIX))
                noise.connect(path)
                if number % 3 == 1:
                    noise.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\0\xff" * 100)
                elif number % 3 == 2:
                    noise.sendall(b"PRI * HTTP/2.0\r\n")
                    noise.close()
            asked = pb.PreferredAllocationRequest(
                container_requests=[
                    pb.ContainerPreferredAllocationRequest(
                        available_deviceIDs=[f"{gpu(0).uuid}::1"], allocation_size=1
                    )
                ]
            )
            answer = await trio.to_thread.run_sync(
                lambda: watch.plugin.GetPreferredAllocation(asked, timeout=LIMIT_S)
            )
            assert answer.container_responses[0].deviceIDs == [f"{gpu(0).uuid}::1"]
        assert (plugin.registrations, plugin.server.problem) == (1, None)


async def test_another_plugin_that_takes_the_name_is_told_by_its_socket_and_process(
    kubelet: Registrar, short_path: Path
) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        first = await next_watch(kubelet)
        await listed(first)
        await until(lambda: plugin.server.problem is None)
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as gone:
            other.bind(str(kubelet.plugins / "nvidia-gpu.sock"))
            other.listen()
            gone.bind(str(kubelet.plugins / "gone.sock"))
            await trio.to_thread.run_sync(first.close)
            await until(lambda: plugin.server.contested is not None)
        told = plugin.server.contested
        assert told is not None
        program = Path("/proc/self/comm").read_text().strip()
        assert f"'nvidia-gpu.sock' (of {program!r}, pid {os.getpid()})" in told
        assert "gone.sock" not in told
        assert "kubelet.sock" not in told
        assert "give one of the two another resource name" in told
        await next_watch(kubelet)
        await until(lambda: plugin.server.problem is None)


async def test_a_plugin_that_fights_for_the_name_is_answered_ever_more_slowly(
    kubelet: Registrar, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_FIRST_PAUSE_S", 0.2)
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        gaps = []
        for _ in range(3):
            watch = await next_watch(kubelet)
            await listed(watch)
            await until(lambda: plugin.server.problem is None)
            gaps.append(trio.current_time())
            await trio.to_thread.run_sync(watch.close)
        first, second = gaps[1] - gaps[0], gaps[2] - gaps[1]
        assert first >= 0.2
        assert second >= 0.4
        await until(lambda: plugin.lost == 3)


async def test_a_kubelet_that_only_went_away_is_no_plugin_that_took_the_name(
    kubelet: Registrar, short_path: Path
) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await listed(await next_watch(kubelet))
        await until(lambda: plugin.server.problem is None)
        await trio.to_thread.run_sync(kubelet.stop)
        await until(lambda: plugin.server.problem is not None)
        kubelet.start()
        await next_watch(kubelet)
        await until(lambda: plugin.server.problem is None)
        assert (plugin.lost, plugin.server.contested) == (0, None)


async def test_something_else_at_our_path_is_not_taken_away(
    kubelet: Registrar, short_path: Path
) -> None:
    path = socket_path(kubelet.plugins, NAME)
    path.write_text("mine")
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await until(lambda: "is not a socket; move that file away" in (plugin.server.problem or ""))
        assert path.read_text() == "mine"
        path.unlink()
        await next_watch(kubelet)


async def test_a_refused_registration_is_tried_again(kubelet: Registrar, short_path: Path) -> None:
    kubelet.refuse = "the requested API version is not supported"
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await until(lambda: "not supported" in (plugin.server.problem or ""))
        kubelet.refuse = None
        await next_watch(kubelet)
        await until(lambda: plugin.server.problem is None)


async def test_a_list_that_the_kubelet_stops_watching_is_registered_again(
    kubelet: Registrar, short_path: Path
) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        first = await next_watch(kubelet)
        await listed(first)
        await until(lambda: plugin.server.problem is None)
        await trio.to_thread.run_sync(first.close)
        await until(lambda: "another plugin took the name" in (plugin.server.problem or ""))
        assert len(await listed(await next_watch(kubelet))) == 32
        await until(lambda: plugin.registrations == 2)
        # All is well again, and still it is told for a while.
        await until(lambda: plugin.server.problem is None)
        assert "another plugin took the name" in (plugin.server.contested or "")
        assert plugin.lost == 1


async def test_a_list_that_nobody_asks_for_is_noticed(
    kubelet: Registrar, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_LIST_LIMIT_S", 0.3)
    monkeypatch.setattr(Watch, "start", lambda self: None)
    monkeypatch.setattr(Watch, "close", lambda self: self.channel.close())

    def without_list(self: Watch, path: Path) -> None:
        self.channel = unix_grpc.channel(path)

    monkeypatch.setattr(Watch, "__init__", without_list)
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        await until(lambda: plugin.registrations >= 2)


async def test_the_list_ends_at_once_when_the_plugin_is_stopped(
    kubelet: Registrar, short_path: Path
) -> None:
    async with running(kubelet.plugins, short_path / "gpu") as plugin:
        watch = await next_watch(kubelet)
        await listed(watch)
    assert await trio.to_thread.run_sync(watch.ended.wait, 2.0)
    assert not plugin.server.socket.exists()


async def test_two_plugins_on_one_socket_do_not_fight(kubelet: Registrar, short_path: Path) -> None:
    async with running(kubelet.plugins, short_path / "old") as old:
        await next_watch(kubelet)
        await until(lambda: old.server.problem is None)
        async with running(kubelet.plugins, short_path / "new") as new:
            await next_watch(kubelet)
            await until(lambda: new.server.problem is None)
            await until(lambda: "another process serves" in (old.server.problem or ""))
            await trio.sleep(0.5)
            assert (old.registrations, new.registrations) == (1, 1)
        await next_watch(kubelet)
        await until(lambda: old.server.problem is None)


async def test_the_new_plugin_is_there_when_the_old_one_ends_after_it_began(
    kubelet: Registrar, short_path: Path
) -> None:
    """gRPC alone would take the socket file of the new one along: there is no gap at all."""
    old_begun, old_shall_end, old_ended = trio.Event(), trio.Event(), trio.Event()

    async def old() -> None:
        async with running(kubelet.plugins, short_path / "old") as plugin:
            await next_watch(kubelet)
            await until(lambda: plugin.server.problem is None)
            old_begun.set()
            await old_shall_end.wait()
        assert (plugin.registrations, plugin.lost) == (1, 0)
        old_ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(old)
        await old_begun.wait()
        async with running(kubelet.plugins, short_path / "new") as new:
            await next_watch(kubelet)
            await until(lambda: new.server.problem is None)
            before = identify_socket(new.server.socket)
            old_shall_end.set()
            await old_ended.wait()
            await trio.sleep(0.5)
            assert identify_socket(new.server.socket) == before
            assert (new.registrations, new.lost, new.server.problem) == (1, 0, None)


def test_a_socket_path_that_would_be_too_long_gets_a_hash(tmp_path: Path) -> None:
    plain = socket_path(Path("/var/lib/kubelet/device-plugins"), "nodeshare/mig-1g.10gb")
    assert plain.name == "nodeshare-nodeshare_mig-1g.10gb.sock"
    long = socket_path(Path("/var/lib/kubelet/device-plugins"), f"example.org/{'x' * 63}")
    assert len(str(long)) <= 107
    assert long.name.startswith("nodeshare-")
    assert long != socket_path(long.parent, f"example.org/{'y' * 63}")


def test_only_sockets_have_an_identity(short_path: Path) -> None:
    path = short_path / "kubelet.sock"
    assert identify_socket(path) is None
    path.touch()
    assert identify_socket(path) is None
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        first = identify_socket(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        assert identify_socket(path) not in (None, first)
