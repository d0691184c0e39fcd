# SPDX-License-Identifier: Apache-2.0
"""The part of the spawn page that asks for an instance, as HTML. Pure; knows no hub and no source.

One radio button for each offer: a choice is one field, and the page works without any script, with
a keyboard, with a screen reader and on a phone. Every text in it may be hostile (names of groups
and titles come from elsewhere) and is escaped here. Colours are the hub's own (Bootstrap), so that
its dark and light themes hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby

from nodeshare_hub.availability import Verdict
from nodeshare_hub.choice import FORM_FIELD, Offer
from nodeshare_hub.settings import Gpu, Instance
from nodeshare_hub.words import size_text

_STYLE = """
#nodeshare-instances fieldset { border: 1px solid var(--bs-border-color, #999);
  border-radius: .5rem; margin: 0 0 1rem; padding: .25rem 1rem .75rem; min-width: 0; }
#nodeshare-instances legend { float: none; width: auto; margin: 0; padding: 0 .4rem;
  font-size: 1.1rem; overflow-wrap: anywhere; }
#nodeshare-instances p { margin: .1rem 0 .5rem; overflow-wrap: anywhere; }
#nodeshare-instances .note { color: var(--bs-secondary-color, inherit); font-size: .9rem; }
#nodeshare-instances label { display: grid; grid-template-columns: 1.6rem 1fr; gap: 0 .25rem;
  align-items: baseline; margin: 0; padding: .45rem .25rem; border-radius: .35rem;
  cursor: pointer; }
#nodeshare-instances label:hover { background: var(--bs-tertiary-bg, rgba(128, 128, 128, .15)); }
#nodeshare-instances input { width: 1.1rem; height: 1.1rem; margin: .2rem 0 0;
  align-self: start; }
#nodeshare-instances input:focus-visible { outline: 3px solid currentColor; outline-offset: 2px; }
#nodeshare-instances label span { overflow-wrap: anywhere; }
#nodeshare-instances .state { grid-column: 2; font-size: .9rem;
  color: var(--bs-secondary-color, inherit); }
#nodeshare-instances .free::before { content: "\\25CF\\00A0"; color: var(--bs-success, #198754); }
#nodeshare-instances .full::before { content: "\\25CB\\00A0"; color: var(--bs-danger, #dc3545); }
#nodeshare-instances .unknown::before { content: "?\\00A0"; }
"""
_EMPTY = (
    '<div id="nodeshare-instances"><p role="alert">None of the instances of this hub is offered to '
    "you: they are for members of groups that you are not in. Ask whoever runs this hub.</p></div>"
)


def form(
    offered: Sequence[Offer], selected: str | None, verdicts: Mapping[str, Verdict | None]
) -> str:
    """`selected` is the key of the offer that is marked at first; None: nothing is. `verdicts` by
    key.
    """
    if not offered:
        return _EMPTY
    parts = [f"<style>{_STYLE}</style>", '<div id="nodeshare-instances">']
    for _, group in groupby(offered, key=lambda one: one.name):
        parts += _fieldset(list(group), selected, verdicts)
    return "\n".join([*parts, "</div>"])


def _fieldset(
    group: list[Offer], selected: str | None, verdicts: Mapping[str, Verdict | None]
) -> Iterator[str]:
    one = group[0].instance
    yield f"<fieldset><legend>{escape(one.title)}</legend>"
    if one.description:
        yield f"<p>{escape(one.description)}</p>"
    if one.groups:
        yield f'<p class="note">For members of {escape(", ".join(one.groups))}.</p>'
    for offer in group:
        yield _radio(offer, offer.key == selected, verdicts.get(offer.key))
    if len(group) > 1 and (same := ", ".join(_machine(one))):
        yield f'<p class="note">Each with {escape(same)}.</p>'
    yield "</fieldset>"


def _radio(offer: Offer, checked: bool, verdict: Verdict | None) -> str:
    mark = " checked" if checked else ""
    gpu = offer.gpu
    what = [_gpu_text(gpu, offer.units)] if gpu else []
    if gpu is None or len(gpu.sizes) == 1:
        what += _machine(offer.instance)
    state = ""
    if verdict is not None:
        state = f' <span class="state {verdict.state.value}">{escape(verdict.text)}</span>'
    text = escape(", ".join(what) or offer.instance.title)
    return (
        f'<label><input type="radio" name="{FORM_FIELD}" value="{escape(offer.key)}"'
        f" required{mark}><span>{text}</span>{state}</label>"
    )


def _machine(one: Instance) -> Iterator[str]:
    """CPUs and memory, as far as the instance has limits of its own."""
    if one.cpu_limit is not None:
        yield f"{one.cpu_limit:g} CPU{'s' if one.cpu_limit != 1 else ''}"
    if one.mem_limit is not None:
        yield f"{_memory_text(one.mem_limit)} of memory"


def _gpu_text(gpu: Gpu, units: int) -> str:
    if gpu.chunk is None:
        return gpu.amount(units)
    text = f"{gpu.amount(units)} of {gpu.unit or 'GPU memory'}"
    limit = gpu.limit(units)
    more = limit is not None and limit > units * gpu.chunk
    return f"{text}, up to {size_text(limit, ' ')} while free" if limit and more else text


def _memory_text(text: str) -> str:
    """KubeSpawner's `8G` are 8 GiB."""
    return f"{text[:-1]} {text[-1]}iB" if text[-1:] in tuple("KMGT") else f"{text} bytes"
