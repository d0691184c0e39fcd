# SPDX-License-Identifier: Apache-2.0
"""`nodeshare mounts …` against a running agent, and when none runs."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from agents.cli import main
from tests.fakes.mount_node import Node, eventually, scratch


class Terminal:
    """What a person types, and sees."""

    def __init__(self, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
        self._node, self._capsys = node, capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        self._capsys.readouterr()
        returned = main(["mounts", *words, "--config", str(self._node.config_file)])
        shown = self._capsys.readouterr()
        text = shown.out + shown.err
        assert returned == code, text
        return text


@pytest.fixture
def mounts(node: Node, capsys: pytest.CaptureFixture[str]) -> Terminal:
    node.configure(scratch(node.source("data", who="us")))
    return Terminal(node, capsys)


def shown(mounts: Terminal) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(mounts("show", "scratch", "--json"))
    return document


def test_one_mount_from_beginning_to_end(node: Node, mounts: Terminal) -> None:
    node.start()
    first = node.wait("scratch")["client_pid"]
    document = shown(mounts)
    assert document["state"] == "published"
    assert document["mounted"].startswith("fuse.nodeshare nodeshare:scratch ")
    assert str(node.directory / "data") in document["client_command"]
    assert [one["state"] for one in document["history"]][-1] == "published"
    text = mounts("show", "scratch")
    assert f"pid {first}: " in text
    assert str(node.places.root / "scratch") in text
    eventually(lambda: shown(mounts)["probes"], "it was probed")

    assert mounts("probe", "scratch").startswith("scratch: ok in ")
    assert f"client {first} replaced by client " in mounts("replace", "scratch")
    assert shown(mounts)["client_pid"] != first

    assert "away after" in mounts("drain", "scratch")
    assert "drained" in mounts("show", "scratch")
    assert "nothing is mounted" in mounts("probe", "scratch", code=1)
    assert "replaced by client" in mounts("replace", "scratch")
    for verb in ("probe", "replace", "drain"):
        assert "configured are: scratch" in mounts(verb, "home", code=1)
    assert "known are: scratch" in mounts("show", "home", code=2)
    assert json.loads(mounts("ls", "--json"))["mounts"][0]["name"] == "scratch"


def test_without_an_agent(node: Node, mounts: Terminal) -> None:
    node.start()
    client = node.wait("scratch")["client_pid"]
    node.stop(signal.SIGKILL)
    assert mounts("probe", "scratch").endswith("(no agent answers)\n")
    assert "known are: scratch" in mounts("probe", "home", code=2)
    for verb in ("show", "replace", "drain"):
        text = mounts(verb, "scratch", code=1)
        assert "not running" in text if verb == "show" else "no agent answers" in text
        assert "--config" in text
    listed = mounts("ls")
    assert "nodeshare:scratch" in listed
    assert "not running; this is the kernel's mount table" in listed
    assert mounts("ls", "--json", code=1) == "null\n"
    os.kill(client, signal.SIGSTOP)
    assert mounts("probe", "scratch", code=1).startswith("scratch: hung in ")
    os.kill(client, signal.SIGKILL)

    def dead() -> bool:
        return mounts("probe", "scratch", code=1).startswith("scratch: dead: ENOTCONN ")

    eventually(dead, "it is dead")


def test_what_to_drain_has_to_be_said(mounts: Terminal) -> None:
    assert "name a mount, or say --all" in mounts("drain", code=2)
    assert "exclude each other" in mounts("drain", "scratch", "--all", code=2)
