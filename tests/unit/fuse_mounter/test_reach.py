# SPDX-License-Identifier: Apache-2.0
"""Whether a port takes connections, asked without waiting."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from fuse_mounter.drivers.reach import Reach


def soon(look: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not look() and time.monotonic() < end:
        time.sleep(0.01)
    return look()


def test_the_last_answer_is_told() -> None:
    reach = Reach()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reach.problem("127.0.0.1", port) is None, "not known yet"
        with server.accept()[0] as connection:
            assert connection.recv(1) == b"", "it connects, and says nothing"
        assert reach.problem("127.0.0.1", port) is None
    other = Reach()
    assert other.problem("127.0.0.1", port) is None, "not known yet"
    assert soon(lambda: other.problem("127.0.0.1", port) == "Connection refused")
