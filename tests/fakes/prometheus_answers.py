# SPDX-License-Identifier: Apache-2.0
"""A server on loopback that answers as Prometheus does, with what a test wants it to say: also
nonsense, an error, or nothing for as long as it pleases.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


class PrometheusAnswers:
    """`rows` are labels, time and value; `code` and `body` override them. `answering` cleared: it
    hangs.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, str], float, float]] = []
        self.code, self.body = 200, b""
        self.answering = threading.Event()
        self.answering.set()
        self.queries: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self) -> bytes:
        result = [{"metric": labels, "value": [at, str(value)]} for labels, at, value in self.rows]
        document: Any = {
            "status": "success",
            "data": {"resultType": "vector", "result": result},
        }
        return self.body or json.dumps(document).encode()

    def __enter__(self) -> PrometheusAnswers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _handler(wanted: PrometheusAnswers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            wanted.queries.append(parse_qs(text)["query"][0])
            wanted.headers.append(dict(self.headers))
            wanted.answering.wait(60)
            body = wanted.answer()
            try:
                self.send_response(wanted.code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # who asked has gone: that is what some tests are about

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
