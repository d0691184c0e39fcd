# SPDX-License-Identifier: Apache-2.0
"""The unit level touches nothing: no child process, no mount, no driver, no network but loopback.

The guards raise a BaseException, so that no `except Exception` swallows them.
"""

from __future__ import annotations

import socket
import subprocess
from typing import Any, NoReturn

import pytest

from agents.mounts import LinuxMounts


class Forbidden(BaseException):
    """A unit test did what only another level may do."""


@pytest.fixture(autouse=True)
def touches_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what leaves the process; `processes` allows children."""

    def refuse(what: str) -> Any:
        def refused(*_: object, **__: object) -> NoReturn:
            raise Forbidden(f"a unit test may not {what}")

        return refused

    if not request.node.get_closest_marker("processes"):
        monkeypatch.setattr(subprocess.Popen, "__init__", refuse("start a process"))
        monkeypatch.setattr(subprocess.Popen, "__del__", lambda _: None)
    for call in ("_mount", "_raw"):
        monkeypatch.setattr(LinuxMounts, call, refuse("mount"))
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise Forbidden(f"a unit test may not connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
