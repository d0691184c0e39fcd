# SPDX-License-Identifier: Apache-2.0
"""This node at a glance: every agent's status document, read over its socket, as tables.

Knows no agent's content: the tables come from the agents' packages.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from agents.agent import Agent
from agents.hostfs import RUN_DIR
from agents.screen import Screen, print_tables
from agents.tables import UNKNOWN, Table

_TIMEOUT_S = 2.0
_REFRESH_S = 2.0
#: `struct ucred` of unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")
#: The problem of an agent whose socket nobody serves.
NOT_RUNNING = "not running"


@dataclass(frozen=True, slots=True)
class Seen:
    """One agent's document, or why there is none."""

    agent: Agent
    document: Mapping[str, Any] | None
    problem: str = ""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


def look(agents: Iterable[Agent], run_dir: Path) -> tuple[Seen, ...]:
    """Ask every agent's socket. Never raises; an agent that hangs costs two seconds."""
    return tuple(_look(agent, run_dir / f"{agent.noun}.sock") for agent in agents)


def _look(agent: Agent, path: Path) -> Seen:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/status.json")
        document = json.loads(connection.getresponse().read())
        if isinstance(document, dict):
            return Seen(agent, document)
        return Seen(agent, None, f"does not answer as an agent does: {str(document)[:80]!r}")
    except (FileNotFoundError, ConnectionRefusedError):  # the latter: it was killed
        return Seen(agent, None, NOT_RUNNING)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Seen(agent, None, f"does not answer: {error}")
    finally:
        connection.close()


def serving_pid(path: Path) -> int | None:
    """Who serves a unix socket, also when it hangs; None: nobody, or it cannot be known."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT_S)
        client.connect(str(path))
        found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(found)[0]
        return pid
    return None


def agents_table(seen: Sequence[Seen]) -> Table:
    """Which agents run, whether they are ready, and where they can be looked at."""
    rows = []
    for one in seen:
        document = one.document or {}
        state = "ready" if document.get("ready") else str(document.get("reason") or one.problem)
        rows.append(
            (
                one.agent.section,
                state,
                str(document.get("metrics", UNKNOWN)) + ("/metrics" if document else ""),
                str(document.get("page", UNKNOWN)),
            )
        )
    return Table("Agents", ("agent", "state", "metrics", "page"), rows)


def tables(seen: Sequence[Seen]) -> list[Table]:
    """The agents, then what each of them shows."""
    found = [agents_table(seen)]
    for one in seen:
        if one.document is not None:
            found += _of_agent(one.agent, one.document)
    return found


def _of_agent(agent: Agent, document: Mapping[str, Any]) -> Sequence[Table]:
    try:
        return agent.tables(document)
    except Exception as error:  # noqa: BLE001 -- an agent of another version answers otherwise
        problem = f"{type(error).__name__}: {error}"
        return [Table(agent.section, (), (), note=f"its answer cannot be shown ({problem})")]


def show(agents: Sequence[Agent], run_dir: Path | None, *, as_json: bool, watch: bool) -> int:
    """`nodeshare status`. Exit code 1 when no agent answers."""
    directory = run_dir or RUN_DIR
    seen = look(agents, directory)
    if as_json:
        print(json.dumps({one.agent.section: one.document for one in seen}, indent=1))
    elif watch:
        with Screen() as screen:
            trio.run(_watch, agents, directory, screen)
    else:
        print_tables(tables(seen))
    return 0 if any(one.document is not None for one in seen) else 1


async def _watch(agents: Sequence[Agent], directory: Path, screen: Screen) -> None:
    while not screen.unread:
        screen.show(tables(look(agents, directory)))
        await trio.sleep(_REFRESH_S)
