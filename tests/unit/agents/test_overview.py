# SPDX-License-Identifier: Apache-2.0
"""What is seen of agents, whatever answers on their sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents import overview
from agents.agent import Agent, Status
from agents.config import Section
from agents.listeners import Answer, bind_unix, serving
from agents.tables import Table


def of_status(status: Status) -> Sequence[Table]:
    return [Table("Things", ("name",), [(thing["name"],) for thing in status["things"]])]


AGENT = Agent(
    "demo", "demo", Section, lambda: pytest.fail("run"), lambda _: None, lambda *_: None, of_status
)


def state_of(seen: Sequence[overview.Seen]) -> str:
    return overview.agents_table(seen).rows[0][1]


def look_at(tmp_path: Path, body: bytes) -> Sequence[overview.Seen]:
    listener = bind_unix(tmp_path / "demo.sock", {"/status.json": lambda _: Answer(body)})
    with serving(listener):
        return overview.look([AGENT], tmp_path)


def test_a_document_becomes_tables(tmp_path: Path) -> None:
    seen = look_at(tmp_path, b'{"ready": true, "things": [{"name": "a"}]}')
    assert state_of(seen) == "ready"
    assert overview.tables(seen)[1].rows == [("a",)]


@pytest.mark.parametrize("body", [b"[1, 2]", b"null", b"<html>", b"\xff", b""])
def test_what_is_no_document_is_said_to_be_none(tmp_path: Path, body: bytes) -> None:
    seen = look_at(tmp_path, body)
    assert seen[0].document is None
    assert state_of(seen).startswith("does not answer")
    assert len(overview.tables(seen)) == 1


def test_a_document_of_another_version_hides_no_other_agent(tmp_path: Path) -> None:
    shown = overview.tables(look_at(tmp_path, b'{"ready": true, "things": [{}]}'))
    assert "cannot be shown (KeyError: 'name')" in shown[1].note


def test_a_socket_that_nobody_serves_is_no_agent(tmp_path: Path) -> None:
    assert state_of(overview.look([AGENT], tmp_path)) == overview.NOT_RUNNING
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "demo.sock"))
    assert state_of(overview.look([AGENT], tmp_path)) == overview.NOT_RUNNING


def test_an_agent_that_hangs_is_waited_for_no_longer_than_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_TIMEOUT_S", 0.1)
    over = threading.Event()

    def hang(_: object) -> Answer:
        over.wait(10)
        return Answer(b"")

    with serving(bind_unix(tmp_path / "demo.sock", {"/status.json": hang})):
        seen = overview.look([AGENT], tmp_path)
        over.set()
    assert state_of(seen) == "does not answer: timed out"
