# SPDX-License-Identifier: Apache-2.0
"""The node page in a real browser: of the real demonstration, under hostile names, and when agents
stop. Chromium is driven over its DevTools protocol (`tests.fakes.browser`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents import overview
from agents.agent import installed
from agents.hostfs import HostFs
from agents.listeners import bind_tcp, serving
from agents.node_page import NodePage
from agents.standin.up import clean_up
from tests.fakes.browser import Browser
from tests.fakes.demonstration import Up, all_pods_read_the_file
from tests.fakes.status_documents import HOSTILE, documents, with_names

START_S = 90.0
pytestmark = pytest.mark.timeout(300)
_SHOWN = re.compile(r"all of them +ready +- +(http://[0-9.:]+)")
_SAYS_SO = "document.body.innerText.includes('does not answer: timed out')"
#: What a page does when somebody comes back to it: it asks for itself at once.
_COME_BACK = "document.dispatchEvent(new Event('visibilitychange'))"
#: True when no part of the page is wider than the window.
_FITS = """document.documentElement.scrollWidth <= innerWidth &&
    [...document.querySelectorAll('#page *')].every(e => !e.getClientRects().length
        || e.closest('thead,.unseen') || e.getBoundingClientRect().right <= innerWidth + 0.5)"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A demonstration: the page of all agents, that of each, and their processes."""

    page: str
    pages: dict[str, str]
    pids: dict[str, int]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    # Not below pytest's directory: the name of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nodeshare-") as parent:
        up = Up(Path(parent) / "node", tmp_path_factory.mktemp("page") / "output")
        try:
            up.until(lambda: all_pods_read_the_file(up), START_S)
            yield _shown(up)
            up.stop()
        finally:
            up.process.kill()
            up.process.wait(10)
            clean_up(up.directory, HostFs())


def _shown(up: Up) -> Shown:
    page = _SHOWN.search(up.text())
    assert page is not None
    pages = {section: document["page"] for section, document in up.status().items()}
    pids = {}
    for agent in installed():
        pid = overview.serving_pid(up.directory / f"run/{agent.noun}.sock")
        assert pid is not None
        pids[agent.section] = pid
    return Shown(page[1], pages, pids)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        # Ubuntu has it as a snap alone.
        if "ubuntu" in Path("/etc/os-release").read_text().lower():
            pytest.skip("no chromium: there is no such package here")
        pytest.fail("no chromium: deploy/machine/install-packages test")
    opened = Browser(program, tmp_path_factory.mktemp("browser"))
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_fits_every_screen_and_asks_nobody_else(
    shown: Shown, browser: Browser, dark: bool
) -> None:
    for url in (shown.page, *shown.pages.values()):
        browser.open(url, dark=dark)
        browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
        for width in (320, 768, 1280):
            browser.resize(width, 900)
            assert browser.value(_FITS), (url, width)
        assert browser.said == []
        assert set(browser.asked) - {"data:,"} == {f"{url}/"}
    back = browser.value("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(15, 19, 24)" if dark else "rgb(245, 246, 248)")


def test_all_that_runs_is_on_one_page(shown: Shown, browser: Browser) -> None:
    browser.open(shown.page)
    for said in (
        "GPU 0 Tesla V100-PCIE-32GB",
        "jupyterhub/ada/notebook",
        "8 of 31 units given",
        "published",
        "What containers see",
        "512 MiB of the node's",
        "served by a FUSE client",
    ):
        browser.until(f"document.body.innerText.includes({json.dumps(said)})")
    roles = [
        node["role"]["value"]
        for node in browser.call("Accessibility.getFullAXTree")["nodes"]
        if "role" in node
    ]
    for role in (
        "main",
        "banner",
        "navigation",
        "contentinfo",
        "heading",
        "image",
        "table",
        "list",
    ):
        assert role in roles, (role, sorted(set(roles)))


def test_a_refresh_leaves_everybody_where_they_are(shown: Shown, browser: Browser) -> None:
    browser.open(shown.pages["fuse_mounter"], height=300)
    browser.value("document.querySelector('summary').focus(); scrollTo(0, 90)")
    browser.press("Enter", 13)
    browser.until("document.querySelector('details').open")
    at = browser.value("scrollY")
    assert at > 0
    first = browser.value("document.querySelector('time').textContent")
    browser.until(f"{_COME_BACK} && document.querySelector('time').textContent !== {first!r}")
    assert browser.value("document.activeElement.tagName") == "SUMMARY"
    assert browser.value("document.querySelector('details').open")
    assert browser.value("scrollY") == at
    assert browser.said == []


def test_the_keyboard_is_enough(shown: Shown, browser: Browser) -> None:
    browser.open(shown.page)
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.className") == "skip"
    browser.press("Enter", 13)
    browser.until("document.activeElement.id === 'main'")
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.tagName") == "SUMMARY"
    outline = browser.value("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "one sees where one is"


def test_it_works_without_a_script(shown: Shown, browser: Browser) -> None:
    browser.open(shown.page, script=False)
    assert browser.value("document.body.innerText").count("jupyterhub/ada") >= 2
    deadline = time.monotonic() + 60
    while len([url for url in browser.asked if url.startswith("http")]) < 2:
        assert time.monotonic() < deadline, "it does not load itself again"
        browser.value("1")
        time.sleep(0.2)


def test_an_agent_that_stops_is_said_to_have_stopped(shown: Shown, browser: Browser) -> None:
    browser.open(shown.pages["gpu_plugin"])
    assert browser.value("document.getElementById('gone').hidden")
    with stopped(shown.pids["gpu_plugin"]):
        # What the clock of this page says is what a person waits for.
        browser.value("{ const now = Date.now; Date.now = () => now() + 90_000; }")
        browser.until("!document.getElementById('gone').hidden")
        said = browser.value("document.getElementById('gone').innerText")
        assert re.fullmatch(r"Nobody answers any more\..* [12] min", said.replace("\n", " ")), said
        assert browser.value("document.body.innerText").count("jupyterhub/ada") == 1
        browser.open(shown.page)
        browser.until(f"{_COME_BACK} && {_SAYS_SO}")
        browser.until("/what stands here is \\d+ s old/.test(document.body.innerText)")
        assert browser.value("document.querySelectorAll('section.old').length") == 1
    browser.until(f"{_COME_BACK} && document.querySelectorAll('section.old').length === 0")


def test_hostile_names_do_nothing(browser: Browser) -> None:
    """In every place of every document, through the real listener."""
    page = NodePage("n<i>ode", installed())
    listener = bind_tcp("127.0.0.1", 0, page.routes(), key="k", local_only=True)
    with serving(listener):
        for text in HOSTILE:
            for section, document in documents().items():
                page.saw(section, with_names(document, text), "")
            browser.open(listener.where, width=320)
            assert browser.value(_FITS), text
            assert browser.value("document.querySelectorAll('script').length") == 1, text
            assert browser.value("document.querySelectorAll('img,iframe,i').length") == 0, text
            assert browser.value("document.title") == "n<i>ode · nodeshare"
            assert browser.said == []
            assert set(browser.asked) - {"data:,"} == {f"{listener.where}/"}
