# SPDX-License-Identifier: Apache-2.0
"""The form: what it holds, and that hostile texts stay texts."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from nodeshare_hub.availability import State, Verdict
from nodeshare_hub.choice import FORM_FIELD, Offer, offers
from nodeshare_hub.form import form
from nodeshare_hub.settings import Gpu, Instance, Settings

HOSTILE = """"><script>alert(1)</script><img src=x onerror='alert(2)'>{{ 7*7 }}{% raw %}&lt;b"""
TAGS = {"style", "div", "fieldset", "legend", "p", "label", "input", "span"}


class Parsed(HTMLParser):
    """Tags with their attributes, and all text outside of the style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "input":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def test_one_radio_button_for_each_offer(settings: Settings) -> None:
    offered = offers(settings.instances, ["gpu"])
    page = Parsed(form(offered, "gpu/8", {"gpu/8": Verdict(State.FULL, "no room now")}))
    inputs = [attributes for tag, attributes in page.tags if tag == "input"]
    assert [one["value"] for one in inputs] == [one.key for one in offered]
    assert {one["name"] for one in inputs} == {FORM_FIELD}
    assert [one["value"] for one in inputs if "checked" in one] == ["gpu/8"]
    assert all("required" in one for one in inputs), "the browser asks, without any script"
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("legend") == 3
    for words in ("8 GiB of GPU memory, up to 12 GiB", "no room now", "slice 1g.10gb", "1.5 CPUs"):
        assert words in page.text
    assert "16 GiB of GPU memory, up to 20 GiB" in page.text, "capped"
    assert "Each with 4 CPUs." in page.text


def test_who_is_offered_nothing_reads_why() -> None:
    page = Parsed(form((), None, {}))
    assert "groups that you are not in" in page.text


def test_hostile_names_stay_text() -> None:
    gpu = Gpu("a/b", (1, 2), HOSTILE)
    one = Instance("x", HOSTILE, HOSTILE, groups=(HOSTILE,), gpu=gpu, mem_limit=HOSTILE)
    verdict = Verdict(State.FREE, HOSTILE)
    page = Parsed(form([Offer(one, 1), Offer(one, 2)], HOSTILE, {"x/1": verdict}))
    assert {tag for tag, _ in page.tags} <= TAGS
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    assert page.text.count("<script>") >= 5


@bounded(max_examples=50, deadline=None)
@given(st.text(), st.text(), st.lists(st.text(min_size=1)))
def test_any_text_stays_text(title: str, description: str, groups: list[str]) -> None:
    one = Instance("x", title, description, groups=tuple(groups))
    page = Parsed(form([Offer(one)], None, {}))
    assert {tag for tag, _ in page.tags} <= TAGS
    assert page.open == []
