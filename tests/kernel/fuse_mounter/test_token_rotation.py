# SPDX-License-Identifier: Apache-2.0
"""A token that ends under load: the real agent with a real provider, a real XRootD server that
believes tokens (SciTokens over TLS), and a pod that never stops reading.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from fuse_mounter.credentials.token_files import TokenFiles
from tests.fakes import openid_provider
from tests.fakes.mount_node import Node, eventually
from tests.fakes.openid_provider import OpenIdProvider
from tests.fakes.token_xrootd import AUDIENCE, TokenXrootdServer

DAEMON = 1  # who xrootdfs is
LIFE_S = 6
#: More than are read in one life: what was read once is not asked of the server again.
FILES = 3000
PAUSE_S = 0.002


@pytest.fixture
def place() -> Iterator[Path]:
    # Not below tmp_path: the server becomes another user, who may not enter there.
    with tempfile.TemporaryDirectory(prefix="nodeshare-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def provider(place: Path) -> Iterator[OpenIdProvider]:
    one = openid_provider.started(place, life_s=LIFE_S, audiences=(AUDIENCE,))
    yield one
    one.stop()


class Reader:
    """Opens and reads one small file after the other, none of them twice for long."""

    def __init__(self, directory: Path) -> None:
        self.reads = 0
        self.failures: list[str] = []
        self._directory, self._stop = directory, threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _read(self) -> None:
        for number in itertools.cycle(range(FILES)):
            if self._stop.is_set():
                return
            try:
                assert (self._directory / f"f{number}").read_text() == f"{number}\n"
            except (OSError, AssertionError) as error:
                self.failures.append(f"{time.time():.3f} f{number}: {error}")
            self.reads += 1
            self._stop.wait(PAUSE_S)


@pytest.mark.timeout(200)
def test_no_read_fails_when_tokens_end_under_load(
    node: Node, place: Path, provider: OpenIdProvider, soak: bool
) -> None:
    hub, tmpfs = place / "hub", place / "credentials"
    hub.mkdir()
    with ExitStack() as stack:
        stack.callback(TokenFiles(tmpfs, PROC, LinuxMounts()).remove)
        server = TokenXrootdServer(place / "server", provider, FILES)
        server.start()
        stack.callback(server.kill)
        stack.callback(node.end)  # before what it uses
        token = {
            "name": "xrootd",
            "source": "hub",
            "file": "xrootd.token",
            "provider": "iam",
            "audience": AUDIENCE,
            "prove": {"mount": "far", "path": "f0"},
        }
        (hub / "daemon.json").write_text(
            json.dumps({"uid": DAEMON, "refresh_token": provider.login("ada")["refresh_token"]})
        )
        file = tmpfs / str(DAEMON) / "xrootd.token"
        node.configure(
            {
                "name": "far",
                "path": "far",
                **server.mount,
                "credentials": {"bearer_token_file": str(file)},
            },
            credentials={
                "directory": str(tmpfs),
                "sources": [{"name": "hub", "directory": str(hub)}],
                "providers": [provider.entry()],
                "tokens": [token],
            },
        )
        node.start()
        node.wait("far")
        first = file.read_text()
        end = provider.claims(first)["exp"]
        with Reader(node.pod().path("far")) as reader:
            eventually(lambda: reader.reads > 10, "it reads")
            lives = 15 if soak else 0
            eventually(lambda: time.time() > end + lives * LIFE_S + 1.5, "tokens end", 120)
            seen = node.document()
            assert reader.failures == []
            assert reader.reads > 50
            assert provider.claims(file.read_text())["exp"] > end + lives * LIFE_S - 2
            (user,) = seen["credentials"]["tokens"][0]["users"]
            assert user["use"]["result"] == "used"
            assert not user["login_needed"]

            # And the server looks at the end of a token: nobody logs in with the first one now. Who
            # did is let go on for about a minute, which the long count outlasts.
            assert server.lets_in(file)
            ended = place / "ended"
            ended.write_text(first)
            ended.chmod(0o400)
            assert not server.lets_in(ended)
