# SPDX-License-Identifier: Apache-2.0
"""What somebody may choose, and what he chose. Pure; knows no form and no pod.

A choice is one string, `<instance>` or `<instance>/<units>`, which is what the hub stores, what the
form sends and what a client of the hub's API writes. It counts for nothing until it is found among
what this person is offered now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodeshare_hub.settings import Gpu, Instance

#: The name of the field of the form, and the key of the hub's user options.
FORM_FIELD = "nodeshare-instance"
KEY = "instance"


class Refused(Exception):
    """Somebody asked for what he is not offered; the text is for him."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An instance in one size. `units`: of its GPU; 0: it has none."""

    instance: Instance
    units: int = 0

    @property
    def key(self) -> str:
        gpu = self.instance.gpu
        return f"{self.instance.name}/{self.units}" if gpu and len(gpu.sizes) > 1 else self.name

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def gpu(self) -> Gpu | None:
        return self.instance.gpu


def offers(instances: Iterable[Instance], groups: Collection[str]) -> tuple[Offer, ...]:
    """What a member of these groups may choose from, in the order of the settings."""
    return tuple(
        Offer(one, units)
        for one in instances
        if not one.groups or set(one.groups) & set(groups)
        for units in (one.gpu.sizes if one.gpu else (0,))
    )


def default(offered: Sequence[Offer]) -> Offer:
    """What who says nothing gets. Raises Refused when there is nothing to have."""
    if not offered:
        raise Refused(
            "none of the instances of this hub is offered to you: they are for members of groups "
            "that you are not in. Ask whoever runs this hub."
        )
    return next((one for one in offered if one.instance.default), offered[0])


def chosen(options: Any, offered: Sequence[Offer]) -> Offer:
    """The offer that the hub's user options name; the default where they name none. Raises
    Refused.
    """
    found = options.get(KEY) if isinstance(options, Mapping) else None
    if found is None:
        return default(offered)
    for one in offered:
        if one.key == found:
            return one
    default(offered)
    shown = found if isinstance(found, str) and len(found) <= 60 else "what was sent"
    raise Refused(
        f"{shown!r} is not offered to you (any more). Choose one of: "
        + ", ".join(one.key for one in offered)
    )


def from_form(form: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The user options that a form makes; not yet compared with anything."""
    values = form.get(FORM_FIELD) or ()
    return {KEY: values[0]} if values and values[0] else {}
