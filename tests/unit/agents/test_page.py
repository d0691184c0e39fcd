# SPDX-License-Identifier: Apache-2.0
"""The node page as markup: nothing in it is made of data, and it can be read without seeing it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest

from agents.page import POLICY, Source, render
from agents.panels import Bar, Event, Fill, Item, Panel, Part, Tone, of_tables
from agents.tables import Table
from tests.fakes.status_documents import HOSTILE

#: What an attribute of this page may hold: words of ours, numbers, and nothing else.
_HARMLESS = re.compile(r"[\w .,:;#%/=+()'·-]*")
_VOID = frozenset({"meta", "link", "rect"})


class Reader(HTMLParser):
    """Elements with their attributes, in order, and the text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.inside = "", ""
        self.constants: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("style", "script"):
            self.constants[self.inside] = data
        else:
            self.text += data

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        return [(tag, list(attributes)) for tag, attributes in self.elements]

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for found, attributes in self.elements if found == tag)


def named(text: str) -> list[Source]:
    """Everything that can be shown, with this text in every place."""
    bar = Bar(10, [Part(Fill.USED, 4), Part(Fill.OVER, 1)], text, [5, 10])
    inner = Item(text, text, Tone.BAD, [(text, text)], bar)
    item = Item(text, text, Tone.GOOD, [(text, text)] * 2, bar, [Event(1.0, text)], [inner] * 2)
    table = Table(text, (text, text), [(text, text)], note="a note")
    panel = Panel(text, [item] * 2, [table], [text], [text], [(Fill.USED, text)])
    return [
        Source(text, text, [panel, panel], [(text, text)], 3.0),
        Source(text, None, of_tables([table])),
    ]


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_no_element_and_no_attribute_comes_of_data(text: str) -> None:
    page = Reader(render(text, text, named(text), 0.0))
    assert page.shape == Reader(render("word", "word", named("word"), 0.0)).shape
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            ours = (tag, name) in {("meta", "content"), ("link", "href")}
            told = name in ("aria-label", "data-of")  # text for people, quoted
            assert ours or told or _HARMLESS.fullmatch(value or ""), (tag, name, value)
    assert all(letter.isprintable() or letter == "\n" for letter in page.text)
    assert len(page.text) < 40_000


def test_what_is_hostile_can_still_be_read() -> None:
    page = Reader(render("n", "w", named("<b>bold</b> & \u202eevil"), 0.0))
    assert "<b>bold</b> & \\u202eevil" in page.text
    labels = [svg["aria-label"] for svg in page.of("svg") if "aria-label" in svg]
    assert set(labels) == {"<b>bold</b> & \\u202eevil"}


def test_only_what_the_policy_names_runs_and_dresses_the_page() -> None:
    page = Reader(render("n", "w", named("word"), 0.0))
    for tag in ("style", "script"):
        digest = hashlib.sha256(page.constants[tag].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in POLICY
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; ")
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not {"src", "srcset", "action"} & attributes.keys()
        assert attributes.get("href", "#") in ("#", "#main", "#s0", "#s1", "status.json", "data:,")


def test_whoever_does_not_see_it_can_read_it() -> None:
    page = Reader(render("n", "w", named("word"), 0.0))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert {"header", "nav", "main", "footer", "caption"} <= {tag for tag, _ in page.elements}
    assert all(th.get("scope") in ("col", "row") for th in page.of("th"))
    for svg in page.of("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "also where things have one name"
    labels = {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a}
    assert labels <= set(ids)


def test_without_a_script_it_loads_itself_again() -> None:
    html = render("n", "w", [], 0.0)
    assert "<noscript><meta http-equiv=refresh content=5></noscript>" in html


def test_bars_stay_within_themselves_whatever_they_are_told() -> None:
    parts = [Part(Fill.USED, 30), Part(Fill.KEPT, 0), Part(Fill.FREE, 5), Part(Fill.OTHER, 1e30)]
    for whole in (0, 0.001, 10, 1e30):
        bars = [Item("x", bar=Bar(whole, parts, "x", [-1, 5, 99]))]
        page = Reader(render("n", "w", [Source("s", None, [Panel("p", bars)])], 0.0))
        for rect in page.of("rect"):
            start, width = int(rect["x"] or 0), int(rect["width"] or 0)
            assert 0 <= start <= start + width <= 1000, (whole, rect)


@pytest.mark.parametrize("at", [1e300, -1e300, float("nan"), float("inf")])
def test_a_time_that_is_none_costs_nothing_else(at: float) -> None:
    items = [Item("x", events=[Event(at, "happened")])]
    assert "happened" in render("n", "w", [Source("s", None, [Panel("p", items)])], 0.0)


def test_age_and_readiness_are_said() -> None:
    sources = [
        Source("fine", None, []),
        Source("waits", "no driver", []),
        Source("gone", "not running", [], age_s=7300.0),
    ]
    text = Reader(render("n", "w", sources, 1.0)).text
    assert "as of 1970-01-01 00:00:01 UTC" in text
    for said in ("ready", "not ready", "no driver", "what stands here is 2 h old"):
        assert said in text


def _colours() -> Iterator[tuple[str, dict[str, str]]]:
    style = files("agents").joinpath("page.css").read_text()
    light, dark = re.findall(r":root\{(.*?)\}", style, re.DOTALL)
    for name, block in (("light", light), ("dark", dark)):
        yield name, dict(re.findall(r"--(\w+):(#\w+)", block))


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 has it."""
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_bars_stand_out_in_light_and_dark() -> None:
    for name, colours in _colours():
        for text in ("ink", "soft", "good", "notice", "bad"):
            for back in ("back", "card"):
                assert _contrast(colours[text], colours[back]) >= 4.5, (name, text, back)
        for part in ("used", "over", "other"):
            assert _contrast(colours[part], colours["free"]) >= 3, (name, part)


def test_nothing_moves() -> None:
    style = files("agents").joinpath("page.css").read_text()
    assert not re.search(r"transition|animation|scroll-behavior|@import|url\(", style)
