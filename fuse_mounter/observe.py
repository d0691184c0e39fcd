# SPDX-License-Identifier: Apache-2.0
"""From raw facts (mount table, staging directories, the holder's clients, probe results) to an
observation. Pure: `reconciler` collects the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from agents import mountinfo
from agents.holder_client import HeldClient
from agents.mountinfo import MountEntry
from fuse_mounter.drivers.base import SOURCE_PREFIX
from fuse_mounter.observed import Client, Health, Instance, Layer, Observation, Shown, Stack
from fuse_mounter.places import ANCHOR_SOURCE, STAGING_VARIABLE, Places, StagingName

_Table = Mapping[str, Sequence[MountEntry]]


@dataclass(frozen=True, slots=True)
class Facts:
    """`staging`: names of directories. `health`: by those. `paths`: the configured ones.
    `obstacles`: by path.
    """

    table: Sequence[MountEntry]
    staging: Collection[str]
    clients: Sequence[HeldClient]
    health: Mapping[str, Health]
    paths: Collection[str]
    obstacles: Mapping[str, str]


def observe(places: Places, facts: Facts) -> Observation:
    """Everything that is there."""
    table = mountinfo.by_place(facts.table)
    root = _at(table, places.root)
    instances = tuple(_instances(places, facts, table))
    known = {one.shown for one in instances if one.shown is not None}
    paths = set(facts.paths) | set(_anchored(places, facts.table))
    stacks = {
        path: _stack(_at(table, places.root / path), facts, path, known) for path in sorted(paths)
    }
    return Observation(bool(root) and root[-1].shared is not None, stacks, instances)


def shown_by(entry: MountEntry) -> Shown:
    return Shown(entry.device, entry.root, entry.read_only)


def is_anchor(entry: MountEntry) -> bool:
    return entry.fstype == "tmpfs" and entry.source == ANCHOR_SOURCE


def _anchored(places: Places, table: Iterable[MountEntry]) -> Iterable[str]:
    """Paths that some agent has published at, configured now or not."""
    for entry in mountinfo.below(table, places.root):
        if is_anchor(entry) and entry.mount_point != str(places.root):
            yield str(PurePosixPath(entry.mount_point).relative_to(places.root))


def _at(table: _Table, path: Path) -> Sequence[MountEntry]:
    return table.get(str(path), ())


def _stack(
    entries: Sequence[MountEntry], facts: Facts, path: str, known: Collection[Shown]
) -> Stack:
    anchor = entries[0].mount_id if entries and is_anchor(entries[0]) else None
    above = entries[1:] if anchor is not None else entries
    layers = []
    for height, entry in enumerate(above):
        shown = shown_by(entry)
        # What lies directly on an anchor was put there by an agent; the source of a client's mount
        # is its own affair, so only that of our clients can be relied on.
        ours = (
            shown in known
            or entry.source.startswith(SOURCE_PREFIX)
            or (anchor is not None and height == 0)
        )
        layers.append(Layer(entry.mount_id, shown, ours, f"{entry.fstype} {entry.source!r}"))
    return Stack(path, anchor, tuple(layers), facts.obstacles.get(path))


def _instances(places: Places, facts: Facts, table: _Table) -> Iterable[Instance]:
    """From staging directories, and from clients whose directory is gone already."""
    found: dict[str, Instance] = {}
    for text in facts.staging:
        if (name := StagingName.parse(text)) is not None:
            found[text] = Instance(text, name.name, name.digest, name.number)
    for held in facts.clients:
        text = _staging_of(places, held)
        if (name := StagingName.parse(text)) is not None:
            gone = Instance(text, name.name, name.digest, name.number, present=False)
            client = Client(held.key, held.ended)
            found[text] = replace(found.get(text, gone), client=client)
    for text, instance in found.items():
        mounted = _at(table, places.staging / text)
        yield replace(
            instance,
            shown=shown_by(mounted[-1]) if mounted else None,
            health=facts.health.get(text, Health.UNKNOWN),
        )


def _staging_of(places: Places, held: HeldClient) -> str:
    """The staging directory of a client of ours; empty for others, and for other roots."""
    path = Path(held.labels.get(STAGING_VARIABLE, ""))
    return path.name if path.parent == places.staging else ""
