# SPDX-License-Identifier: Apache-2.0
"""A small API server on loopback, over HTTPS: nodes, pods, Events, with the rules one stumbles on.

Real are: the paths, optimistic concurrency (every write makes a new resourceVersion), JSON patches
that are applied whole or not at all (422 when a `test` fails), field selectors, pages, and delete
preconditions (409). Faults are switched on by a test. It checks the bearer token of every request.
"""

from __future__ import annotations

import copy
import itertools
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

#: A key for 127.0.0.1 that is worth nothing anywhere else, and the certificate that it signed.
CERTIFICATE = Path(__file__).parents[1] / "fixtures/api_server.pem"
TOKEN = "test-token"

Answer = tuple[int, Any]


class ApiServer:
    """`nodes` and `pods` (by namespace and name) may be changed by a test through `write`.

    `before_patch` runs before a patch is applied, as a competing client would. `faults` are
    answered first, one a request: a status, or text that is sent as it is; `faults_of` are for
    requests of one method. `hang` holds every
    request while it is not set.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.pods: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: dict[tuple[str, str], dict[str, Any]] = {}
        self.leases: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[str] = []
        self.faults: list[int | str] = []
        self.before_patch: Callable[[], None] = lambda: None
        self.faults_of: dict[str, list[int]] = {}
        self.hang = threading.Event()
        self.hang.set()
        self._versions = itertools.count(1000)
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        # The handshake is each connection's own thread's business, not the accepting one's.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> ApiServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def kubeconfig(self, path: Path, *, token: str = TOKEN, port: int | None = None) -> Path:
        """Write a file that leads here."""
        server = f"https://127.0.0.1:{port or self.port}"
        cluster = {"server": server, "certificate-authority": str(CERTIFICATE)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def add_node(self, name: str, *taints: str, annotations: dict[str, str] | None = None) -> None:
        """Each taint is a key with the effect NoSchedule."""
        node: dict[str, Any] = {"metadata": {"name": name}, "spec": {}}
        if annotations is not None:
            node["metadata"]["annotations"] = annotations
        if taints:
            node["spec"]["taints"] = [{"key": key, "effect": "NoSchedule"} for key in taints]
        with self._lock:
            self.nodes[name] = self._stamped(node)

    def add_pod(self, name: str, node: str, **fields: Any) -> dict[str, Any]:
        """Failed with UnexpectedAdmissionError, unless the fields say otherwise."""
        pod = {
            "metadata": {
                "name": name,
                "namespace": fields.get("namespace", "default"),
                "uid": fields.get("uid", f"uid-of-{name}"),
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "spec": {
                "nodeName": node,
                "containers": [{"name": "main", "resources": {"limits": fields.get("limits", {})}}],
            },
            "status": {
                "phase": fields.get("phase", "Failed"),
                "reason": fields.get("reason", "UnexpectedAdmissionError"),
                "message": fields.get("message", ""),
            },
        }
        with self._lock:
            self.pods[pod["metadata"]["namespace"], name] = self._stamped(pod)
        return pod

    def taints(self, name: str) -> list[str]:
        with self._lock:
            return [taint["key"] for taint in self.nodes[name]["spec"].get("taints", [])]

    def annotations(self, name: str) -> dict[str, str]:
        with self._lock:
            return dict(self.nodes[name]["metadata"].get("annotations", {}))

    def labels(self, name: str) -> dict[str, str]:
        with self._lock:
            return dict(self.nodes[name]["metadata"].get("labels", {}))

    def write(self, change: Callable[[dict[str, Any]], None], node: str) -> None:
        """Another client's edit."""
        with self._lock:
            change(self.nodes[node])
            self._stamped(self.nodes[node])

    def _stamped(self, found: dict[str, Any]) -> dict[str, Any]:
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        return found

    # -- answers

    def answer(self, method: str, target: str, body: Any, token: str, kind: str) -> Answer:
        if token.partition(" ")[2] != TOKEN:
            return _status(401, "Unauthorized")
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        parts = path.strip("/").split("/")[2:]
        with self._lock:
            if parts[3:4] == ["leases"]:
                return self._lease(method, parts[2], parts[4:], body)
            if parts[2:3] == ["events"]:
                return self._event(method, parts[1], parts[3:], body, kind)
            match method, parts:
                case "GET", ["nodes", name] if name in self.nodes:
                    return 200, self.nodes[name]
                case "PATCH", ["nodes", name] if name in self.nodes:
                    self.before_patch()
                    return self._patch(name, body, kind)
                case "GET", ["pods"]:
                    return self._list(query)
                case "DELETE", ["namespaces", namespace, "pods", name]:
                    return self._delete(namespace, name, body)
        return _status(404, f"{path} not found")

    def _event(self, method: str, namespace: str, names: list[str], body: Any, kind: str) -> Answer:
        if method == "POST":
            return self._create_event(namespace, body)
        return self._patch_event(namespace, names[0], body, kind)

    def _lease(self, method: str, namespace: str, names: list[str], body: Any) -> Answer:
        """As the API server has it: what was changed meanwhile is not written over."""
        key = (namespace, names[0] if names else body["metadata"]["name"])
        found = self.leases.get(key)
        if method == "GET" and found is not None:
            return 200, found
        if method == "POST" and found is not None:
            return _status(409, f'leases "{key[1]}" already exists')
        if method != "POST" and found is None:
            return _status(404, f'leases "{key[1]}" not found')
        version = body["metadata"].get("resourceVersion")
        if found is not None and version != found["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified")
        self.leases[key] = self._stamped(copy.deepcopy(body))
        return 201 if found is None else 200, self.leases[key]

    def _patch(self, name: str, body: Any, kind: str) -> Answer:
        if kind != "application/json-patch+json":
            return _status(415, f"{kind} is not tested here")
        changed = copy.deepcopy(self.nodes[name])
        try:
            for operation in body:
                apply(changed, operation)
        except (KeyError, IndexError, AssertionError):
            return _status(422, "the server rejected our request due to an error in our request")
        self.nodes[name] = self._stamped(changed)
        return 200, changed

    def _list(self, query: dict[str, list[str]]) -> Answer:
        wanted = dict(one.split("=") for one in query["fieldSelector"][0].split(","))
        found = [
            pod
            for _, pod in sorted(self.pods.items())
            if pod["spec"]["nodeName"] == wanted["spec.nodeName"]
            and pod["status"]["phase"] == wanted["status.phase"]
        ]
        start, limit = int(query.get("continue", ["0"])[0]), int(query["limit"][0])
        more = str(start + limit) if len(found) > start + limit else ""
        return 200, {"items": found[start : start + limit], "metadata": {"continue": more}}

    def _delete(self, namespace: str, name: str, body: Any) -> Answer:
        pod = self.pods.get((namespace, name))
        if pod is None:
            return _status(404, f'pods "{name}" not found')
        uid = body["preconditions"]["uid"]
        if uid != pod["metadata"]["uid"]:
            return _status(409, f"Precondition failed: UID in precondition: {uid}")
        del self.pods[namespace, name]
        return 200, pod

    def _create_event(self, namespace: str, body: Any) -> Answer:
        key = (namespace, body["metadata"]["name"])
        involved = body["involvedObject"]
        if body["metadata"]["namespace"] != namespace or involved["namespace"] != namespace:
            return _status(422, "involvedObject.namespace: does not match event.namespace")
        if key in self.events:
            return _status(409, f'events "{key[1]}" already exists')
        self.events[key] = self._stamped(copy.deepcopy(body))
        return 201, self.events[key]

    def _patch_event(self, namespace: str, name: str, body: Any, kind: str) -> Answer:
        if kind != "application/merge-patch+json":
            return _status(415, f"{kind} is not tested here")
        if (namespace, name) not in self.events:
            return _status(404, f'events "{name}" not found')
        self.events[namespace, name] |= body
        return 200, self._stamped(self.events[namespace, name])


def _status(code: int, message: str) -> Answer:
    return code, {"kind": "Status", "code": code, "message": message}


def apply(document: dict[str, Any], operation: dict[str, Any]) -> None:
    """One operation of RFC 6902, as far as it is used."""
    *parents, last = [
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    ]
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = int(last) if isinstance(place, list) else last
    match operation["op"]:
        case "test":
            assert place[key] == operation["value"]
        case "remove":
            del place[key]
        case "add":
            place[key] = operation["value"]
        case other:
            raise AssertionError(other)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that broke off, which is what some tests are about."""


def _handler(api: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            api.requests.append(f"{self.command} {self.path}")
            api.hang.wait(20)
            waiting = api.faults_of.get(self.command) or api.faults
            fault = waiting.pop(0) if waiting else None
            if isinstance(fault, str):
                self._send(200, fault.encode())
                return
            token, kind = (
                self.headers.get("Authorization", ""),
                self.headers.get("Content-Type", ""),
            )
            code, answer = (
                api.answer(self.command, self.path, body, token, kind)
                if fault is None
                else _status(fault, "as the test wanted")
            )
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self._send(code, text.encode())

        do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = _serve

        def _send(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
