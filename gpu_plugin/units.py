# SPDX-License-Identifier: Apache-2.0
"""Unit ids `<UUID>::<n>`: what the kubelet counts, as text and back. Pure; knows no resource.

dcgm-exporter understands this form, so pods are labelled there without code of ours.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from agents.errors import AgentError

SEPARATOR = "::"


def unit_id(uuid: str, number: int) -> str:
    """The id of unit `number` (from 0) of a device."""
    return f"{uuid}{SEPARATOR}{number}"


def unit_ids(uuid: str, units: int) -> Iterator[str]:
    """The ids of all units of a device, in order."""
    prefix = uuid + SEPARATOR
    return (f"{prefix}{number}" for number in range(units))


def group(ids: Iterable[str]) -> dict[str, set[int]]:
    """Unit numbers by device. Raises AgentError for an id of another form."""
    # The hot path, with up to 70,000 ids: one split for each, all else in one go for each device.
    texts: dict[str, list[str]] = {}
    for text in ids:
        uuid, _, number = text.rpartition(SEPARATOR)
        if uuid in texts:
            texts[uuid].append(number)
        else:
            texts[uuid] = [number]
    return {uuid: _numbers(uuid, found) for uuid, found in texts.items()}


def sort_out(ids: Iterable[str], uuids: Iterable[str]) -> dict[str, list[str]]:
    """The ids by device, of these devices: each where alone it can belong. Whether it does, only
    `numbers` tells; so an id of another device may be anywhere.

    For the kubelet's lists of all that is free, of which most numbers never matter.
    """
    # The hot path: up to 70,000 ids in each call. One character of an id, chosen where the UUIDs
    # differ most, costs half of what a piece of the id costs, because Python keeps those ready.
    found: dict[str, list[str]] = {}
    left = [(list(ids), tuple(uuids))]
    while left:
        mine, candidates = left.pop()
        if len(candidates) < 2:
            found |= {uuid: mine for uuid in candidates if mine}
            continue
        place = _telling_place(candidates)
        by_character: dict[str, list[str]] = defaultdict(list)
        try:
            for text in mine:
                by_character[text[place]].append(text)
        except IndexError:
            left.append(([text for text in mine if len(text) > place], candidates))
            continue
        groups: dict[str, list[str]] = {}
        for uuid in candidates:
            groups.setdefault((uuid + SEPARATOR)[place], []).append(uuid)
        left += [(by_character.get(one, []), tuple(group)) for one, group in groups.items()]
    return found


@functools.lru_cache(maxsize=1024)
def _telling_place(uuids: tuple[str, ...]) -> int:
    """The position in ids of these devices at which they differ most; there is one."""
    columns = zip(*(uuid + SEPARATOR for uuid in uuids), strict=False)
    return max(enumerate(columns), key=lambda column: (len(set(column[1])), -column[0]))[0]


def numbers(uuid: str, ids: Iterable[str]) -> set[int]:
    """The numbers of those ids that are of this device. Raises AgentError for one that has its
    UUID, and is no unit.
    """
    prefix = uuid + SEPARATOR
    start = len(prefix)
    texts = [text[start:] for text in ids if text.startswith(prefix)]
    return _numbers(uuid, texts) if texts else set()


def count(ids: Iterable[str]) -> dict[str, int]:
    """How many units of each device; ids of another form are passed over."""
    return {uuid: len(numbers) for uuid, numbers in group(filter(is_ours, ids)).items()}


def ungroup(grouped: Mapping[str, Iterable[int]]) -> tuple[str, ...]:
    """The ids again, in the order of the mapping."""
    return tuple(unit_id(uuid, number) for uuid, numbers in grouped.items() for number in numbers)


def to_ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` for sorted 0, 1, 2, 3, 7: thousands of units in a few bytes."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def from_ranges(text: str) -> list[int]:
    """The numbers again. Raises ValueError for anything else."""
    numbers: list[int] = []
    for part in text.split(",") if text else ():
        low, separator, high = part.partition("-")
        numbers += range(int(low), int(high if separator else low) + 1)
    return numbers


def _numbers(uuid: str, texts: list[str]) -> set[int]:
    digits = "".join(texts)
    if not uuid or "" in texts or not (digits.isascii() and digits.isdigit()):
        wrong = next((text for text in texts if not _is_number(text)), texts[0])
        found = f"{uuid}{SEPARATOR}{wrong}" if uuid else wrong
        raise AgentError(f"{found!r} is not the id of a unit (<UUID>{SEPARATOR}<number>)")
    return set(map(int, texts))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def is_ours(text: str) -> bool:
    uuid, _, number = text.rpartition(SEPARATOR)
    return bool(uuid) and _is_number(number)
