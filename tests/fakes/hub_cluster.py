# SPDX-License-Identifier: Apache-2.0
"""The cluster that a JupyterHub sees: pods that run as soon as they are created, with a notebook
server that answers, all on loopback. Knows no hub.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.api_server import Answer, ApiServer, _status


class HubCluster(ApiServer):
    """`created` are the manifests that were sent, in order. `rejections`: pods that the kubelet
    does not take, by name, and its words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.created: list[dict[str, Any]] = []
        self.rejections: dict[str, str] = {}
        self._changed = threading.Condition()
        self.notebooks = Notebooks()

    def __enter__(self) -> HubCluster:
        super().__enter__()
        self.notebooks.start()
        return self

    def __exit__(self, *words: object) -> None:
        self.notebooks.stop()
        super().__exit__(*words)

    def pod(self, name: str) -> dict[str, Any]:
        """The last manifest of that name."""
        return next(one for one in reversed(self.created) if one["metadata"]["name"] == name)

    def answer(self, method: str, target: str, body: Any, token: str, kind: str) -> Answer:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        match method, path.strip("/").split("/")[2:]:
            case "GET", ["namespaces", namespace, "pods"]:
                if "watch" in query:
                    return 200, self._watched(namespace, int(query["resourceVersion"][0]))
                return 200, self._all(namespace)
            case "POST", ["namespaces", namespace, "pods"]:
                return 201, self._create(namespace, body)
            case "DELETE", ["namespaces", namespace, "pods", name]:
                with self._changed:
                    found = self.pods.pop((namespace, name), None)
                    self._changed.notify_all()
                return (200, found) if found else _status(404, f'pods "{name}" not found')
            case "GET", ["nodes"]:
                return 200, {"items": list(self.nodes.values()), "metadata": {}}
        return super().answer(method, target, body, token, kind)

    def _create(self, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        self.created.append(json.loads(json.dumps(body)))
        name = body["metadata"]["name"]
        body["metadata"] |= {"namespace": namespace, "uid": f"uid-of-{name}"}
        body["status"] = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "containerStatuses": [
                {
                    "name": "notebook",
                    "ready": True,
                    "state": {"running": {}},
                    "restartCount": 0,
                    "image": "notebook",
                    "imageID": "notebook",
                }
            ],
        }
        if name in self.rejections:
            body["status"] = {
                "phase": "Failed",
                "reason": "UnexpectedAdmissionError",
                "message": self.rejections[name],
            }
        with self._changed:
            self.pods[namespace, name] = self._stamped(body)
            self._changed.notify_all()
        return body

    def _all(self, namespace: str) -> dict[str, Any]:
        found = [pod for (where, _), pod in self.pods.items() if where == namespace]
        version = max((int(pod["metadata"]["resourceVersion"]) for pod in found), default=1)
        return {"items": found, "metadata": {"resourceVersion": str(version)}}

    def _watched(self, namespace: str, since: int) -> str:
        """All pods once more, as soon as one is new or gone; then the watch ends, as it may."""
        before = set(self.pods)

        def moved() -> bool:
            version = int(self._all(namespace)["metadata"]["resourceVersion"])
            return version > since or set(self.pods) != before

        with self._changed:
            self._changed.wait_for(moved, 2)
        events = ({"type": "MODIFIED", "object": one} for one in self._all(namespace)["items"])
        return "".join(json.dumps(event) + "\n" for event in events)


class Notebooks:
    """Answers as notebook servers do to a hub that looks whether they are up."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Notebook)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Notebook(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
