# SPDX-License-Identifier: Apache-2.0
"""A changed file is applied, refused with a reason, or unreadable: the agent runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

from agents import config
from agents.agent import Agent
from agents.config import Section
from agents.reload import Reloader


class Demo(Section):
    root: str = "/a"
    period: int = 1


def refuse(old: Section, new: Section) -> str | None:
    assert isinstance(old, Demo)
    assert isinstance(new, Demo)
    return None if old.root == new.root else "demo.root cannot change while it runs"


async def nothing(_: object) -> None: ...


AGENT = Agent("demo", "demo", Demo, lambda: nothing, lambda _: None, refuse)


class Case:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = CollectorRegistry()
        path.write_text("demo: {period: 1}")
        loaded = config.load(path, {"demo": Demo}, only="demo")
        self.reloader = Reloader(AGENT, {"demo": Demo}, path, loaded, self.registry)

    def write(self, text: str) -> Section | None:
        self.path.write_text(text)
        return self.reloader.look()

    @property
    def current(self) -> float | None:
        return self.registry.get_sample_value("nodeshare_agent_config_current")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "config.yaml")


def test_unchanged_file_is_nothing(case: Case) -> None:
    assert case.reloader.look() is None
    assert case.current == 1


def test_change_is_handed_on_once(case: Case) -> None:
    assert case.write("demo: {period: 2}") == Demo(period=2)
    assert case.reloader.look() is None


def test_comment_is_no_change_and_no_event(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert case.write("# hello\ndemo: {period: 1}") is None
    assert case.current == 1
    assert caplog.records == []


@pytest.mark.loud
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("demo: {perid: 2}", "demo.perid: unknown key"),
        ("demo: {root: /b}", "demo.root cannot change while it runs"),
        ("node: {run_dir: /run/x}\ndemo: {period: 1}", "the node section changed"),
        ("demo: {", "not valid YAML"),
        ("node:", "the demo section is gone"),
    ],
)
def test_refusal_is_said_once_and_healed(
    case: Case, text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert case.write(text) is None
    refused = [record for record in caplog.records if record.msg == "configuration refused"]
    assert len(refused) == 1
    assert reason in refused[0].error  # type: ignore[attr-defined]  # a key of the event
    assert case.current == 0
    assert case.write("demo: {period: 1}") is None
    assert case.current == 1, "the file says again what runs"


@pytest.mark.loud
def test_removed_file_is_a_refusal(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.path.unlink()
    assert case.reloader.look() is None
    assert case.current == 0
    assert "configuration refused" in caplog.text


async def test_replaced_symlink_is_noticed(tmp_path: Path) -> None:
    """A ConfigMap volume: `config.yaml` -> `..data/config.yaml`, and `..data` is renamed over."""
    for name, period in (("v1", 1), ("v2", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"demo: {{period: {period}}}")
    (tmp_path / "..data").symlink_to("v1")
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    loaded = config.load(path, {"demo": Demo}, only="demo")
    reloader = Reloader(AGENT, {"demo": Demo}, path, loaded, CollectorRegistry())
    send, receive = trio.open_memory_channel[Section](1)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reloader.run, send)
            await trio.sleep(0.1)
            (tmp_path / "new").symlink_to("v2")
            (tmp_path / "new").rename(tmp_path / "..data")
            assert await receive.receive() == Demo(period=5)
            nursery.cancel_scope.cancel()
