# SPDX-License-Identifier: Apache-2.0
"""The two listeners, asked by a real client over loopback and a unix socket."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from agents import endpoints, listeners
from agents.agent import Agent, Readiness, Status
from agents.config import Section
from agents.endpoints import Heartbeat
from agents.errors import ConfigError
from agents.listeners import Answer, Listener, Request, Route, bind_tcp, bind_unix, serving
from agents.published import Published
from agents.tables import Table

#: Shows nothing but a table of what its document calls things.
AGENT = Agent(
    "demo",
    "demo",
    Section,
    lambda: pytest.fail("run"),
    lambda _: None,
    lambda *_: None,
    lambda status: [Table("Mounts", ("name",), [(m["name"],) for m in status.get("mounts", ())])],
)


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def heartbeat() -> Heartbeat:
    return Heartbeat()


@pytest.fixture
def metrics(readiness: Readiness, heartbeat: Heartbeat) -> Iterator[Listener]:
    registry = CollectorRegistry()
    Gauge("nodeshare_demo", "A number.", registry=registry).set(4)
    routes = endpoints.metrics_routes(registry, heartbeat, readiness)
    listener = bind_tcp("127.0.0.1", 0, routes, key="k")
    with serving(listener):
        yield listener


def ask_raw(port: int, path: str, method: str = "GET", **headers: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()


def ask(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def status_listener(status: Published[Status], readiness: Readiness, **options: object) -> Listener:
    identity = {"agent": "demo", "node": "n1"}
    routes = endpoints.status_routes(AGENT, identity, readiness, status, Heartbeat())
    return bind_tcp("127.0.0.1", 0, routes, key="k", **options)  # type: ignore[arg-type]  # passed on


def test_metrics_are_exposed(metrics: Listener) -> None:
    code, body, headers = ask(metrics.port, "/metrics")
    assert code == 200
    assert "nodeshare_demo 4.0" in body
    assert headers["Content-Type"].startswith("text/plain")


def test_openmetrics_is_negotiated(metrics: Listener) -> None:
    _, body, headers = ask(metrics.port, "/metrics", Accept="application/openmetrics-text")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_readiness_is_told_with_its_reason(metrics: Listener, readiness: Readiness) -> None:
    assert ask(metrics.port, "/readyz")[:2] == (503, "not ready: starting\n")
    readiness.ready()
    assert ask(metrics.port, "/readyz")[:2] == (200, "ready\n")
    readiness.not_ready("no driver")
    assert ask(metrics.port, "/readyz")[:2] == (503, "not ready: no driver\n")


def test_health_is_the_loop_alive(
    metrics: Listener, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(metrics.port, "/healthz")[0] == 200
    monkeypatch.setattr(Heartbeat, "age_s", endpoints.HEARTBEAT_LIMIT_S + 1)
    code, body, _ = ask(metrics.port, "/healthz")
    assert (code, body) == (503, "event loop has not run for 11 s\n")


def test_status_is_not_on_the_metrics_listener(metrics: Listener) -> None:
    code, body, _ = ask(metrics.port, "/status.json")
    assert code == 404
    assert body == "here are: /healthz, /metrics, /readyz\n"


def test_head_has_no_body(metrics: Listener) -> None:
    code, body, headers = ask(metrics.port, "/readyz", "HEAD")
    assert (code, body, headers["Content-Length"]) == (503, "", "20")


def test_status_document_and_page(readiness: Readiness) -> None:
    status = Published[Status]({"mounts": [{"name": "home", "state": "published"}]})
    listener = status_listener(status, readiness, local_only=True)
    with serving(listener):
        document = json.loads(ask(listener.port, "/status.json")[1])
        page, headers = ask(listener.port, "/")[1:]
        packed = ask_raw(listener.port, "/", **{"Accept-Encoding": "br, gzip"})
    assert document["agent"] == "demo"
    assert (document["ready"], document["reason"]) == (False, "starting")
    assert document["mounts"][0]["name"] == "home"
    assert "n1 · nodeshare demo" in page
    assert '<th scope=row data-of="name">home' in page
    assert "starting" in page
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert len(packed) < len(page) / 2
    assert b"n1 \xc2\xb7 nodeshare demo" in gzip.decompress(packed)


def test_a_page_of_an_event_loop_that_hangs_says_how_old_it_is(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    readiness.ready()
    monkeypatch.setattr(Heartbeat, "age_s", 125.0)
    listener = status_listener(Published({}), readiness, local_only=True)
    with serving(listener):
        page = ask(listener.port, "/")[1]
    assert "what stands here is 2 min old" in page


def test_foreign_host_name_is_refused(readiness: Readiness) -> None:
    listener = status_listener(Published({}), readiness, local_only=True)
    with serving(listener):
        assert ask(listener.port, "/status.json", Host="evil.example")[0] == 403
        for name in ("localhost", "127.0.0.1:1", "[::1]:9", "localhost:9411"):
            assert ask(listener.port, "/status.json", Host=name)[0] == 200, name


def test_token_opens_status(readiness: Readiness) -> None:
    listener = status_listener(Published({}), readiness, token="s3cret")
    with serving(listener):
        assert ask(listener.port, "/status.json")[0] == 401
        assert ask(listener.port, "/status.json", Authorization="Bearer wrong")[0] == 401
        code, body, _ = ask(listener.port, "/status.json", Authorization="Bearer s3cret")
    assert code == 200
    assert "s3cret" not in body


def test_unix_socket_is_for_root_alone_and_goes(readiness: Readiness, tmp_path: Path) -> None:
    path = tmp_path / "run" / "demo.sock"
    routes = endpoints.status_routes(
        AGENT, {"agent": "demo", "node": "n"}, readiness, Published({}), Heartbeat()
    )
    with serving(bind_unix(path, routes)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            client.sendall(b"GET /status.json HTTP/1.0\r\n\r\n")
            assert b"200 OK" in client.recv(4096)
        with pytest.raises(ConfigError, match="another agent serves"):
            bind_unix(path, routes)
    assert not path.exists()


def test_stale_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    stale, precious = tmp_path / "stale.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    with serving(bind_unix(stale, {})):
        assert stat.S_ISSOCK(stale.stat().st_mode)
    precious.write_text("mine")
    with pytest.raises(ConfigError, match="is not a socket"):
        bind_unix(precious, {})
    assert precious.read_text() == "mine"


def test_port_in_use_names_key_and_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"node.x: cannot listen on 127.0.0.1 port {port}"):
            bind_tcp("127.0.0.1", port, {}, key="node.x")


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"A" * 70000 + b"\r\n\r\n", b"\x16\x03\x01"],
)
def test_garbage_does_not_hurt(metrics: Listener, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", metrics.port), timeout=5) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        try:
            while client.recv(65536):
                pass
        except ConnectionResetError:
            pass
    assert ask(metrics.port, "/metrics")[0] == 200


def connect(listener: Listener, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", listener.port), 5)
    client.sendall(sent)
    return client


def test_too_many_connections_are_closed_not_queued() -> None:
    release, answering = threading.Event(), threading.Semaphore(0)

    def slow(_: Request) -> Answer:
        answering.release()
        release.wait(10)
        return Answer(b"")

    routes: dict[str, Route] = {"/slow": slow}
    listener = bind_tcp("127.0.0.1", 0, routes, key="k")
    with serving(listener), ExitStack() as clients:
        ask_slowly = b"GET /slow HTTP/1.0\r\n\r\n"
        held = [clients.enter_context(connect(listener, ask_slowly)) for _ in range(32)]
        assert all(answering.acquire(timeout=5) for _ in held)
        more = [clients.enter_context(connect(listener)) for _ in range(8)]
        assert [client.recv(100) for client in more] == [b""] * 8
        release.set()
        assert all(b"200" in client.recv(100) for client in held)


def test_whoever_asks_is_answered_while_others_hold_all_connections(metrics: Listener) -> None:
    with ExitStack() as clients:
        idle = [clients.enter_context(connect(metrics, b"GET / HTTP/1.0\r\n")) for _ in range(32)]
        for _ in range(5):
            assert ask(metrics.port, "/healthz")[0] == 200
        assert idle[0].recv(100) == b"", "the oldest had to go"


def test_a_request_that_drips_in_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_TIMEOUT_S", 0.3)
    listener = bind_tcp("127.0.0.1", 0, {}, key="k")
    with serving(listener), connect(listener, b"GET / HTTP/1.0\r\n") as client:
        client.settimeout(0.05)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                client.sendall(b"X: y\r\n")
                if client.recv(100) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("each byte has bought more time")


@pytest.mark.loud
def test_a_bug_in_a_route_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Request) -> Answer:
        raise KeyError("bug")

    listener = bind_tcp("127.0.0.1", 0, {"/b": broken}, key="k")
    with serving(listener):
        code, body, _ = ask(listener.port, "/b")
        assert ask(listener.port, "/other")[0] == 404
    assert (code, body) == (500, "a bug in nodeshare; the agent's log says more\n")
    assert "answer failed" in caplog.text
    assert "KeyError" in caplog.text


def test_no_name_service_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_: str = "") -> str:
        pytest.fail("it may take half a minute to answer")

    monkeypatch.setattr(socket, "getfqdn", asked)
    bind_tcp("0.0.0.0", 0, {}, key="k").server.server_close()


def test_an_address_of_another_machine_is_said_to_be_one() -> None:
    with pytest.raises(ConfigError, match="choose an address of this node"):
        bind_tcp("192.0.2.1", 0, {}, key="k")


def test_a_socket_that_cannot_be_made_is_a_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.run_dir: .* is longer than 107 bytes"):
        bind_unix(tmp_path / ("x" * 107) / "demo.sock", {})
    assert list(tmp_path.iterdir()) == [], "nothing half-made"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot make the socket .* File exists"):
        bind_unix(tmp_path / "file" / "demo.sock", {})


def test_a_busy_agent_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "demo.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))  # its queue is full now
        with pytest.raises(ConfigError, match="another agent serves"):
            bind_unix(path, {})
        assert path.exists()
