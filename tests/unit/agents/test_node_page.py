# SPDX-License-Identifier: Apache-2.0
"""The page of all agents, under names and documents of whatever origin, and when agents go."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.agent import Agent, installed
from agents.config import Section
from agents.listeners import Request
from agents.node_page import NodePage, panels_of, source
from agents.page import Source
from tests.fakes.status_documents import HOSTILE, documents, replaced, with_names

AGENTS = installed()
_REQUEST = Request("text/html")


class Shape(HTMLParser):
    """Start tags and their attributes' names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))


def page_of(found: Mapping[str, Mapping[str, Any]]) -> str:
    page = NodePage("n", AGENTS)
    for section, document in found.items():
        page.saw(section, document, "")
    return page.routes()["/"](_REQUEST).body.decode()


def test_everything_of_all_agents_is_there() -> None:
    html = page_of(documents())
    for said in (
        "GPU 0 NVIDIA H100 80GB HBM3",
        "jupyterhub/jupyter-user-001/notebook",
        "over its limit",
        "GPU 3 is lost: it does not answer",
        "mount-006",
        "its client was killed by SIGKILL",
        "What containers see",
        "4 of the node&#x27;s 96",
        "16.0 GiB of the node&#x27;s 512.0 GiB",
        "Compatible root",
    ):
        assert said in html, said
    assert html.index("gpu_plugin") < html.index("fuse_mounter") < html.index("lxcfs_helper")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_documents_make_no_markup(text: str) -> None:
    """Every text of every document is hostile: names, causes, messages, also words of ours."""
    hostile = {name: with_names(document, text) for name, document in documents().items()}
    benign = {name: with_names(document, "w") for name, document in documents().items()}
    found, expected = Shape(page_of(hostile)).tags, Shape(page_of(benign)).tags
    # Notes have as many lines as they have, and what is empty may not be shown.
    assert set(found) <= set(expected)
    assert len(found) <= len(expected) + 4
    assert [tag for tag, _ in found].count("script") == 1


@pytest.mark.parametrize("value", [None, 0, -1, 1e308, True, "", [], {}, ["x"], {"a": 1}])
def test_documents_of_another_version_hide_no_other_agent(value: object) -> None:
    for section in documents():
        found = documents()
        found[section] = replaced(found[section], lambda _: value)
        html = page_of(found)
        others = {"gpu_plugin": "H100", "fuse_mounter": "mount-001", "lxcfs_helper": "stat"}
        assert all(
            said in html for name, said in others.items() if name != section and said != "stat"
        )


#: What another version, or a bug, may have in a place.
_OTHERS: tuple[object, ...] = (
    None,
    True,
    -1,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "word",
    [],
    [None],
    {},
    {"a": 1},
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_whatever_a_document_holds_there_is_a_page(seed: int) -> None:
    dice = random.Random(seed)

    def change(value: object) -> object:
        return dice.choice(_OTHERS) if dice.random() < 0.05 else value

    assert "</html>" in page_of({name: replaced(one, change) for name, one in documents().items()})


def test_any_key_may_be_missing() -> None:
    for section, document in documents().items():
        for key in document:
            found = documents()
            del found[section][key]
            assert "</html>" in page_of(found)


def test_an_agent_that_went_is_shown_as_it_was_with_its_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.chain([1000.0, 1000.0], itertools.repeat(1042.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    page = NodePage("n", AGENTS)
    page.saw("gpu_plugin", documents()["gpu_plugin"], "")
    page.saw("gpu_plugin", None, "not running")
    html = page.routes()["/"](_REQUEST).body.decode()
    assert "not running" in html
    assert "what stands here is 42 s old" in html
    assert "H100" in html
    assert "starting" in html, "of which nothing was seen yet"


def test_a_look_that_does_not_come_is_an_age_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    page = NodePage("n", AGENTS)
    page.saw("fuse_mounter", documents()["fuse_mounter"], "")
    monkeypatch.setattr(time, "monotonic", lambda: 14.0)
    assert "old</" not in page.routes()["/"](_REQUEST).body.decode()
    monkeypatch.setattr(time, "monotonic", lambda: 65.0)
    html = page.routes()["/"](_REQUEST).body.decode()
    assert "what stands here is 1 min old" in html


def test_documents_are_there_as_json_and_more_can_be_shown() -> None:
    page = NodePage("n", AGENTS)
    page.saw("gpu_plugin", {"a": 1}, "")
    answer = page.routes()["/status.json"](_REQUEST)
    assert json.loads(answer.body) == {
        "gpu_plugin": {"a": 1}, "fuse_mounter": None, "lxcfs_helper": None,
    }  # fmt: skip
    page.add(Source("beside", None, []))
    assert "beside" in page.routes()["/"](_REQUEST).body.decode()


def test_a_bug_in_a_panel_is_told_in_its_place() -> None:
    def broken(_: object) -> Any:
        raise KeyError("x")

    agent = Agent(
        "demo", "demo", Section, lambda: pytest.fail("run"), lambda _: None, lambda *_: None,
        panels=broken,
    )  # fmt: skip
    assert panels_of(agent, {})[0].problems == ("its answer cannot be shown (KeyError: 'x')",)
    shown = source(agent, {"ready": True}, age_s=0.0)
    assert (shown.reason, shown.age_s) == (None, None)
